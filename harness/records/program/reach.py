"""What some definitions of a project execute, and a digest of its meaning.

A node is a top-level statement of a module. It leads to the statements that bind the names it uses, wherever these are
imported from. Two spellings of one meaning have one digest: comments, docstrings, formatting, positions, the names of
modules and of import aliases, and the wording of error messages are left out. The text that is hashed is our own, since
that of `ast.dump` differs between versions of Python.

What is executed when a module is loaded counts by its effects: every loaded module gives its top-level statements but
those that only bind a name (harness/records/program/effects.py); these count where the name is used.

More than is executed counts where that cannot be told apart: all statements that bind a name, all methods of a class,
and the whole of a module that is passed around as a value. Not seen are names that are put together at run time
(`getattr(module, name)`, `importlib.import_module`): whoever calls `Program.reach` gives what they lead to as a root.
Annotations of functions are written but not followed, since they are not executed; those in a class are, since
dataclasses and msgspec read them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.records.program.effects import has_effect
from harness.records.program.modules import Definition, Module, Modules, Statement
from harness.records.program.syntax import Writer, Written

Chosen = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Reached:
    """What some roots execute.

    Attributes:
        roots: Where it began.
        written: Every statement reached, the effects of loaded modules among them.
        modules: Every module loaded, by name.
    """

    roots: list[Statement]
    written: dict[Statement, Written]
    modules: dict[str, Module]

    def digest(self) -> str:
        """sha256 over the meaning of all statements reached and the bytes of the native sources beside them.

        A reference means what it leads to, in a graph with cycles. So each statement is coloured by its own text, and
        again and again by its colour and the colours of what it refers to, in order, until that tells no more
        statements apart (Weisfeiler and Leman).
        """
        colours = {statement: _sha256(written.text) for statement, written in self.written.items()}
        classes = 0
        while (count := len(set(colours.values()))) != classes:
            classes = count
            colours = {
                statement: _sha256(" ".join([colours[statement], *(colours[r] for r in written.references)]))
                for statement, written in self.written.items()
            }
        natives = {path for statement in self.written if (path := statement.native) is not None}
        parts = [" ".join(colours[s] for s in self.roots), " ".join(sorted(colours.values()))]
        parts += sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in natives)
        return _sha256("\n".join(parts))


class Program:
    """A project's modules, and what is reached in them. See the module's docstring for what that means.

    Args:
        modules: The modules as they are now.
    """

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self._written: dict[Statement, Written] = {}
        self._effects: dict[Module, list[Statement]] = {}

    def definitions(self, name: str) -> list[Statement]:
        """The statements that bind a dotted name, such as `harness.errors.UserError`.

        Raises:
            LookupError: Nothing binds it.
        """
        place, _, attribute = name.rpartition(".")
        module = self.modules.get(place)
        targets = [] if module is None else self.modules.lookup(module, attribute)
        found = [target.statement for target in targets if isinstance(target, Definition)]
        if not found:
            raise LookupError(f"nothing binds '{name}'")
        return found

    def reach(self, roots: Iterable[Statement], chosen: Chosen | None = None) -> Reached:
        """Follow all that some statements execute.

        Args:
            roots: Where to begin.
            chosen: Dotted name of a table, which is a dict display with strings as keys → those of its
                entries that are used; the others do not count.

        Raises:
            LookupError: There is no such table.
            ValueError: It is something else than such a display.
        """
        entries = {s: frozenset(keys) for name, keys in (chosen or {}).items() for s in self.definitions(name)}
        begin = list(roots)
        waiting = list(begin)
        reached = Reached(begin, {}, {})
        while waiting:
            statement = waiting.pop()
            if statement in reached.written:
                continue
            written = self._write(statement, entries.get(statement))
            reached.written[statement] = written
            waiting += written.references
            for module in self._load([statement.module.name, *written.imports], reached.modules):
                waiting += self._effects_of(module)
        return reached

    def _write(self, statement: Statement, entries: frozenset[str] | None) -> Written:
        if entries is not None:
            return Writer(self.modules, statement.module).write(_with_entries(statement.node, entries))
        if statement not in self._written:
            self._written[statement] = Writer(self.modules, statement.module).write(statement.node)
        return self._written[statement]

    def _load(self, names: Iterable[str], loaded: dict[str, Module]) -> Iterator[Module]:
        """Those modules that are not loaded yet, the packages around them, and all that they import."""
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in loaded or (module := self.modules.get(name)) is None:
                continue
            loaded[name] = module
            yield module
            parts = name.split(".")
            waiting += [".".join(parts[:count]) for count in range(1, len(parts))]
            waiting += module.imports

    def _effects_of(self, module: Module) -> list[Statement]:
        if module not in self._effects:
            writer = Writer(self.modules, module)
            self._effects[module] = [s for s in module.statements if has_effect(s.node, writer)]
        return self._effects[module]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _with_entries(node: ast.stmt, entries: frozenset[str]) -> ast.stmt:
    if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, ast.Dict):
        raise ValueError(f"not a table with strings as keys: {ast.unparse(node)}")
    kept = ast.Dict(keys=[], values=[])
    for key, value in zip(node.value.keys, node.value.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise ValueError(f"not a table with strings as keys: {ast.unparse(node)}")
        if key.value in entries:
            kept.keys.append(key)
            kept.values.append(value)
    return ast.Assign(targets=node.targets if isinstance(node, ast.Assign) else [node.target], value=kept)
