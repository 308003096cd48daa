"""Ranking quality of one or several record sets, for a README: a table, plain or in Markdown, and a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from harness.analysis.results import AccuracyRow, Analysis
from harness.errors import UserError
from harness.metrics import SELECTION
from harness.report.numbers import counted
from harness.report.section import draw
from harness.report.theme import save

_NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """One data set at one length: label → row; the references of the data set stand in each of its columns.

    Of several splits of the data set it is the one that most seeds were trained on: others do not compare with it.
    """

    study: str
    dataset: str
    length: int
    rows: dict[str, AccuracyRow]

    @property
    def heading(self) -> str:
        """`ml-1m, 50 events, 3 seeds`; with several numbers of seeds the least and the most."""
        seeds = sorted({len(row.seeds) for row in self.rows.values() if row.seeds and not row.is_reference})
        many = counted(seeds[-1], "seed", "seeds")
        return f"{self.dataset}, {self.length:,} events, {many if len(seeds) == 1 else f'{seeds[0]} to {many}'}"


def columns(analyses: Sequence[Analysis]) -> list[Column]:
    """A column a data set and length, in the order of the analyses.

    Raises:
        UserError: No analysis holds a trained model.
    """
    found = []
    for analysis in analyses:
        trained = [row for row in analysis.accuracy if row.length is not None and SELECTION in row.metrics]
        for dataset, length in dict.fromkeys((row.dataset, row.length) for row in trained):
            own = [row for row in analysis.accuracy if row.dataset == dataset and row.length in (None, length)]
            seeds: Counter[str | None] = Counter()
            for row in own:
                seeds[row.split_sha256] += len(row.seeds) if row in trained else 0
            usual = max(seeds, key=lambda split: seeds[split])
            own = [row for row in own if row.split_sha256 == usual]
            found.append(Column(analysis.study.name, dataset, int(length or 0), {row.label: row for row in own}))
    if not found:
        raise UserError(_nothing(analyses))
    return found


def _nothing(analyses: Sequence[Analysis]) -> str:
    """Why there is no table."""
    collapsed = sum(len(row.collapsed_seeds) for analysis in analyses for row in analysis.accuracy)
    if not collapsed:
        return "no trained model among these records; name folders that hold training records"
    return (
        f"{collapsed} training{'' if collapsed == 1 else 's'} among these records, all collapsed: none ranks above "
        "popularity, so there is no mean of them; raise `epochs` or `learning_rate` in the study and sweep again"
    )


def accuracy_markdown(analyses: Sequence[Analysis]) -> str:
    """Test NDCG@10 with 95 % intervals: a row a model, best first by the first column; ends with a newline."""
    heads, *rows = _table(analyses, "**")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def accuracy_table(analyses: Sequence[Analysis]) -> str:
    """The same for the terminal; no newline at the end."""
    table = _table(analyses, "")
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def accuracy_figure(analyses: Sequence[Analysis], path: Path) -> None:
    """The report's figure of accuracy with the data sets of all analyses, each at its longest history.

    A data set of several analyses has a panel for each, with the study's name: they are other recipes.

    Args:
        analyses: Of studies with the same timing partner.
        path: Where to write it; the suffix names the format.

    Raises:
        UserError: No analysis holds a trained model.
    """
    columns(analyses)
    names = [analysis.study.name for analysis in analyses]
    names = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    uses = Counter(name for analysis in analyses for name in {row.dataset for row in analysis.accuracy})
    together: dict[str, Any] = {
        field: [row for analysis in analyses for row in getattr(analysis, field)] for field in ("models", "records")
    }
    together["accuracy"] = [
        msgspec.structs.replace(row, dataset=f"{row.dataset}, {name}") if uses[row.dataset] > 1 else row
        for name, analysis in zip(names, analyses, strict=True)
        for row in analysis.accuracy
    ]
    figure = draw(msgspec.structs.replace(analyses[0], **together), "accuracy")
    if figure is not None:
        save(figure, path)


def _table(analyses: Sequence[Analysis], bold: str) -> list[list[str]]:
    found = columns(analyses)
    heads = [column.heading for column in found]
    # Two recipes on the same data are told apart by their studies.
    heads = [f"{c.study}: {head}" if heads.count(head) > 1 else head for c, head in zip(found, heads, strict=True)]
    labels = dict.fromkeys(label for column in found for label in column.rows)
    partners = {analysis.study.timing_partner for analysis in analyses}

    def place(label: str) -> list[float]:
        return [-_mean(column.rows[label]) if label in column.rows else 1.0 for column in found]

    table = [["test NDCG@10", *heads]]
    for label in sorted(labels, key=place):
        rows = [column.rows.get(label) for column in found]
        first = next(row for row in rows if row is not None)
        name = f"{bold}{label}{bold}" if label in partners else f"{label} (untrained)" if first.is_reference else label
        table.append([name, *(_NOTHING if row is None else _cell(row) for row in rows)])
    return table


def _mean(row: AccuracyRow) -> float:
    """0 where all runs collapsed."""
    return row.metrics[SELECTION].mean if SELECTION in row.metrics else 0.0


def _cell(row: AccuracyRow) -> str:
    lost = len(row.collapsed_seeds)
    if SELECTION not in row.metrics:
        return f"all {lost} collapsed" if lost > 1 else "collapsed"
    interval = row.metrics[SELECTION].interval
    ends = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    apart = f" ({lost} of {lost + len(row.seeds)} collapsed)" if lost else ""
    return f"{_mean(row):.4f}{ends}{apart}"
