"""What several figures share: panels, curves with intervals, labels at line ends, censored marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from harness.analysis.results import Analysis, Row
from harness.report.theme import INK, MUTED, NARROW_INCHES, TEXT_WIDTH_INCHES, Style, log_axis, styles

DIRECT_LABELS = 6
_LINE_INCHES = 0.135
CENSORED = {"oom": "OOM", "timeout": "time-out"}

# A longer label is written with its middle left out; the tables have it in full.
LONGEST_NAME = 30

# Label → the last point of its line, in data units.
Ends = dict[str, tuple[float, float]]


def panels(count: int, height: float, *, columns: int | None = None, narrow: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, `height` inches each; three or more in two columns.

    It is as wide as the text, or `narrow`, for two figures side by side.
    """
    columns = columns or (2 if count > 2 else 1)
    rows = -(-count // columns)
    engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(NARROW_INCHES if narrow else TEXT_WIDTH_INCHES, rows * height), layout=engine)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    return figure, axes


def looks_of(analysis: Analysis) -> dict[str, Style]:
    """The style of every label of a report, in the study's order: the same in all its figures and tables."""
    references = {row.label for row in analysis.models if row.family == "reference"}
    labels = [row.label for row in analysis.models] + [row.label for row in analysis.records]
    return styles(labels, analysis.study.timing_partner, references)


def present(looks: Mapping[str, Style], labels: Iterable[str]) -> list[str]:
    """The given labels without doubles, in the study's order."""
    found = set(labels)
    return [label for label in looks if label in found]


def shown(label: str) -> str:
    """A label as figures write it: its two ends where it is longer than `LONGEST_NAME` characters."""
    half = LONGEST_NAME // 2
    return label if len(label) <= LONGEST_NAME else f"{label[:half]}…{label[1 - half :]}"


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows of an analysis as a table, a column a field."""
    return pd.DataFrame([msgspec.structs.asdict(row) for row in rows])


def points(
    rows: pd.DataFrame,
    x: str,
    y: str,
    *,
    interval: str | None = None,
    samples: str | None = None,
    factor: float | pd.Series[float] = 1.0,
) -> pd.DataFrame:
    """What `curves` draws.

    Args:
        rows: Rows of an analysis with a `label`.
        x: Column of the lengths.
        y: Column of the means.
        interval: Column of their 95 % intervals.
        samples: Column of lists with the values of single processes.
        factor: Puts means, intervals and samples into the unit of the axis.

    Returns:
        Columns `label`, `x`, `y`, `low`, `high` (not a number without an interval) and `samples`.
    """
    factors = pd.Series(factor, index=rows.index, dtype=float)
    unknown = (np.nan, np.nan)
    ends = [unknown if ends is None else ends for ends in rows[interval]] if interval else [unknown] * len(rows)
    values = list(rows[samples]) if samples else [[]] * len(rows)
    return pd.DataFrame(
        {
            "label": rows["label"],
            "x": rows[x],
            "y": rows[y] * factors,
            "low": [low for low, _ in ends] * factors,
            "high": [high for _, high in ends] * factors,
            "samples": [[v * f for v in own] for own, f in zip(values, factors, strict=True)],
        }
    )


def look_of_hues(looks: Mapping[str, Style], order: Sequence[str], axes: Axes) -> dict[str, Any]:
    """Arguments for a plot of seaborn that colours by the column `label`, drawn in the order given."""
    palette = {label: looks[label].colour for label in order}
    return {"hue": "label", "hue_order": list(order), "palette": palette, "legend": False, "ax": axes}


def marks(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, looks: Mapping[str, Style], order: Sequence[str], **how: Any
) -> None:
    """A marker a row, in the colour and the shape of its label; `how` goes on to seaborn's scatter plot."""
    markers = {label: looks[label].marker for label in order}
    sns.scatterplot(rows, x=x, y=y, style="label", markers=markers, **look_of_hues(looks, order, axes), **how)


