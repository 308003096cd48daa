"""The modules of a project, parsed: which statement binds which name, and what a name may mean."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

Find = Callable[[str], Path | None]
# When a file was changed, and its size; None where there is none.
Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Import:
    """What a name is bound to by an import: a module, or an attribute of one."""

    module: str
    attribute: str | None


@dataclass(eq=False)
class Module:
    """A parsed file.

    Attributes:
        name: Dotted name.
        path: Its file.
        statements: All top-level statements but imports.
        bindings: Name → what binds it, in the order of the file.
        imports: Modules that may be loaded with it: of `from a import b` also `a.b`.
        stars: Modules whose names it takes over whole.
    """

    name: str
    path: Path
    statements: list[Statement] = field(default_factory=list)
    bindings: dict[str, list[Statement | Import]] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Statement:
    """A top-level statement of a module."""

    module: Module
    node: ast.stmt

    @property
    def native(self) -> Path | None:
        """The C++ source beside its module, of the same name."""
        path = self.module.path.with_suffix(".cpp")
        return path if path.is_file() else None


@dataclass(frozen=True)
class Definition:
    """A name and a statement that binds it."""

    name: str
    statement: Statement


# A string is the dotted name of something outside the project.
Target = Definition | Module | str


class Modules:
    """The modules of a project as they are at one moment, each parsed when first asked for.

    Args:
        packages: Top-level names that belong to the project; all others are external.
        find: The file of a dotted name, or None.
    """

    def __init__(self, packages: Iterable[str], find: Find) -> None:
        self._packages = frozenset(packages)
        self._find = find
        self._modules: dict[str, Module | None] = {}
        self._stamps: dict[Path, Stamp] = {}

    def are_current(self) -> bool:
        """Whether no file that was read has changed since."""
        return all(_stamp(path) == stamp for path, stamp in self._stamps.items())

    def get(self, name: str) -> Module | None:
        """A module of the project; None where there is none of that name."""
        if name not in self._modules:
            path = self._find(name) if name.split(".")[0] in self._packages else None
            if path is not None:
                for file in (path, path.with_suffix(".cpp")):
                    self._stamps[file] = _stamp(file)
            self._modules[name] = None if path is None else _parse(name, path, self._stamps[path])
        return self._modules[name]

    def lookup(self, module: Module, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> list[Target]:
        """What a global name of a module may be; nothing where no statement binds it."""
        if (module.name, name) in seen:
            return []
        seen |= {(module.name, name)}
        found: list[Target] = []
        for binding in module.bindings.get(name, []):
            if isinstance(binding, Statement):
                found.append(Definition(name, binding))
            else:
                found += self.imported(binding, seen)
        if not found and (submodule := self.get(f"{module.name}.{name}")) is not None:
            found.append(submodule)
        if not found:
            for star in module.stars:
                if (source := self.get(star)) is not None:
                    found += self.lookup(source, name, seen)
        return found

    def imported(self, binding: Import, seen: frozenset[tuple[str, str]] = frozenset()) -> list[Target]:
        """What an import binds."""
        module = self.get(binding.module)
        if binding.attribute is None:
            return [binding.module if module is None else module]
        name = f"{binding.module}.{binding.attribute}"
        if module is None:
            return [self.get(name) or name]
        return self.lookup(module, binding.attribute, seen) or [name]

    def attribute(self, target: Module | str, name: str) -> Target | list[Target]:
        """What an attribute of a module may be."""
        if isinstance(target, Module):
            return self.lookup(target, name) or f"{target.name}.{name}"
        return self.get(f"{target}.{name}") or f"{target}.{name}"


def _stamp(path: Path) -> Stamp:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=1024)
def _parse(name: str, path: Path, stamp: Stamp) -> Module:
    module = Module(name, path)
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        scope = Scope.of([node], module.package)
        statement = Statement(module, node)
        is_import = isinstance(node, (ast.Import, ast.ImportFrom))
        if not is_import:
            module.statements.append(statement)
        for bound, imports in scope.names.items():
            module.bindings.setdefault(bound, []).extend(imports)
            # An import under a condition depends on the statement that holds it.
            if bound in scope.assigned or not (is_import or is_type_checking(node)):
                module.bindings[bound].append(statement)
        for bound in _globals_of(node):
            module.bindings.setdefault(bound, []).append(statement)
        if not is_type_checking(node):
            module.imports += scope.imports
            module.stars += scope.stars
    return module


def _globals_of(node: ast.stmt) -> set[str]:
    return {name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names}


def is_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether a statement is there for type checkers alone."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"


def is_main(node: ast.stmt) -> bool:
    """Whether a statement is executed only where its module is the program."""
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


class Scope:
    """The names that a function, a class body or a module binds.

    Attributes:
        names: Name → the imports that bind it; none for one that is only assigned.
        assigned: Those that something other than an import binds.
        outer: Names declared `global`.
        is_class: Whether functions inside cannot see them.
        imports: Modules that may be loaded.
        stars: Those whose names are all taken over.
    """

    def __init__(self, package: str, *, is_class: bool = False) -> None:
        self._package = package
        self.names: dict[str, list[Import]] = {}
        self.assigned: set[str] = set()
        self.outer: set[str] = set()
        self.is_class = is_class
        self.imports: list[str] = []
        self.stars: list[str] = []

    @classmethod
    def of(cls, body: Iterable[ast.AST], package: str, *, is_class: bool = False) -> Scope:
        """The scope of a body; scopes inside it are not entered."""
        scope = cls(package, is_class=is_class)
        free: set[str] = set()
        for node in body:
            scope._collect(node, free)
        for name in free | scope.outer:
            scope.names.pop(name, None)
        return scope

    def bind(self, name: str) -> None:
        """Bind a name by something other than an import."""
        self.names.setdefault(name, [])
        self.assigned.add(name)

    def _collect(self, node: ast.AST, free: set[str]) -> None:
        match node:
            case ast.Import():
                self._import(node)
            case ast.ImportFrom():
                self._import_from(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self.bind(node.name)
                # A class body is executed with the statement, so what it imports is loaded with it.
                if isinstance(node, ast.ClassDef):
                    self.imports += Scope.of(node.body, self._package).imports
                return
            case ast.Lambda():
                return
            case ast.Global():
                self.outer.update(node.names)
            case ast.Nonlocal():
                free.update(node.names)
            case ast.Name(ctx=ast.Store() | ast.Del()):
                self.bind(node.id)
            case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
                if node.name is not None:
                    self.bind(node.name)
            case ast.MatchMapping():
                if node.rest is not None:
                    self.bind(node.rest)
        if isinstance(node, COMPREHENSIONS):
            for inner in ast.walk(node):
                if isinstance(inner, ast.NamedExpr) and isinstance(inner.target, ast.Name):
                    self.bind(inner.target.id)
            return
        if is_type_checking(node):
            # Its names are bound for annotations; nothing is loaded.
            inside = Scope.of(node.body, self._package)
            self.assigned |= inside.assigned
            for name, imports in inside.names.items():
                self.names.setdefault(name, []).extend(imports)
            return
        for child in ast.iter_child_nodes(node):
            self._collect(child, free)

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            top = alias.name.split(".")[0]
            self.names.setdefault(alias.asname or top, []).append(Import(alias.name if alias.asname else top, None))
            self.imports.append(alias.name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        source = _source(node, self._package)
        self.imports.append(source)
        for alias in node.names:
            if alias.name == "*":
                self.stars.append(source)
                continue
            self.names.setdefault(alias.asname or alias.name, []).append(Import(source, alias.name))
            self.imports.append(f"{source}.{alias.name}")


def _source(node: ast.ImportFrom, package: str) -> str:
    source = "." * node.level + (node.module or "")
    return importlib.util.resolve_name(source, package) if node.level else source
