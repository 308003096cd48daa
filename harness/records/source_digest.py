"""sha256 over what a cell executes, so that a record tells when it is out of date. Imports no torch.

What counts is said in harness/records/program/reach.py. Here is where a cell begins: with what its child process does
and with the classes of its models. Of a table of alternatives only what the spec asks for counts. So a
record stays fresh when a comment, a docstring, a module's name, or another model, loss, metric or data set changes.

What else decides the numbers stands in fields of the record: the spec, the environment and the allocator's settings,
and checksums of the data and of the split.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import msgspec

from harness.data.sources import cache_folder
from harness.records.environment import ROOT
from harness.records.program.modules import Modules, Statement
from harness.records.program.reach import Program, Reached
from harness.records.schema import write_atomic
from harness.records.spec import CellSpec, SpeedSpec
from models import registry

PACKAGES = ("harness", "models")
# What a child process does, and the tables of which a spec chooses entries.
CHILD = "harness.run.child.run"
MEASURES = "harness.run.child.MEASURES"
OBSERVERS = "harness.run.child.OBSERVERS"
LOSSES = ("harness.measure.losses.LOSSES", "harness.study.loss.DEFAULTS")
SPLITS = "harness.data.splits.SPLITS"
_MEASURES_OF = {"speed": ("time", "memory"), "training": ("training",)}
_REGISTERS = ("register", "register_reference")

# A distribution and the top-level module by which it brings models.
Plugin = tuple[str, str]


@dataclass(frozen=True)
class Executed:
    """The fields of a cell's spec that decide what it executes; equal ones have one digest.

    Attributes:
        kind: `speed` or `training`.
        models: Registered names of the models that are built.
        loss: Loss of a training cell, where `declared` may be any; None for speed cells and references.
        split: Split of a training cell; None for speed cells.
    """

    kind: str
    models: tuple[str, ...]
    loss: str | None
    split: str | None

    @classmethod
    def of(cls, spec: CellSpec) -> Executed:
        """The fields of a resolved spec."""
        if isinstance(spec, SpeedSpec):
            return cls("speed", tuple(dict.fromkeys((spec.model.name, spec.partner.name))), None, None)
        return cls("training", (spec.model.name,), None if spec.loss is None else spec.loss.name, spec.split)


def cell_digest(spec: CellSpec) -> str:
    """Source digest of one cell, from its resolved spec.

    Raises:
        KeyError: A model of the spec is not registered here.
    """
    executed = Executed.of(spec)
    entries = [registry.entries()[name] for name in executed.models]
    plugins = {(e.distribution, e.module.split(".")[0]) for e in entries if e.distribution is not None}
    if plugins:
        return _sources(frozenset(plugins)).cell_digest(executed)
    return _kept().cell_digest(executed)


def source_digest(names: Iterable[str]) -> str:
    """sha256 over what some parts of this project execute.

    Args:
        names: Dotted names of definitions, or of modules and packages, which count whole.

    Raises:
        LookupError: There is nothing of such a name.
    """
    return _sources(frozenset()).digest(names)


class Sources:
    """The sources of this project and of the packages that bring models, as they are at one moment.

    Args:
        root: The folder that holds the project's packages.
        plugins: Installed packages that count too, with their versions.
    """

    def __init__(self, root: Path, plugins: Collection[Plugin] = ()) -> None:
        names = {*PACKAGES, *(name for plugin in plugins for name in _modules_of(*plugin))}
        self.program = Program(Modules(names, lambda module: _source(root, module)))
        self.versions = [f"{name} {metadata.version(name)}" for name, _ in sorted(plugins)]
        self._root = root
        self._digests: dict[Executed, str] = {}

    def is_current(self) -> bool:
        """Whether what was read is still what is there."""
        return self.program.modules.are_current()

    def cell_digest(self, executed: Executed) -> str:
        """Digest of the cells that execute this."""
        if executed not in self._digests:
            self._digests[executed] = self._with_versions(self.reach(executed))
        return self._digests[executed]

    def digest(self, names: Iterable[str]) -> str:
        """Digest of definitions, modules and packages."""
        return self._with_versions(self.program.reach([s for name in names for s in self._statements(name)]))

    def reach(self, executed: Executed) -> Reached:
        """All that such a cell executes."""
        split = () if executed.split is None else (executed.split,)
        chosen: dict[str, Collection[str]] = {MEASURES: _MEASURES_OF[executed.kind], OBSERVERS: (), SPLITS: split}
        if executed.loss != "declared":
            chosen |= dict.fromkeys(LOSSES, () if executed.loss is None else (executed.loss,))
        classes = [s for name in executed.models for s in self._registered(name)]
        return self.program.reach([*self.program.definitions(CHILD), *classes], chosen)

    def _registered(self, name: str) -> list[Statement]:
        """What registers a model in its module; imported at run time, so it must be named here."""
        module = self.program.modules.get(registry.entries()[name].module)
        return [] if module is None else [s for s in module.statements if _registers(s.node, name)]

    def _statements(self, name: str) -> list[Statement]:
        module = self.program.modules.get(name)
        if module is None:
            return self.program.definitions(name)
        if module.path.name != "__init__.py":
            return module.statements
        files = sorted(path.relative_to(self._root) for path in module.path.parent.rglob("*.py"))
        inside = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files]
        found = [self.program.modules.get(each) for each in inside]
        return [statement for each in found if each is not None for statement in each.statements]

    def _with_versions(self, reached: Reached) -> str:
        return hashlib.sha256("\n".join([reached.digest(), *self.versions]).encode()).hexdigest()


class _Kept:
    """Digests of this project's own cells, kept on disk under a checksum of all that they could depend on.

    To follow what a cell executes takes half a second, which every job of a workflow would pay anew; to read all
    sources takes a few milliseconds.
    """

    def __init__(self) -> None:
        self._stamps, self._looked = _stamps(), time.monotonic()
        content = hashlib.sha256()
        for path, (_, size) in self._stamps.items():
            content.update(f"{path.relative_to(ROOT)}\0{size}\0".encode())
            with contextlib.suppress(OSError):
                content.update(path.read_bytes())
        self._file = cache_folder() / "digests" / f"{content.hexdigest()[:32]}.json"
        # What was written to while it was read is not what the checksum says.
        self._is_whole = self._stamps == _stamps()
        self._digests = self._read() if self._is_whole else {}

    def is_current(self) -> bool:
        """Whether the files are still as they were read; looked at a few times a second, for thousands of records."""
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            return self._is_whole and self._stamps == _stamps()
        return self._is_whole

    def cell_digest(self, executed: Executed) -> str:
        """Digest of the cells that execute this."""
        key = repr(executed)
        if key not in self._digests:
            found = _sources(frozenset()).cell_digest(executed)
            # It was parsed later than it was read for the checksum.
            if not self._is_whole or self._stamps != _stamps():
                return found
            self._digests[key] = found
            # Beside it another process may have kept others; nothing is lost but their time. Without room for it, none.
            with contextlib.suppress(OSError):
                write_atomic(self._file, msgspec.json.encode({**self._read(), **self._digests}))
                self._prune()
        return self._digests[key]

    def _read(self) -> dict[str, str]:
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=dict[str, str])
        except (OSError, ValueError):
            return {}
        return {key: digest for key, digest in found.items() if re.fullmatch("[0-9a-f]{64}", digest)}

    def _prune(self) -> None:
        """Every edit leaves a file; the newest are kept."""
        files = sorted(self._file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for old in files[:-_KEPT_FILES]:
            old.unlink(missing_ok=True)


def _stamps() -> dict[Path, tuple[int, int]]:
    """Modules of the project and native sources of its models, in order, with what tells that one was written to."""
    found = {}
    for package in PACKAGES:
        # Links are followed, as when a module is imported.
        for folder, inner, names in os.walk(ROOT / package, followlinks=True):
            inner[:] = [name for name in inner if name != "__pycache__"]
            for name in names:
                path = Path(folder, name)
                # An editor's lock is a link to nowhere, and a file may go while it is looked at.
                with contextlib.suppress(OSError):
                    if path.suffix in _SOURCES and not name.startswith("."):
                        status = path.stat()
                        found[path] = status.st_mtime_ns, status.st_size
    return dict(sorted(found.items()))


# Modules, and what is compiled beside one.
_SOURCES = {".py", ".cpp"}
_KEPT_FILES = 20
_LOOK_SECONDS = 0.2
_last: list[_Kept] = []


def _kept() -> _Kept:
    if not _last or not _last[0].is_current():
        _last[:] = [_Kept()]
    return _last[0]


_current: dict[frozenset[Plugin], Sources] = {}


def _sources(plugins: frozenset[Plugin]) -> Sources:
    # Parsing takes a second, which adds up where cells take seconds.
    if plugins not in _current or not _current[plugins].is_current():
        _current[plugins] = Sources(ROOT, plugins)
    return _current[plugins]


def _registers(node: ast.stmt, name: str) -> bool:
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and call.args]
    return any(
        ast.unparse(call.func).rpartition(".")[2] in _REGISTERS
        and isinstance(first := call.args[0], ast.Constant)
        and first.value == name
        for call in calls
    )


def _source(root: Path, module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return registry.source_of(module)
    base = root.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _modules_of(distribution: str, top: str) -> set[str]:
    """Top-level modules of an installed package: those it lists or, installed in place, those that lie beside `top`."""
    listed = {file.parts[0].removesuffix(".py") for file in metadata.files(distribution) or () if file.suffix == ".py"}
    source = registry.source_of(top)
    if top in listed or source is None:
        return {top, *listed}
    folder = source.parent.parent if source.name == "__init__.py" else source.parent
    return {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
