"""Peak memory and energy against length."""

from __future__ import annotations

from collections import Counter

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.results import Analysis, MemoryPoint
from harness.report.drawing import (
    Ends,
    censored_marks,
    curves,
    frame,
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
    widen,
)
from harness.report.numbers import number, storage
from harness.report.section import Section
from harness.report.theme import MUTED, Style, length_axis, log_axis

_MEBIBYTE = 2**20


def memory(analysis: Analysis) -> Figure | None:
    """Peak memory that grows with the batch, against length; None without memory passes at two lengths."""
    passes = frame([p for p in analysis.memory if p.net_bytes > 0])
    if passes.empty:
        return None
    looks = looks_of(analysis)
    groups = [(sweep, own) for sweep, own in passes.groupby("sweep", sort=False) if own["length"].nunique() > 1]
    if not groups:
        return None
    figure, axes = panels(len(groups), 3.3 if len(groups) == 1 else 2.7)
    drawn = []
    for one, (sweep, own) in zip(axes, groups, strict=True):
        lost = lost_cells(analysis, str(sweep))
        lengths = sorted({*own["length"], *(length for cells in lost.values() for length, _ in cells)})
        means = points(own, "length", "net_bytes", factor=1 / _MEBIBYTE)
        ends = curves(one, means, looks)
        one.set_yscale("log")
        constant_batch = own["constant"].iloc[0] == "batch"
        if constant_batch and len(lengths) > 1:
            _proportional(one, lengths, float(means.loc[means["x"] == means["x"].iloc[0], "y"].min()) * 0.75)
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "net peak memory (MiB)")
        batch, length = own[["batch", "length"]].iloc[0]
        what = f"batch of {batch:,}" if constant_batch else f"{batch * length:,} tokens a batch"
        one.set_title(f"Training step, {what}")
        rows = censored_marks(one, lost, looks)
        log_axis(one, one.get_ylabel())
        drawn.append((ends, rows))
    labels = present(looks, (label for _, own in groups for label in own["label"]))
    name_lines(figure, axes, labels, looks, [ends for ends, _ in drawn], [rows for _, rows in drawn])
    return figure


def energy(analysis: Analysis) -> Figure | None:
    """Energy per step against length; None where the device has no energy counter."""
    if not analysis.energy:
        return None
    looks: dict[str, Style] = looks_of(analysis)
    groups = list(frame(analysis.energy).groupby("sweep", sort=False))
    figure, axes = panels(len(groups), 2.5)
    ends: list[Ends] = []
    for one, (sweep, own) in zip(axes, groups, strict=True):
        ends.append(curves(one, points(own, "length", "joules_per_step"), looks))
        lengths = sorted(set(own["length"]))
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "energy per step (J)")
        one.set_title(f"Training step, sweep {sweep}")
    name_lines(figure, axes, present(looks, (p.label for p in analysis.energy)), looks, ends, [{} for _ in axes])
    return figure


def _proportional(axes: Axes, lengths: list[int], start: float) -> None:
    """A dashed line of memory in proportion to the length, from `start` at the shortest."""
    limits = axes.get_ylim()
    end = start * lengths[-1] / lengths[0]
    axes.plot([lengths[0], lengths[-1]], [start, end], "--", color=MUTED, linewidth=0.8)
    axes.annotate(
        "∝ L",
        (lengths[-1], end),
        xytext=(-4, -9),
        textcoords="offset points",
        color=MUTED,
        fontsize=6.5,
        ha="right",
    )
    axes.set_ylim(limits)


def memory_longest(analysis: Analysis) -> Figure | None:
    """Memory at the longest length that several models have, and how it grows; None with a single model."""
    longest = _shared(analysis)
    powers = {e.label: e for e in analysis.exponents if e.quantity == "memory"}
    if not longest:
        return None
    looks = looks_of(analysis)
    points = {p.label: p for p in longest}
    rows = pd.DataFrame(
        [
            {
                "label": label,
                "name": label,
                "memory": points[label].net_bytes / _MEBIBYTE if label in points else None,
                "power": powers[label].exponent if label in powers else None,
                "low": (powers[label].interval or (None, None))[0] if label in powers else None,
                "high": (powers[label].interval or (None, None))[1] if label in powers else None,
            }
            for label in present(looks, [*points, *powers])
        ]
    )
    count = 2 if powers else 1
    figure, axes = panels(count, rows_inches(len(rows)), columns=count)
    held = rows.assign(value=rows["memory"], low=None, high=None)
    axes[0].set_xscale("log")
    rows_of_intervals(axes[0], held, looks)
    ratio_axis(axes[0], "net peak memory (MiB)")
    axes[0].set_title(f"At {longest[0].length:,} events, batch of {longest[0].batch:,}", pad=13)
    if powers:
        rows_of_intervals(axes[1], rows.assign(value=rows["power"]), looks, named=False)
        limit(axes[1], 1, "linear", dashed=False)
        axes[1].set_xlabel("exponent of L (1)")
        axes[1].set_title("What grows", pad=13)
    return figure


