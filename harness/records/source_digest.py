"""sha256 over the sources that a cell executes, so that a record tells when it is out of date. Imports no torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from harness.records.environment import ROOT
from models import registry

_PROJECT = ("harness", "models")


def cell_digest(spec: dict[str, object]) -> str:
    """Source digest of one cell, from its resolved spec.

    Follows the child's own module and the models it builds.

    Raises:
        KeyError: A model of the spec is not registered here.
    """
    roots = ["harness.measure.speed.cell" if spec["kind"] == "speed" else "harness.measure.training.cell"]
    plugins = set()
    for side in ("model", "partner"):
        model = spec.get(side)
        if isinstance(model, dict):
            entry = registry.entries()[model["name"]]
            roots.append(entry.module)
            if entry.distribution is not None:
                plugins.add((entry.distribution, entry.module.split(".")[0]))
    return source_digest(roots, sorted(plugins))


def source_digest(modules: Iterable[str], plugins: Iterable[tuple[str, str]] = ()) -> str:
    """sha256 over the sources that a cell executes, and only those.

    Args:
        modules: Roots, such as `harness.measure.speed.cell` and `models.sasrec`; what they import from
            this project or from their plugin is followed, also inside functions, and so is the C++
            of a module, the file of the same name.
        plugins: Installed packages that bring some of the roots, by distribution and top-level
            module; their versions count too.
    """
    digest, names = hashlib.sha256(), set(_PROJECT)
    for distribution, top in plugins:
        digest.update(f"{distribution} {metadata.version(distribution)}\0".encode())
        names |= _modules_of(distribution, top)
    for name, path in sorted(closure(modules, names).items()):
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def closure(modules: Iterable[str], names: Iterable[str] = _PROJECT) -> dict[str, Path]:
    """Modules, the packages they lie in and what they import, as far as it lies under some top-level names.

    Returns:
        Files by dotted names, which are the same wherever something is installed; C++ with `.cpp` after it.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    queue, names = list(modules), frozenset(names)
    while queue:
        module = queue.pop()
        if module in seen or module.split(".")[0] not in names:
            continue
        seen.add(module)
        if (parent := module.rpartition(".")[0]) != "":
            queue.append(parent)
        path = _source(module)
        if path is None:
            continue
        found[module] = path
        if (native := path.with_suffix(".cpp")).is_file():
            found[f"{module}.cpp"] = native
        queue += _imports(path, module, path.stat().st_mtime_ns)
    return found


def _source(module: str) -> Path | None:
    if module.split(".")[0] not in _PROJECT:
        return registry.source_of(module)
    base = ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _modules_of(distribution: str, top: str) -> set[str]:
    """Top-level modules of an installed package: those it lists or, installed in place, those that lie beside `top`."""
    listed = {file.parts[0].removesuffix(".py") for file in metadata.files(distribution) or () if file.suffix == ".py"}
    source = registry.source_of(top)
    if top in listed or source is None:
        return {top, *listed}
    folder = source.parent.parent if source.name == "__init__.py" else source.parent
    return {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}


# Parsing takes a third of a second a cell, which adds up where cells take seconds.
@functools.lru_cache(maxsize=1024)
def _imports(path: Path, module: str, changed: int) -> list[str]:
    """What a file imports, or may: of `from a import b` also `a.b`."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            if node.level:
                source = importlib.util.resolve_name(source, package)
            found.append(source)
            found += [f"{source}.{alias.name}" for alias in node.names]
    return found
