"""Which models exist, found without importing any: file names, entry points, and their source.

A study is checked and expanded on machines without torch, so names, families and options are
read from the source text; a model is imported only to be built.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from models.options import Added, Heads, Option, Range, Rule

if TYPE_CHECKING:
    from models.base import Scorer, SequenceModel

ENTRY_POINT_GROUP = "hyenarec_bench.models"
_NOT_MODELS = {"__init__", "base", "counts", "layers", "options", "registry", "stack", "streaming"}
_MARKS: dict[str, type[Rule] | type[Added]] = {"Range": Range, "Heads": Heads, "Added": Added}
_BASE_FIELDS = {"num_items", "max_length"}


class RegistryError(Exception):
    """A model's source, or a package's entry point, that breaks the rules of registration: whose, which, the remedy."""


@dataclass(frozen=True)
class Entry:
    """One registered name, as far as its source tells."""

    name: str
    module: str
    path: Path
    reference: bool
    distribution: str | None = None

    @property
    def origin(self) -> str:
        """`built in`, or the package that brings it."""
        return "built in" if self.distribution is None else f"of package '{self.distribution}'"


@cache
def entries() -> dict[str, Entry]:
    """All registered models and references by name.

    Raises:
        RegistryError: An installed package names a module that is not there or registers no such
            name, or takes a name that is in use.
    """
    found: dict[str, Entry] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _NOT_MODELS and not path.stem.startswith("_"):
            name = path.stem.replace("_", "-")
            found[name] = Entry(name, f"models.{path.stem}", path, _is_reference(path))
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        distribution = point.dist.name if point.dist is not None else None
        whose = f"package '{distribution}', entry point '{point.name} = {point.value}'"
        remedy = "correct its entry point and install it again, or uninstall it"
        if (other := found.get(point.name)) is not None:
            raise RegistryError(f"{whose}: '{point.name}' is {other.origin} already; choose another name, or uninstall")
        source = source_of(point.module)
        if source is None:
            raise RegistryError(f"{whose}: there is no source of a module '{point.module}'; {remedy}")
        if point.name not in (registered := _registered(source)):
            names = ", ".join(registered) or "nothing"
            raise RegistryError(f"{whose}: {source} registers {names}, which must be the entry point's name; {remedy}")
        found[point.name] = Entry(point.name, point.module, source, _is_reference(source), distribution)
    return found


# An analysis asks for every label again and again, and a source is searched whole.
@cache
def family(name: str) -> str | None:
    """Family of a registered name, read without importing it; None for an unknown name or one not written plainly."""
    entry = entries().get(name)
    if entry is None:
        return None
    if entry.reference:
        return "reference"
    for call in _registrations(entry.path):
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Constant) and first.value == name:
            for keyword in call.keywords:
                if keyword.arg == "family" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return None


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing it or a package around it; None without one."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin is not None and spec.has_location else None
    for folder in spec.submodule_search_locations or []:
        base = Path(folder, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def names(*, reference: bool | None = None) -> list[str]:
    """Registered names; with `reference`, only the untrained (True) or trained (False) ones."""
    return [n for n, e in sorted(entries().items()) if reference is None or e.reference == reference]


def options(name: str) -> dict[str, Option]:
    """A model's options with defaults, the shared ones (`hidden_size` …) included."""
    shared = _config_fields(Path(__file__).parent / "base.py", "ModelConfig")
    own = _config_fields(entries()[name].path, None)
    return {k: v for k, v in {**shared, **own}.items() if k not in _BASE_FIELDS}


def load(name: str) -> type[SequenceModel] | type[Scorer]:
    """Import and return the class registered under `name`.

    Raises:
        KeyError: No such name.
        RegistryError: The module registers no class under that name, or a package's cannot be imported.
    """
    entry = entries()[name]
    try:
        module = importlib.import_module(entry.module)
    except Exception as error:
        # Foreign code may raise anything; our own is a fault of ours.
        if entry.distribution is None:
            raise
        raise RegistryError(
            f"model '{name}' {entry.origin} cannot be imported ({type(error).__name__}: {error}); fix or uninstall it"
        ) from error
    for value in vars(module).values():
        if isinstance(value, type) and value.__dict__.get("NAME") == name:
            return value
    raise RegistryError(f"{entry.path} registers no class as '{name}', which its name promises; register it so")


@cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} cannot be parsed ({error}); fix or delete the file") from error


def _registrations(path: Path) -> list[ast.Call]:
    functions = {"register", "register_reference"}
    calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).rpartition(".")[2] in functions]


def _registered(path: Path) -> list[str]:
    """Names that a source registers, as literals."""
    first = [call.args[0] for call in _registrations(path) if call.args]
    return [node.value for node in first if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _is_reference(path: Path) -> bool:
    return any(ast.unparse(call.func).endswith("register_reference") for call in _registrations(path))


@cache
def _config_fields(path: Path, class_name: str | None) -> dict[str, Option]:
    fields: dict[str, Option] = {}
    for node in _tree(path).body:
        if not isinstance(node, ast.ClassDef):
            continue
        is_config = node.name == class_name or (
            class_name is None
            and any(
                isinstance(b, (ast.Name, ast.Attribute)) and ast.unparse(b).endswith("ModelConfig") for b in node.bases
            )
        )
        if is_config:
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    fields[item.target.id] = _option(item, path)
    return fields


def _option(item: ast.AnnAssign, path: Path) -> Option:
    try:
        if item.value is None and ast.unparse(item.target) not in _BASE_FIELDS:
            raise ValueError("no default")
        annotation, marks = item.annotation, []
        if _is(annotation, "Annotated"):
            annotation, *marks = _members(annotation)
        legal = tuple(ast.literal_eval(m) for m in _members(annotation)) if _is(annotation, "Literal") else None
        default = ast.literal_eval(item.value) if item.value is not None else None
        found = [_mark(mark) for mark in marks]
    except (ValueError, TypeError) as error:
        raise RegistryError(
            f"{path}, line {item.lineno}: '{ast.unparse(item)}' cannot be read without importing the model; write its "
            f"default, what Literal lists and what {', '.join(_MARKS)} take as plain values"
        ) from error
    rules = tuple(mark for mark in found if isinstance(mark, Rule))
    return Option(default, ast.unparse(annotation), legal, rules, added=Added() in found)


def _is(annotation: ast.expr, name: str) -> TypeGuard[ast.Subscript]:
    return isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).rpartition(".")[2] == name


def _members(annotation: ast.expr) -> list[ast.expr]:
    inside = annotation.slice if isinstance(annotation, ast.Subscript) else annotation
    return inside.elts if isinstance(inside, ast.Tuple) else [inside]


def _mark(node: ast.expr) -> Rule | Added:
    name = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
    if not isinstance(node, ast.Call) or name not in _MARKS:
        raise ValueError(f"not one of {', '.join(_MARKS)}")
    keywords = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    return _MARKS[name](*map(ast.literal_eval, node.args), **keywords)
