"""Which top-level statements do more than bind a name when their module is loaded."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable

from harness.records.program.modules import Definition, is_main, is_type_checking
from harness.records.program.syntax import Writer

# Called when a module is loaded, these only make a value.
_VALUES = """
    abs bool bytes complex dict enumerate float frozenset int len list map max min object range repr reversed round
    set slice sorted str sum tuple type zip
    collections.Counter collections.OrderedDict collections.defaultdict collections.deque collections.namedtuple
    contextvars.ContextVar dataclasses.field datetime.timedelta decimal.Decimal enum.auto fractions.Fraction
    functools.partial math.log math.log2 math.sqrt msgspec.Meta msgspec.field msgspec.json.Decoder
    msgspec.json.Encoder numpy.arange numpy.array numpy.dtype numpy.linspace numpy.log2 operator.attrgetter
    operator.itemgetter os.environ.get pathlib.Path re.compile threading.Lock threading.local torch.device
    types.MappingProxyType typing.NewType typing.ParamSpec typing.TypeVar typing.cast typing.get_args
"""
_DECORATORS = """
    classmethod property staticmethod
    abc.abstractmethod contextlib.asynccontextmanager contextlib.contextmanager dataclasses.dataclass functools.cache
    functools.cached_property functools.lru_cache functools.total_ordering functools.wraps
    torch.autograd.function.once_differentiable torch.inference_mode torch.no_grad triton.autotune triton.heuristics
    triton.jit typing.final typing.overload typing.override typing.runtime_checkable
    models.base.register models.base.register_reference
"""
_PURE, _PURE_DECORATORS = frozenset(_VALUES.split()), frozenset(_DECORATORS.split())
_ACCESSORS = frozenset({"deleter", "getter", "setter"})
_CONSTRUCTORS = frozenset({"__init__", "__init_subclass__", "__new__", "__post_init__"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def has_effect(node: ast.stmt, writer: Writer) -> bool:
    """Whether loading a module does more by this statement than binding a name to a value."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            defaults = [d for d in [*node.args.defaults, *node.args.kw_defaults] if d is not None]
            return any(not _is_pure_decorator(d, writer) for d in node.decorator_list) or _any_impure(defaults, writer)
        case ast.ClassDef():
            return (
                any(not _is_pure_decorator(d, writer) for d in node.decorator_list)
                or _any_impure([*node.bases, *(k.value for k in node.keywords)], writer)
                or any(has_effect(inner, writer) for inner in node.body)
                or any(_defines(base, {"__init_subclass__"}, writer) for base in node.bases)
            )
        case ast.Assign():
            return not all(map(_is_name, node.targets)) or _any_impure([node.value], writer)
        case ast.AnnAssign():
            return not _is_name(node.target) or (node.value is not None and _any_impure([node.value], writer))
        case ast.If():
            if is_type_checking(node) or is_main(node):
                return False
            return _any_impure([node.test], writer) or any(has_effect(n, writer) for n in [*node.body, *node.orelse])
        case ast.Try():
            bodies = [*node.body, *node.orelse, *node.finalbody, *(n for h in node.handlers for n in h.body)]
            return any(has_effect(inner, writer) for inner in bodies)
        case _:
            return True


def _is_name(target: ast.expr) -> bool:
    if isinstance(target, (ast.Tuple, ast.List)):
        return all(map(_is_name, target.elts))
    return isinstance(target, ast.Name)


def _is_pure_decorator(node: ast.expr, writer: Writer) -> bool:
    if isinstance(node, ast.Call):
        arguments = [*node.args, *(k.value for k in node.keywords)]
        return _is_pure_decorator(node.func, writer) and not _any_impure(arguments, writer)
    if isinstance(node, ast.Attribute) and node.attr in _ACCESSORS:
        return True
    return bool(_names(node, writer) & _PURE_DECORATORS)


def _any_impure(nodes: Iterable[ast.expr], writer: Writer) -> bool:
    return any(not _is_pure(node, writer) for node in nodes)


def _is_pure(node: ast.AST, writer: Writer) -> bool:
    """Whether evaluating an expression calls nothing but what makes a value."""
    if isinstance(node, ast.Lambda):
        return True
    if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)):
        return False
    if isinstance(node, ast.Call) and not _is_pure_function(node.func, writer):
        return False
    return all(_is_pure(child, writer) for child in ast.iter_child_nodes(node))


def _is_pure_function(node: ast.expr, writer: Writer) -> bool:
    if _names(node, writer) & _PURE:
        return True
    # A method of a value just made: `Path(__file__).resolve()`, `" ".join(…)`.
    if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Call, ast.Constant, ast.JoinedStr)):
        return _is_pure(node.value, writer)
    # A plain class of the project, such as a frozen dataclass.
    found = writer.targets(node)
    if any(not isinstance(t, Definition) or not isinstance(t.statement.node, ast.ClassDef) for t in found):
        return False
    return bool(found) and not _defines(node, _CONSTRUCTORS, writer)


def _names(node: ast.expr, writer: Writer) -> set[str]:
    """Dotted names of what an expression refers to; a builtin's own."""
    found = writer.targets(node)
    if not found:
        return {node.id} if isinstance(node, ast.Name) else set()
    names = {t if isinstance(t, str) else t.name for t in found if not isinstance(t, Definition)}
    return names | {f"{t.statement.module.name}.{t.name}" for t in found if isinstance(t, Definition)}


def _defines(node: ast.expr, methods: Collection[str], writer: Writer) -> bool:
    """Whether a class of the project, or one that it derives from, defines one of some methods."""
    for target in writer.targets(node):
        if isinstance(target, Definition) and isinstance(target.statement.node, ast.ClassDef):
            found = target.statement.node
            if any(isinstance(inner, _FUNCTIONS) and inner.name in methods for inner in found.body):
                return True
            place = writer.inside(target.statement.module)
            if any(_defines(base, methods, place) for base in found.bases):
                return True
    return False
