"""What is registered, with the numbers only a built model knows."""

from __future__ import annotations

from typing import Any

from models import registry
from models.base import Scorer

_NUM_ITEMS, _MAX_LENGTH = 10_000, 200


def inventory() -> list[dict[str, Any]]:
    """One row per registered name; parameters at 10,000 items, length 200 and default options."""
    rows: list[dict[str, Any]] = []
    for name, entry in sorted(registry.entries().items()):
        cls = registry.load(name)
        row: dict[str, Any] = {
            "name": name,
            "family": cls.FAMILY,
            "causal": cls.CAUSAL,
            "citation": cls.CITATION,
            "parameters": 0,
            "options": {} if entry.reference else {k: o.default for k, o in registry.options(name).items()},
            "from": entry.distribution or "built in",
        }
        if not issubclass(cls, Scorer):
            model = cls(cls.CONFIG(num_items=_NUM_ITEMS, max_length=_MAX_LENGTH))
            row["parameters"] = sum(p.numel() for p in model.parameters())
        rows.append(row)
    return rows
