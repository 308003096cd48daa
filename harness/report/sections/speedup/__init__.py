"""Speed-up of the timing partner over every baseline, and where it crosses 1."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.results import Analysis
from harness.report.drawing import (
    Ends,
    censored_marks,
    curves,
    frame,
    looks_of,
    lost_cells,
    name_lines,
    panels,
    points,
    present,
    rule,
    widen,
)
from harness.report.numbers import number
from harness.report.section import Section
from harness.report.theme import Style, length_axis, log_axis


def speedup(analysis: Analysis) -> Figure | None:
    """Speed-up of the timing partner over each baseline against length; None without pairs.

    Bands are simultaneous 95 % intervals over the lengths; the grey band is the A/A noise floor;
    open diamonds mark where a speed-up crosses 1, with its interval.
    """
    if not analysis.speedups:
        return None
    looks = looks_of(analysis)
    sweeps = list(dict.fromkeys(p.sweep for p in analysis.speedups))
    figure, axes = panels(len(sweeps), 3.1)
    drawn = [_panel(analysis, one, sweep, looks) for one, sweep in zip(axes, sweeps, strict=True)]
    labels = present(looks, (p.label for p in analysis.speedups))
    name_lines(figure, axes, labels, looks, [ends for ends, _ in drawn], [rows for _, rows in drawn])
    return figure


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
    marked = (c.overall.threshold for c in analysis.claims if c.marks_speedup and c.challenger == partner)
    threshold = next(marked, None)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.8), max(high, 1.35 * threshold if threshold else 1.5))
    log_axis(axes, f"speed-up of {partner} over the model (×)")
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


def see(analysis: Analysis) -> str:
    """Over whom the advantage is largest and smallest, at the longest length."""
    if not analysis.speedups:
        return ""
    first = analysis.speedups[0]
    own = [p for p in analysis.speedups if (p.sweep, p.partner) == (first.sweep, first.partner)]
    longest = max(p.length for p in own)
    ordered = sorted((p for p in own if p.length == longest), key=lambda p: p.speedup)
    least, most = ordered[0], ordered[-1]
    words = f"At {longest:,} events {first.partner} trains {number(most.speedup)} times as fast as {most.label}"
    return words + (f" and {number(least.speedup)} times as fast as {least.label}." if least is not most else ".")


SECTION = Section(order=40, figures={"speedup": speedup}, see={"speedup": see})
