"""The syntax of a statement without its spelling."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from harness.records.program.modules import Definition, Module, Modules, Scope, Statement, Target

_SPELLING = frozenset({"ctx", "kind", "simple", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class Written:
    """A statement without its spelling.

    Attributes:
        text: Its syntax, with a mark for every reference.
        references: The statements referred to, in the order of the marks.
        imports: Modules that it loads when it is executed.
    """

    text: str
    references: list[Statement]
    imports: list[str]


class Writer:
    """Writes one statement, keeping track of the scopes it is in."""

    def __init__(self, modules: Modules, module: Module) -> None:
        self._modules, self._module = modules, module
        self._scopes: list[Scope] = []
        self._tokens: list[str] = []
        self._references: list[Statement] = []
        self._imports: list[str] = []
        self._is_followed, self._is_message = True, False

    def inside(self, module: Module) -> Writer:
        """A writer for statements of another module."""
        return Writer(self._modules, module)

    def write(self, node: ast.stmt) -> Written:
        """Write one statement; a writer is used for one."""
        self._node(node)
        return Written("\0".join(self._tokens), self._references, self._imports)

    def targets(self, node: ast.AST) -> list[Target]:
        """What a name, or an attribute of a module, may be; nothing for what is bound locally or is no name."""
        if isinstance(node, ast.Name):
            return self._name_targets(node.id)
        if isinstance(node, ast.Attribute):
            found: list[Target] = []
            for target in self.targets(node.value):
                if isinstance(target, Definition):
                    return []
                more = self._modules.attribute(target, node.attr)
                found += more if isinstance(more, list) else [more]
            return found
        return []

    def _name_targets(self, name: str) -> list[Target]:
        for depth, scope in enumerate(reversed(self._scopes)):
            # A class's own names are seen by its body, not by the functions in it.
            if scope.is_class and depth > 0:
                continue
            if name in scope.outer:
                break
            if name in scope.names:
                if name in scope.assigned:
                    return []
                return [target for binding in scope.names[name] for target in self._modules.imported(binding)]
        return self._modules.lookup(self._module, name)

    def _node(self, node: ast.AST) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.Global() | ast.Nonlocal():
                # Docstrings, and what only the compiler reads.
                pass
            case ast.Constant():
                self._constant(node)
            case ast.JoinedStr():
                self._joined(node)
            case ast.Name() | ast.Attribute():
                self._reference(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                self._function(node)
            case ast.ClassDef():
                self._class(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self._comprehension(node)
            case ast.AnnAssign():
                self._annotated(node)
            case ast.Raise():
                before, self._is_message = self._is_message, True
                self._generic(node)
                self._is_message = before
            case _:
                self._generic(node)

    def _generic(self, node: ast.AST) -> None:
        self._open(node)
        for name, value in ast.iter_fields(node):
            self._field(name, value)
        self._close()

    def _field(self, name: str, value: object) -> None:
        if name in _SPELLING or value is None or value == []:
            return
        self._tokens.append(f"{name}=")
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                self._node(item)
            else:
                self._tokens.append(ascii(item))

    def _open(self, node: ast.AST) -> None:
        self._tokens.append(f"{type(node).__name__}(")

    def _close(self) -> None:
        self._tokens.append(")")

    def _constant(self, node: ast.Constant) -> None:
        if self._is_message and isinstance(node.value, str):
            self._tokens.append("message")
        else:
            self._tokens.append(f"{type(node.value).__name__} {node.value!a}")

    def _joined(self, node: ast.JoinedStr) -> None:
        """Versions of Python cut an f-string into constants differently."""
        text, parts = "", list(node.values)
        if all(isinstance(part, ast.Constant) for part in parts):
            self._constant(ast.Constant("".join(str(part.value) for part in parts if isinstance(part, ast.Constant))))
            return
        self._open(node)
        for part in [*parts, None]:
            if isinstance(part, ast.Constant):
                text += str(part.value)
                continue
            if text and not self._is_message:
                self._tokens.append(f"str {text!a}")
            text = ""
            if part is not None:
                self._node(part)
        self._close()

    def _reference(self, node: ast.Name | ast.Attribute) -> None:
        found = self.targets(node)
        if not found:
            if isinstance(node, ast.Name):
                self._tokens.append(f"name {node.id}")
            else:
                self._generic(node)
            return
        if len(found) > 1:
            self._tokens.append(f"one of {len(found)}")
        for target in found:
            self._target(target)

    def _target(self, target: Target) -> None:
        match target:
            case str():
                self._tokens.append(f"external {target}")
            case Definition():
                self._tokens.append(f"definition {target.name}")
                self._refer([target.statement])
            case Module():
                self._tokens.append(f"module of {len(target.statements)}")
                self._refer(target.statements)

    def _refer(self, statements: Iterable[Statement]) -> None:
        if self._is_followed:
            self._references += statements

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An import inside a statement: what it binds is written where it is used, that it may fail is written here."""
        scope = Scope.of([node], self._module.package)
        self._imports += scope.imports
        assigned = self._scopes[-1].assigned if self._scopes else set()
        for name, bindings in scope.names.items():
            for target in (target for binding in bindings for target in self._modules.imported(binding)):
                if isinstance(target, str):
                    self._tokens.append(f"import {target}")
                elif name in assigned:
                    # Where the name is used it may be something else, and is written as a local one.
                    self._target(target)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self._open(node)
        if not isinstance(node, ast.Lambda):
            self._field("name", node.name)
            self._field("decorator_list", node.decorator_list)
        given = node.args
        self._field("defaults", given.defaults)
        for default in given.kw_defaults:
            self._tokens.append("required") if default is None else self._node(default)
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        scope = Scope.of(body, self._module.package)
        for kind in ("posonlyargs", "args", "vararg", "kwonlyargs", "kwarg"):
            arguments = getattr(given, kind)
            for argument in arguments if isinstance(arguments, list) else [arguments] if arguments else []:
                self._tokens.append(f"{kind} {argument.arg}")
                self._annotation(argument.annotation)
                scope.bind(argument.arg)
        if not isinstance(node, ast.Lambda):
            self._annotation(node.returns)
        self._scopes.append(scope)
        self._field("body", body)
        self._scopes.pop()
        self._close()

    def _annotation(self, node: ast.expr | None) -> None:
        if node is not None:
            before, self._is_followed = self._is_followed, False
            self._tokens.append("annotation")
            self._node(node)
            self._is_followed = before

    def _class(self, node: ast.ClassDef) -> None:
        self._open(node)
        for name in ("name", "decorator_list", "bases", "keywords"):
            self._field(name, getattr(node, name))
        self._scopes.append(Scope.of(node.body, self._module.package, is_class=True))
        self._field("body", node.body)
        self._scopes.pop()
        self._close()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self._open(node)
        first = node.generators[0].iter
        # The first iterable alone belongs to the scope outside.
        self._node(first)
        scope = Scope(self._module.package)
        for generator in node.generators:
            for inner in ast.walk(generator.target):
                if isinstance(inner, ast.Name):
                    scope.bind(inner.id)
        self._scopes.append(scope)
        for generator in node.generators:
            self._tokens.append("async for" if generator.is_async else "for")
            self._node(generator.target)
            if generator.iter is not first:
                self._node(generator.iter)
            self._field("ifs", generator.ifs)
        for name in ("key", "value", "elt"):
            self._field(name, getattr(node, name, None))
        self._scopes.pop()
        self._close()

    def _annotated(self, node: ast.AnnAssign) -> None:
        """Only in a class does an annotation mean something when it is executed: a field."""
        self._open(node)
        self._field("target", node.target)
        if self._scopes and self._scopes[-1].is_class:
            self._field("annotation", node.annotation)
        self._field("value", node.value)
        self._close()
