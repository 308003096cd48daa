"""Variants of one model trained side by side: what a change of it, or tuning, does to its ranking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from harness.analysis.results import AccuracyRow, Analysis
from harness.metrics import SELECTION
from harness.report.numbers import exact
from harness.report.section import Section


def data(analysis: Analysis) -> dict[str, Any]:
    """A table a data set and length: variants by model, best validation first, and what sets each apart."""
    trained = [r for r in analysis.accuracy if not r.is_reference and SELECTION in r.metrics]
    places = dict.fromkeys((r.dataset, r.length) for r in trained)
    tables = [_table(analysis, [r for r in trained if (r.dataset, r.length) == place]) for place in places]
    return {"tables": [table for table in tables if table["rows"]]}


def _table(analysis: Analysis, rows: Sequence[AccuracyRow]) -> dict[str, Any]:
    models: dict[str, list[AccuracyRow]] = {}
    for row in rows:
        models.setdefault(row.name, []).append(row)
    several = {name: own for name, own in models.items() if len(own) > 1}
    return {
        "dataset": rows[0].dataset,
        "length": rows[0].length,
        "rows": [entry for own in several.values() for entry in _entries(analysis, own)],
        "sentences": [_sentence(name, own) for name, own in several.items()],
    }


def _entries(analysis: Analysis, rows: Sequence[AccuracyRow]) -> Iterator[dict[str, Any]]:
    settings = {row.label: _settings(analysis, row.label) for row in rows}
    differing = _differing(settings.values())
    for place, row in enumerate(sorted(rows, key=_order)):
        own = settings[row.label]
        yield {
            "label": row.label,
            "first": place == 0,
            "differs": ", ".join(f"{name} {_shown(own[name])}" for name in differing if name in own) or "as given",
            "validation": row.validation_ndcg10,
            "test": row.metrics[SELECTION].mean,
            "interval": row.metrics[SELECTION].interval,
            "seeds": len(row.seeds),
        }


def _settings(analysis: Analysis, label: str) -> dict[str, Any]:
    """Options of a label and what it is trained with of its own."""
    options = next((dict(row.options) for row in analysis.models if row.label == label), {})
    training = analysis.study.training
    if training is None:
        return options
    budget = training.budgets.get(label)
    own = {} if budget is None else {k: v for k, v in msgspec.structs.asdict(budget).items() if v is not None}
    return {**options, **{name: getattr(training, name) for name in _BUDGET}, **own}


_BUDGET = ("learning_rate", "weight_decay", "epochs")


def _differing(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    found = list(settings)
    names = dict.fromkeys(name for own in found for name in own)
    return [name for name in names if len({repr(own.get(name)) for own in found}) > 1]


def _shown(value: Any) -> str:
    return exact(value) if isinstance(value, float) else str(value)


def _order(row: AccuracyRow) -> float:
    return -(row.validation_ndcg10 or 0.0)


def _sentence(name: str, rows: Sequence[AccuracyRow]) -> str:
    """What choosing by validation changes on the test events."""
    best, *_, last = sorted(rows, key=_order)
    gain = best.metrics[SELECTION].mean - last.metrics[SELECTION].mean
    return (
        f"{name}: {best.label} leads on validation; on the test events it has {best.metrics[SELECTION].mean:.4f}, "
        f"{gain:+.4f} to {last.label}, the last on validation."
    )


SECTION = Section(order=85, data=data)