def curves(axes: Axes, found: pd.DataFrame, looks: Mapping[str, Style], lines: pd.DataFrame | None = None) -> Ends:
    """Every label of a panel: markers at the means, a band for the intervals, a dot per process, and a line.

    The bands are the analysis's own intervals; seaborn estimates nothing here.

    Args:
        axes: Where to draw.
        found: What `points` gives.
        looks: Styles; the emphasised label is drawn last.
        lines: Columns `label`, `x`, `y`: the lines; None joins the means.

    Returns:
        Label → its last point, for `name_lines`.
    """
    shown = set(found["label"])
    order = sorted((label for label in looks if label in shown), key=lambda label: looks[label].emphasis)
    hues = look_of_hues(looks, order, axes)
    ends: Ends = {}
    for label in order:
        own = found[found["label"] == label]
        ends[label] = (float(own["x"].iloc[-1]), float(own["y"].iloc[-1]))
        known = own.dropna(subset=["low", "high"])
        if len(known):
            colour = looks[label].colour
            axes.fill_between(known["x"], known["low"], known["high"], color=colour, alpha=0.16, linewidth=0, zorder=2)
    single = found.explode("samples").dropna(subset=["samples"]).astype({"samples": float})
    if len(single):
        sns.scatterplot(single, x="x", y="samples", s=4, alpha=0.45, linewidth=0, zorder=3, **hues)
    sns.lineplot(
        found if lines is None else lines,
        x="x",
        y="y",
        estimator=None,
        size="label",
        sizes={label: looks[label].width for label in order},
        zorder=4,
        **hues,
    )
    for emphasis in (False, True):
        some = found[[looks[label].emphasis is emphasis for label in found["label"]]]
        if len(some):
            edge = {"edgecolor": "white", "linewidth": 0.6}
            marks(axes, some, "x", "y", looks, order, s=27 if emphasis else 21, zorder=5 + emphasis, **edge)
    return {label: ends[label] for label in looks if label in ends}


def widen(axes: Axes, lengths: Sequence[int]) -> None:
    """Leave a little room on both sides of logarithmic lengths, and more around a single one."""
    factor = 1.18 if len(set(lengths)) > 1 else 2.0
    axes.set_xlim(min(lengths) / factor, max(lengths) * factor)


