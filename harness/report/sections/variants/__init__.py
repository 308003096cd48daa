"""Variants of one model trained side by side: what a change of it, or tuning, does to its ranking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.results import AccuracyRow, Analysis
from harness.metrics import SELECTION
from harness.report.drawing import looks_of, panels, rows_inches, rows_of_intervals
from harness.report.numbers import exact
from harness.report.section import Section
from harness.study.training import Budget


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
    own = training.budgets.get(label, Budget()).of_each_training()
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


def variants(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 of the variants of a model by what sets them apart, at the longest history; None without any.

    Filled: who leads on the validation events of its model.
    """
    tables = _longest(analysis)
    if not tables:
        return None
    looks = looks_of(analysis)
    most = max(len(table["rows"]) for table in tables)
    figure, axes = panels(len(tables), rows_inches(most), columns=1)
    for one, table in zip(axes, tables, strict=True):
        rows = [
            (row["label"], f"{row['label']} ◂" if row["first"] else row["label"], row["test"], row["interval"])
            for row in table["rows"]
        ]
        found = pd.DataFrame(
            [(label, name, test, *(ends or (None, None))) for label, name, test, ends in rows],
            columns=["label", "name", "value", "low", "high"],
        )
        rows_of_intervals(one, found, looks)
        one.set_xlabel("test NDCG@10 (0 to 1)")
        words = f"{table['dataset']}, histories of {table['length']:,}" if table["length"] else table["dataset"]
        one.set_title(words, wrap=True)
    return figure


def see(analysis: Analysis) -> str:
    """What choosing by validation changes, for the first model."""
    tables = _longest(analysis)
    return str(tables[0]["sentences"][0]) if tables else ""


def _longest(analysis: Analysis) -> list[dict[str, Any]]:
    """Each data set once, with the longest history that has variants."""
    found: dict[str, dict[str, Any]] = {}
    for table in data(analysis)["tables"]:
        if table["dataset"] not in found or (table["length"] or 0) > (found[table["dataset"]]["length"] or 0):
            found[table["dataset"]] = table
    return list(found.values())


SECTION = Section(
    order=62,
    page="why",
    lacks="No model was trained in several variants, so nothing is said about what sets them apart.",
    figures={"variants": variants},
    see={"variants": see},
    data=data,
)