def _shared(analysis: Analysis) -> list[MemoryPoint]:
    """The passes of the longest length that several models have, in the first sweep of a constant batch; else []."""
    batch = [p for p in analysis.memory if p.constant == "batch" and p.net_bytes > 0]
    own = [p for p in batch if p.sweep == batch[0].sweep]
    counts = Counter(p.length for p in own)
    shared = [length for length, count in counts.items() if count > 1]
    return sorted((p for p in own if p.length == max(shared)), key=lambda p: p.net_bytes) if shared else []


def see(analysis: Analysis) -> str:
    """Of the lines: who needs most and least at the longest length that several have."""
    return (_see_longest(analysis) or _see_growth(analysis)) if _see_growth(analysis) else ""


def see_longest(analysis: Analysis) -> str:
    """Of the rows: how the memory grows where that is known."""
    return (_see_growth(analysis) or _see_longest(analysis)) if _shared(analysis) else ""


def _see_longest(analysis: Analysis) -> str:
    """Who needs most and least at the longest length that several have, and the timing partner."""
    ordered = _shared(analysis)
    if not ordered:
        return ""
    partner = next((p for p in ordered if p.label == analysis.study.timing_partner), None)
    parts = [f"{ordered[0].label} takes least, {storage(ordered[0].net_bytes)}"]
    if partner is not None and partner not in (ordered[0], ordered[-1]):
        parts.append(f"{partner.label} {storage(partner.net_bytes)}")
    parts.append(f"{ordered[-1].label} most, {storage(ordered[-1].net_bytes)}")
    return f"At {ordered[0].length:,} events and a batch of {ordered[0].batch:,}, {', '.join(parts)}."


def _see_growth(analysis: Analysis) -> str:
    """How much more memory the longest length takes than the shortest: the timing partner's, and the most."""
    lines: dict[str, list[MemoryPoint]] = {}
    for point in analysis.memory:
        if point.net_bytes > 0:
            lines.setdefault(f"{point.sweep}/{point.label}", []).append(point)
    grown = [sorted(own, key=lambda p: p.length) for own in lines.values() if len({p.length for p in own}) > 1]
    if not grown:
        return ""
    first = [own for own in grown if own[0].sweep == grown[0][0].sweep]
    partner = next((own for own in first if own[0].label == analysis.study.timing_partner), first[0])
    most = max(first, key=lambda own: own[-1].net_bytes / own[0].net_bytes)
    words = f"From {partner[0].length:,} to {partner[-1].length:,} events the memory of {partner[0].label} becomes "
    words += f"{number(partner[-1].net_bytes / partner[0].net_bytes)} times as much"
    if most is partner:
        return f"{words}."
    return f"{words}, that of {most[0].label} {number(most[-1].net_bytes / most[0].net_bytes)} times."


def see_energy(analysis: Analysis) -> str:
    """Who takes most and least energy a step at the longest length."""
    if not analysis.energy:
        return ""
    own = [p for p in analysis.energy if p.sweep == analysis.energy[0].sweep]
    ordered = sorted((p for p in own if p.length == max(q.length for q in own)), key=lambda p: p.joules_per_step)
    least, most = ordered[0], ordered[-1]
    words = f"At {least.length:,} events a step of {least.label} takes {number(least.joules_per_step)} J"
    return f"{words}." if most is least else f"{words}, one of {most.label} {number(most.joules_per_step)} J."


SECTION = Section(
    order=40,
    page="memory",
    lacks="No memory pass is among these records, so nothing is said about memory.",
    figures={"memory": memory, "memory-longest": memory_longest, "energy": energy},
    see={"memory": see, "memory-longest": see_longest, "energy": see_energy},
)