def headroom(axes: Axes, fraction: float) -> None:
    """Free the top `fraction` of a logarithmic y axis from data."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, low * (high / low) ** (1 / (1 - fraction)))


def lost_cells(analysis: Analysis, sweep: str) -> dict[str, list[tuple[int, str]]]:
    """Label → (length, status) of the speed cells of a sweep that ended in OOM or time-out."""
    lost: dict[str, list[tuple[int, str]]] = {}
    for cell in analysis.censored:
        if cell.kind == "speed" and cell.where == sweep and cell.length is not None:
            lost.setdefault(cell.label, []).append((cell.length, cell.status))
    return lost


def censored_marks(
    axes: Axes, lost: Mapping[str, Sequence[tuple[int, str]]], looks: Mapping[str, Style]
) -> dict[str, float]:
    """Mark the lengths at which a model ran out of memory or time, one row a model, at the top.

    Args:
        axes: Axes with its final x limits and a logarithmic y axis.
        lost: Label → (length, status) of censored cells.
        looks: Styles.

    Returns:
        Label → height of its row, as a fraction of the axes.
    """
    if not lost:
        return {}
    step = _LINE_INCHES / _height(axes)
    headroom(axes, step * (len(lost) + 0.6))
    transform = blended_transform_factory(axes.transData, axes.transAxes)
    rows = {}
    for place, (label, points) in enumerate(lost.items()):
        row = rows[label] = 1 - step * (place + 0.5)
        colour = looks[label].colour
        lengths = sorted({length for length, _ in points})
        axes.plot(
            lengths, [row] * len(lengths), "x", color=colour, markersize=4.5, markeredgewidth=1.4, transform=transform
        )
        words = " / ".join(sorted({CENSORED[status] for _, status in points}))
        axes.annotate(
            words,
            (lengths[0], row),
            xycoords=transform,
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            fontsize=6.5,
        )
    return rows


def end_labels(axes: Axes, ends: Ends, looks: Mapping[str, Style], rows: Mapping[str, float]) -> None:
    """Write each model's name right of its line, moved apart where they would overlap.

    Args:
        axes: Axes with its final limits.
        ends: Label → its last point, in data units.
        looks: Styles.
        rows: Label → height of its row of censored marks, which its name then stands beside.
    """
    scale = axes.transAxes.inverted()
    wanted = {
        label: rows[label] if label in rows else float(scale.transform(axes.transData.transform(end))[1])
        for label, end in ends.items()
    }
    wanted.update({label: row for label, row in rows.items() if label not in wanted})
    edge = max((x for x, _ in ends.values()), default=0.0)
    for label, (x, _) in ends.items():
        if x < edge and label not in rows:
            start = float(scale.transform(axes.transData.transform((x, 1.0)))[0])
            axes.plot(
                [start, 1.0],
                [wanted[label]] * 2,
                linestyle=(0, (1, 3)),
                transform=axes.transAxes,
                color=looks[label].colour,
                linewidth=0.8,
            )
    placed = _apart(wanted, _LINE_INCHES / _height(axes))
    for label, height in placed.items():
        axes.plot(
            [1.0, 1.015],
            [wanted[label], height],
            transform=axes.transAxes,
            color=looks[label].colour,
            linewidth=0.6,
            clip_on=False,
        )
        axes.text(
            1.022,
            height,
            shown(label),
            transform=axes.transAxes,
            va="center",
            color=looks[label].colour,
            fontweight="bold" if looks[label].emphasis else "normal",
            fontsize=7,
        )


def legend(figure: Figure, labels: Sequence[str], looks: Mapping[str, Style]) -> None:
    """One legend above all panels."""
    handles = [
        Line2D([], [], color=looks[n].colour, marker=looks[n].marker, linewidth=looks[n].width, markeredgecolor="white")
        for n in labels
    ]
    # As many columns as the longest name leaves room for.
    inches = 0.053 * max((len(shown(label)) for label in labels), default=0) + 0.42
    most = max(1, min(6, int((float(figure.get_size_inches()[0]) - 0.1) // inches)))
    box = figure.legend(
        handles,
        [f"label {n}" for n in range(len(labels))],
        loc="outside upper left",
        columnspacing=1.3,
        ncols=-(-len(labels) // -(-len(labels) // most)),
    )
    # A label that starts with an underscore would be left out if it were given at once.
    for text, label in zip(box.get_texts(), labels, strict=True):
        text.set_text(shown(label))


def name_lines(
    figure: Figure,
    axes: Sequence[Axes],
    labels: Sequence[str],
    looks: Mapping[str, Style],
    ends: Sequence[Ends],
    rows: Sequence[Mapping[str, float]],
) -> None:
    """Names at the line ends where few lines stand in wide panels, else one legend."""
    wide = all(one.get_subplotspec().get_gridspec().ncols == 1 for one in axes)  # type: ignore[union-attr]
    if not wide or len(labels) > DIRECT_LABELS or any(len(label) > LONGEST_NAME for label in labels):
        legend(figure, labels, looks)
        return
    for one, end, row in zip(axes, ends, rows, strict=True):
        end_labels(one, end, looks, row)


def rows_inches(rows: int) -> float:
    """Height of a panel of so many rows: closer where there are many, so that a page holds another figure too."""
    return max(1.35, (0.2 if rows <= 8 else 0.155) * rows + 1.0)


def intervals_of(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """What `rows_of_intervals` draws, of columns `KIND`, `KIND low` and `KIND high`."""
    named = rows.rename(columns={kind: "value", f"{kind} low": "low", f"{kind} high": "high"})
    return named[["label", "name", "value", "low", "high"]]


def rows_of_intervals(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, Style], *, named: bool = True) -> None:
    """A row an estimate, from the top down: a marker at the estimate and a bar over its 95 % interval.

    The intervals are the analysis's own; seaborn estimates nothing here.

    Args:
        axes: Where to draw.
        rows: Columns `label`, `name` (written at the row), `value`, `low` and `high`. A row without a value stays
            empty, an interval without an end goes on to the edge of the axes.
        looks: Styles by label.
        named: Whether the names are written, or stand at the axes to the left.
    """
    height = len(rows)
    placed = rows.assign(y=range(height - 1, -1, -1)).astype({"value": float, "low": float, "high": float})
    known = placed.dropna(subset=["value"])
    labels = present(looks, known["label"])
    if len(known):
        marks(axes, known, "value", "y", looks, labels, s=34, edgecolor="white", linewidth=0.6, zorder=3)
    spans = known.dropna(subset=["low", "high"], how="all")
    closed = spans[["low", "high"]].notna().all(axis=1)
    # Open ends last: the limits come from the markers and the closed intervals.
    for part in (spans[closed], spans[~closed]):
        edges = axes.get_xlim()
        filled = part.fillna({"low": edges[0], "high": edges[1]})
        for label, *ends in zip(filled["label"], filled["low"], filled["high"], filled["y"], strict=True):
            low, high, y = map(float, ends)
            width = 2.4 if looks[label].emphasis else 1.7
            axes.plot([low, high], [y, y], "-", color=looks[label].colour, linewidth=width, alpha=0.75)
    if not closed.all():
        axes.set_xlim(edges)
    axes.set_ylim(-0.6, height - 0.4)
    axes.set_yticks(range(height), [shown(name) if named else "" for name in reversed(list(rows["name"]))])
    for tick, label in zip(axes.get_yticklabels(), reversed(list(rows["label"])), strict=True):
        tick.set_color(looks[label].colour)
        tick.set_fontweight("bold" if looks[label].emphasis else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylabel("")


def ratio_axis(axes: Axes, label: str) -> None:
    """Logarithmic x axis of ratios with plain numbers, and round steps where it spans less than a factor of five."""
    low, high = axes.get_xlim()
    axes.set_xlim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    log_axis(axes, label, "x")
    if high / low < 5:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def limit(axes: Axes, x: float, text: str = "", *, dashed: bool = True) -> None:
    """A vertical reference line with its meaning written at its top."""
    axes.axvline(x, color=MUTED, linewidth=0.9, linestyle="--" if dashed else "-", zorder=1.5)
    if text:
        # Asking for the limits brings them up to date.
        axes.get_xlim()
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, 1.0)))[0]
        axes.annotate(
            text,
            (x, 1.0),
            xycoords=blended_transform_factory(axes.transData, axes.transAxes),
            xytext=(2, 1) if place < 0.6 else (-2, 1),
            textcoords="offset points",
            # Towards the middle, so that it never runs out of the figure.
            ha="left" if place < 0.6 else "right",
            va="bottom",
            color=MUTED,
            fontsize=6.5,
        )


def rule(axes: Axes, y: float, text: str, *, dashed: bool = True) -> None:
    """A horizontal reference line with its meaning written on it, at the left."""
    axes.axhline(y, color=INK if not dashed else MUTED, linewidth=0.9, linestyle="--" if dashed else "-", zorder=1.5)
    if text:
        axes.annotate(
            text,
            (0.008, y),
            xycoords=blended_transform_factory(axes.transAxes, axes.transData),
            xytext=(0, 2),
            textcoords="offset points",
            va="bottom",
            color=MUTED,
            fontsize=6.5,
        )


def _height(axes: Axes) -> float:
    figure = axes.get_figure()
    rows = axes.get_subplotspec().get_gridspec().nrows  # type: ignore[union-attr]
    return max(0.5, float(figure.get_size_inches()[1]) / rows - 0.65)  # type: ignore[union-attr]


def _apart(wanted: Mapping[str, float], gap: float) -> dict[str, float]:
    """Heights at least `gap` apart, as near as possible to the wanted ones, order kept."""
    order = sorted(wanted, key=lambda label: wanted[label])
    groups: list[list[str]] = []
    centres: list[float] = []
    for label in order:
        groups.append([label])
        centres.append(wanted[label])
        while len(groups) > 1 and centres[-1] - centres[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            merged = groups[-2] + groups[-1]
            groups[-2:] = [merged]
            centres[-2:] = [sum(wanted[name] for name in merged) / len(merged)]
    return {
        label: centre + gap * (place - (len(group) - 1) / 2)
        for group, centre in zip(groups, centres, strict=True)
        for place, label in enumerate(group)
    }
