"""Speed-up of the timing partner over every baseline, and where it crosses 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from harness.analysis.results import Analysis, SpeedupPoint
from harness.report.drawing import (
    CENSORED,
    Ends,
    censored_marks,
    curves,
    frame,
    intervals_of,
    limit,
    looks_of,
    lost_cells,
    name_lines,
    panels,
    points,
    present,
    ratio_axis,
    rows_inches,
    rows_of_intervals,
    rule,
    shown,
    widen,
)
from harness.report.numbers import number, window
from harness.report.section import Section
from harness.report.theme import INK, MUTED, RULE, SLOWER_TO_FASTER, Style, length_axis, log_axis

_FULL_INCHES = 3.1
_TITLES = {"speed-up": "At the longest length", "crossing": "Faster from", "trend": "How it grows"}
# Rows of a figure that still fits a page beside another one.
_MOST_ROWS = 34
# Of the columns of a map together.
_MAP_INCHES = 5.2
_LONGEST_PARTNER = 16


def speedup(analysis: Analysis) -> Figure | None:
    """Speed-up of the timing partner over each baseline against length; None without pairs at two lengths.

    Bands are simultaneous 95 % intervals over the lengths; the grey band is the A/A noise floor;
    open diamonds mark where a speed-up crosses 1, with its interval.
    """
    return lines(analysis, _FULL_INCHES)


def lines(analysis: Analysis, height: float, *, most: int | None = None) -> Figure | None:
    """The same with panels of another height in inches, or of the first sweeps alone."""
    sweeps = _grown(analysis)[:most]
    if not sweeps:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(sweeps), height)
    drawn = [_panel(analysis, one, sweep, looks) for one, sweep in zip(axes, sweeps, strict=True)]
    # A low panel has no room for the whole name.
    if height < _FULL_INCHES:
        for one in axes:
            one.set_ylabel("speed-up (×)")
    labels = present(looks, (p.label for p in analysis.speedups if p.sweep in sweeps))
    name_lines(figure, axes, labels, looks, [ends for ends, _ in drawn], [rows for _, rows in drawn])
    return figure


def _grown(analysis: Analysis) -> list[str]:
    """Sweeps with speed-ups at two lengths or more, or with baselines that ran out of memory at a second one."""
    lengths: dict[str, set[int]] = {}
    for point in analysis.speedups:
        lengths.setdefault(point.sweep, set()).add(point.length)
    for sweep, own in lengths.items():
        own.update(length for cells in lost_cells(analysis, sweep).values() for length, _ in cells)
    return [sweep for sweep, own in lengths.items() if len(own) > 1]


def _panel(analysis: Analysis, axes: Axes, sweep: str, looks: dict[str, Style]) -> tuple[Ends, dict[str, float]]:
    own = frame([p for p in analysis.speedups if p.sweep == sweep])
    partner = own["partner"].iloc[0]
    lost = {label: cells for label, cells in lost_cells(analysis, sweep).items() if label != partner}
    lengths = sorted({*own["length"], *(length for cells in lost.values() for length, _ in cells)})
    means = points(own, "length", "speedup", interval="simultaneous", samples="process_speedups")
    ends = curves(axes, means, looks)
    for crossing in analysis.crossovers:
        if crossing.sweep != sweep or crossing.length is None:
            continue
        colour = looks[crossing.label].colour
        if crossing.interval is not None:
            low, high = crossing.interval
            span = [float(lengths[0] if low is None else low), float(lengths[-1] if high is None else high)]
            axes.plot(span, [1, 1], "-", color=colour, linewidth=2.2, alpha=0.55, zorder=6, solid_capstyle="butt")
        axes.plot([crossing.length], [1], "D", color=colour, markerfacecolor="white", markeredgewidth=1.2, zorder=7)
    length_axis(axes, lengths)
    widen(axes, lengths)
    axes.set_yscale("log")
    threshold = _claimed(analysis, partner)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), max(high, 1.35 * threshold if threshold else 1.5))
    label = f"speed-up of {partner} over the model (×)"
    # A name of any length would be longer than the axis.
    log_axis(axes, label if len(partner) <= _LONGEST_PARTNER else "speed-up over the model (×)")
    rule(axes, 1, "", dashed=False)
    if threshold is not None:
        rule(axes, threshold, f"claimed: up to {number(threshold)}×")
    floor = next((f for f in analysis.noise_floors if f.sweep == sweep and f.factor is not None), None)
    if floor is not None and floor.factor is not None:
        axes.axhspan(1 / floor.factor, floor.factor, color="#d9dce1", linewidth=0, zorder=1)
    tokens = sorted({p.tokens for p in analysis.times if p.sweep == sweep and p.constant == "tokens"})
    axes.set_title(
        f"Training step, {tokens[0]:,} tokens a batch" if len(tokens) == 1 else f"Training step, sweep {sweep}"
    )
    rows = censored_marks(axes, lost, looks)
    log_axis(axes, axes.get_ylabel())
    return ends, rows


def _claimed(analysis: Analysis, partner: str) -> float | None:
    """The speed-up that a claim about the timing partner states."""
    marked = (c.overall.threshold for c in analysis.claims if c.marks_speedup and c.challenger == partner)
    return next(marked, None)


def speedup_map(analysis: Analysis) -> Figure | None:
    """Speed-up over model and length as a heat map, sweeps side by side; None with fewer than two lengths.

    Orange: the timing partner is faster; blue: slower. Bold: beyond the interval and the noise floor.
    """
    columns = _columns(analysis)
    if len(columns) < 2:
        return None
    looks = looks_of(analysis)
    found = {(p.label, p.sweep, p.length): p for p in analysis.speedups}
    lost = {
        (label, sweep, length): status
        for sweep in dict.fromkeys(sweep for sweep, _ in columns)
        for label, cells in lost_cells(analysis, sweep).items()
        for length, status in cells
    }
    partners = {p.partner for p in analysis.speedups}
    labels = [label for label in present(looks, [label for label, _, _ in [*found, *lost]]) if label not in partners]
    values = np.full((len(labels), len(columns)), np.nan)
    words = np.full(values.shape, "–", dtype=object)
    for i, label in enumerate(labels):
        for j, (sweep, length) in enumerate(columns):
            point, status = found.get((label, sweep, length)), lost.get((label, sweep, length))
            if point is not None:
                values[i, j] = math.log2(point.speedup)
                words[i, j] = _digits(point.speedup) + "×"
            elif status is not None:
                words[i, j] = CENSORED[status]
    figure, (axes,) = panels(1, (0.235 if len(labels) <= 10 else 0.18) * len(labels) + 0.75)
    reach = max(1.0, float(np.nanmax(np.abs(values))))
    colours = LinearSegmentedColormap.from_list("speed-up", SLOWER_TO_FASTER)
    sns.heatmap(
        pd.DataFrame(values), cmap=colours, vmin=-reach, vmax=reach, cbar=False, linewidths=1.2, linecolor="white",
        annot=False, ax=axes,
    )  # fmt: skip
    for i, label in enumerate(labels):
        for j, (sweep, length) in enumerate(columns):
            point = found.get((label, sweep, length))
            strong = point is not None and (point.faster or point.slower)
            bright = abs(values[i, j]) > 0.62 * reach
            if point is None:
                axes.add_patch(Rectangle((j, i), 1, 1, facecolor="#eceef1", edgecolor="white", linewidth=1.2))
            axes.text(
                j + 0.5, i + 0.5, words[i, j], ha="center", va="center", fontsize=7 if len(columns) <= 12 else 6,
                fontweight="bold" if strong else "normal", color="white" if bright else INK,
            )  # fmt: skip
    several = len({sweep for sweep, _ in columns}) > 1
    for j in range(1, len(columns)):
        if columns[j - 1][0] != columns[j][0]:
            axes.axvline(j, color=RULE, linewidth=1.0)
    heads = [f"{length:,}" for _, length in columns]
    axes.set_xticks([j + 0.5 for j in range(len(columns))], heads, rotation=0 if len(columns) <= 12 else 60)
    axes.set_yticks([i + 0.5 for i in range(len(labels))], [shown(label) for label in labels], rotation=0)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(looks[label].colour)
    axes.tick_params(length=0)
    axes.set_xlabel("sequence length L (events)")
    if several:
        _name_sweeps(axes, [sweep for sweep, _ in columns])
    axes.set_ylabel("over the model (label)")
    # Above the names of the sweeps.
    axes.set_title(f"Speed-up of {shown(analysis.speedups[0].partner)} (×)", pad=13 if several else 6)
    return figure


def _name_sweeps(axes: Axes, sweeps: list[str]) -> None:
    """The name of each sweep above its columns, cut to their width."""
    for sweep in dict.fromkeys(sweeps):
        first, count = sweeps.index(sweep), sweeps.count(sweep)
        most = max(4, int(count * _MAP_INCHES / len(sweeps) / 0.055))
        name = sweep if len(sweep) <= most else f"{sweep[: most - 1]}…"
        axes.annotate(
            name,
            (first + count / 2, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=MUTED,
            fontsize=6.5,
        )


def _digits(value: float) -> str:
    """Three digits, zeros kept, so that the numbers of a map line up."""
    return f"{value:#.3g}".rstrip(".") if value < 1000 else number(value)


def _columns(analysis: Analysis) -> list[tuple[str, int]]:
    sweeps = dict.fromkeys(p.sweep for p in analysis.speedups)
    lost = {
        (sweep, length) for sweep in sweeps for cells in lost_cells(analysis, sweep).values() for length, _ in cells
    }
    places = {(p.sweep, p.length) for p in analysis.speedups} | lost
    return sorted(places, key=lambda place: (list(sweeps).index(place[0]), place[1]))


def speedup_intervals(analysis: Analysis) -> Figure | None:
    """Speed-up at the longest length, where it crosses 1 and how it grows, an interval a model; None without pairs."""
    rows = _rows(analysis)
    if rows.empty:
        return None
    looks = looks_of(analysis)
    kinds = [kind for kind in _TITLES if rows[kind].notna().any()]
    figure, axes = panels(len(kinds), rows_inches(len(rows)), columns=len(kinds))
    for one, kind in zip(axes, kinds, strict=True):
        # Above the words at the reference lines.
        one.set_title(_TITLES[kind], pad=13)
        if kind != "trend":
            one.set_xscale("log")
        rows_of_intervals(one, intervals_of(rows, kind), looks, named=kind == "speed-up")
        if kind == "speed-up":
            claimed = _claimed(analysis, analysis.speedups[0].partner)
            limit(one, 1, dashed=False)
            if claimed is not None:
                limit(one, claimed, f"claimed: {number(claimed)}×")
            ratio_axis(one, "speed-up (×)")
        elif kind == "crossing":
            # Within the lengths that were measured, of which every other one is written.
            lengths = sorted({p.length for p in analysis.speedups})
            apart = (lengths[-1] / lengths[0]) ** 0.3
            ticks = [lengths[0]]
            for length in lengths:
                if length >= ticks[-1] * apart:
                    ticks.append(length)
            length_axis(one, ticks, "sequence length L (events)")
            widen(one, lengths)
            one.tick_params(axis="x", labelrotation=0)
        else:
            limit(one, 0, dashed=False)
            one.set_xlabel("exponent of L (1)")
    return figure


def _rows(analysis: Analysis) -> pd.DataFrame:
    """A row a baseline and sweep, in the order of the study: at its longest length, with crossing and trend."""
    longest: dict[tuple[str, str], SpeedupPoint] = {}
    for point in analysis.speedups:
        key = point.sweep, point.label
        if key not in longest or longest[key].length < point.length:
            longest[key] = point
    several = len({sweep for sweep, _ in longest}) > 1
    found = []
    order = list(looks_of(analysis))
    sweeps = list(dict.fromkeys(sweep for sweep, _ in longest))
    for (sweep, label), point in sorted(longest.items(), key=lambda i: (sweeps.index(i[0][0]), order.index(i[0][1]))):
        crossing = next((c for c in analysis.crossovers if (c.label, c.sweep) == (label, sweep)), None)
        trend = next((t for t in analysis.trends if (t.label, t.sweep) == (label, sweep)), None)
        low, high = point.simultaneous or (None, None)
        row: dict[str, Any] = {"label": label, "name": f"{shown(label)}, {sweep}" if several else label}
        row |= {"speed-up": point.speedup, "speed-up low": low, "speed-up high": high}
        low, high = (crossing and crossing.interval) or (None, None)
        row |= {"crossing": crossing and crossing.length, "crossing low": low, "crossing high": high}
        low, high = (trend and trend.interval) or (None, None)
        row |= {"trend": trend and trend.slope, "trend low": low, "trend high": high}
        found.append(row)
    return pd.DataFrame(found[:_MOST_ROWS])


def see(analysis: Analysis) -> str:
    """Over whom the advantage is largest and smallest, at the longest length of the first sweep with several."""
    if not analysis.speedups:
        return ""
    sweep = [*_grown(analysis), analysis.speedups[0].sweep][0]
    first = next((p for p in analysis.speedups if p.sweep == sweep), analysis.speedups[0])
    own = [p for p in analysis.speedups if (p.sweep, p.partner) == (first.sweep, first.partner)]
    longest = max(p.length for p in own)
    ordered = sorted((p for p in own if p.length == longest), key=lambda p: p.speedup)
    least, most = ordered[0], ordered[-1]
    words = f"At {longest:,} events {first.partner} trains {number(most.speedup)} times as fast as {most.label}"
    return words + (f" and {number(least.speedup)} times as fast as {least.label}." if least is not most else ".")


def see_lines(analysis: Analysis) -> str:
    """The same, where there are lines."""
    return see(analysis) if _grown(analysis) else ""


def see_map(analysis: Analysis) -> str:
    """In how many of the pairs the timing partner is faster, slower, or neither."""
    pairs = analysis.speedups
    if len(_columns(analysis)) < 2:
        return ""
    faster, slower = sum(p.faster for p in pairs), sum(p.slower for p in pairs)
    return (
        f"Of {len(pairs):,} pairs of model and length {pairs[0].partner} is faster in {faster:,}, slower in "
        f"{slower:,}, and not told apart in {len(pairs) - faster - slower:,}."
    )


def see_intervals(analysis: Analysis) -> str:
    """From which length the timing partner is faster than those that it overtakes, and whom it gains on most."""
    crossed = [c for c in analysis.crossovers if c.state == "crosses" and c.length is not None]
    parts = []
    if crossed:
        lengths = sorted(c.length for c in crossed if c.length is not None)
        where = f"{lengths[0]:,.0f}" if len(lengths) == 1 else f"{lengths[0]:,.0f} to {lengths[-1]:,.0f}"
        names = crossed[0].label if len(crossed) == 1 else f"{len(crossed)} models"
        parts.append(f"{crossed[0].partner} overtakes {names} at {where} events")
    if analysis.trends:
        most = max(analysis.trends, key=lambda t: t.slope)
        whose = "its advantage" if parts else f"The advantage of {analysis.speedups[0].partner}"
        grows = "grows most over" if most.slope > 0 else "grows over no model, least falls over"
        power = f"as length to the power {number(most.slope)} within {window(most.window)}"
        parts.append(f"{whose} {grows} {most.label}, {power}")
    return f"{', and '.join(parts)}." if parts else see(analysis)


SECTION = Section(
    order=20,
    page="faster",
    lacks="No paired cell of a baseline is among these records, so no speed-up can be given.",
    figures={"speedup": speedup, "speedup-map": speedup_map, "speedup-intervals": speedup_intervals},
    see={"speedup": see_lines, "speedup-map": see_map, "speedup-intervals": see_intervals},
)
