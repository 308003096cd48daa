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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.base import Scorer, SequenceModel

ENTRY_POINT_GROUP = "hyenarec_bench.models"
_NOT_MODELS = {"__init__", "base", "registry", "stack"}
_BASE_FIELDS = {"num_items", "max_length"}


@dataclass(frozen=True)
class Option:
    """One option of a model: its default and, where the annotation lists them, its legal values."""

    default: Any
    legal: tuple[Any, ...] | None
    type_name: str


@dataclass(frozen=True)
class Entry:
    """One registered name, as far as its source tells."""

    name: str
    module: str
    path: Path
    reference: bool
    distribution: str | None = None


@cache
def entries() -> dict[str, Entry]:
    """All registered models and references by name."""
    found: dict[str, Entry] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _NOT_MODELS and not path.stem.startswith("_"):
            name = path.stem.replace("_", "-")
            found[name] = Entry(name, f"models.{path.stem}", path, _is_reference(path))
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            continue
        path = Path(spec.origin)
        distribution = point.dist.name if point.dist is not None else None
        found[point.name] = Entry(point.name, point.module, path, _is_reference(path), distribution)
    return found


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
        ImportError: The module holds no class registered under that name.
    """
    module = importlib.import_module(entries()[name].module)
    for value in vars(module).values():
        if isinstance(value, type) and value.__dict__.get("NAME") == name:
            return value
    raise ImportError(f"{module.__name__} registers no class named '{name}'")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _is_reference(path: Path) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register_reference"
        for node in ast.walk(_tree(path))
    )


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
                    fields[item.target.id] = _option(item)
    return fields


def _option(item: ast.AnnAssign) -> Option:
    legal: tuple[Any, ...] | None = None
    annotation = item.annotation
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        members = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        legal = tuple(ast.literal_eval(m) for m in members)
    default = ast.literal_eval(item.value) if item.value is not None else None
    return Option(default, legal, ast.unparse(annotation))
