"""What is registered, with the numbers only a built model knows."""

from __future__ import annotations

from typing import Any

from models import registry
from models.base import Scorer

NUM_ITEMS, MAX_LENGTH = 10_000, 200


def inventory(unusable: list[str]) -> list[dict[str, Any]]:
    """One row per registered name that can be imported.

    Args:
        unusable: Filled with a line for each of the others.

    Returns:
        `name`, `family`, `causal`, `citation`, `objective` (null for references), `parameters` (at
        10,000 items, length 200 and default options; 0 for references), `options` with their
        defaults, and `from`: `built in` or the distribution that brings it.
    """
    rows: list[dict[str, Any]] = []
    for name, entry in sorted(registry.entries().items()):
        try:
            cls = registry.load(name)
        except (Exception, SystemExit) as error:
            # A file being written must not hide the models of all others.
            unusable.append(cannot_be_imported(name, error))
            continue
        row: dict[str, Any] = {
            "name": name,
            "family": cls.FAMILY,
            "causal": cls.CAUSAL,
            "citation": cls.CITATION,
            "objective": None,
            "parameters": 0,
            "options": {} if entry.reference else {k: o.default for k, o in registry.options(name).items()},
            "from": entry.distribution or "built in",
        }
        if not issubclass(cls, Scorer):
            model = cls(cls.CONFIG(num_items=NUM_ITEMS, max_length=MAX_LENGTH))
            row["parameters"] = sum(p.numel() for p in model.parameters())
            row["objective"] = model.objective().batch
        rows.append(row)
    return rows


def cannot_be_imported(name: str, error: BaseException) -> str:
    """What is wrong with a model's module, in one line."""
    entry = registry.entries()[name]
    words = str(error) if isinstance(error, registry.RegistryError) else f"{type(error).__name__}: {error}"
    return f"model '{name}' ({entry.path}) cannot be imported: {words}; correct the file, or install what it needs"


def table(rows: list[dict[str, Any]]) -> str:
    """The inventory for the terminal, a line per model."""
    width = max(len(row["name"]) for row in rows)
    lines = []
    for row in rows:
        causal = "causal" if row["causal"] else "non-causal"
        lines.append(
            f"{row['name']:{width}}  {row['family']:11}  {causal:10}  {row['objective'] or '-':11}  "
            f"{row['parameters']:>9,}  {row['citation']}"
        )
    return "\n".join([*lines, f"Parameters at {NUM_ITEMS:,} items, length {MAX_LENGTH} and default options."])
