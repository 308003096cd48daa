"""Figures of speed-up: against every baseline, and the noise floor that it is read against."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.analysis.results import Analysis
from harness.report.drawing import censored_marks, looks_of, name_lines, panels, present, rule, series, widen
from harness.report.numbers import number
from harness.report.sections.cost import lost_cells
from harness.report.theme import MUTED, Style, length_axis, log_axis


def speedup(analysis: Analysis) -> Figure | None:
    """Speed-up of the timing partner over each baseline against length; None without pairs.

    Bands are simultaneous 95 % intervals over the lengths; the grey band is the A/A noise floor;
    open diamonds mark where a speed-up crosses 1, with its interval.
    """
    points = analysis.speedups
    if not points:
        return None
    labels = present(analysis, (p.label for p in points))
    looks = looks_of(analysis)
    sweeps = list(dict.fromkeys(p.sweep for p in points))
    figure, axes = panels(len(sweeps), 3.1)
    ends, rows = [], []
    for one, sweep in zip(axes, sweeps, strict=True):
        end, row = _speedup_panel(analysis, one, sweep, looks)
        ends.append(end)
        rows.append(row)
    name_lines(figure, axes, labels, looks, ends, rows)
    return figure


def _speedup_panel(
    analysis: Analysis, axes: Axes, sweep: str, looks: dict[str, Style]
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    points = [p for p in analysis.speedups if p.sweep == sweep]
    partner = points[0].partner
    lost = {label: cells for label, cells in lost_cells(analysis, sweep).items() if label != partner}
    lengths = sorted({p.length for p in points} | {length for cells in lost.values() for length, _ in cells})
    ends: dict[str, tuple[float, float]] = {}
    for label in present(analysis, (p.label for p in points)):
        mine = [p for p in points if p.label == label]
        series(
            axes,
            looks[label],
            [p.length for p in mine],
            [p.speedup for p in mine],
            [p.simultaneous for p in mine],
            [p.process_speedups for p in mine],
        )
        ends[label] = (mine[-1].length, mine[-1].speedup)
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


def noise(analysis: Analysis) -> Figure | None:
    """The A/A control: the timing partner against its own copy, per length; None without controls."""
    points = analysis.controls
    if not points:
        return None
    sweeps = list(dict.fromkeys(p.sweep for p in points))
    look = looks_of(analysis)[analysis.study.timing_partner]
    figure, axes = panels(len(sweeps), 2.1)
    for one, sweep in zip(axes, sweeps, strict=True):
        mine = [p for p in points if p.sweep == sweep]
        floor = next((f for f in analysis.noise_floors if f.sweep == sweep), None)
        if floor is not None and floor.factor is not None:
            one.axhspan(100 / floor.factor - 100, 100 * floor.factor - 100, color="#e9ecef", linewidth=0, zorder=0)
        one.axhline(0, color=MUTED, linewidth=0.9)
        for p in mine:
            outside = p.covers_one is False
            if p.simultaneous is not None:
                one.plot([p.length] * 2, [100 * e - 100 for e in p.simultaneous], "-", color=look.colour, linewidth=1.6)
            ratios = [100 * r - 100 for r in p.process_ratios]
            one.plot([p.length * 1.06] * len(ratios), ratios, ".", color=look.colour, alpha=0.5, markersize=3)
            one.plot(
                [p.length],
                [100 * p.ratio - 100],
                marker=look.marker,
                color=look.colour,
                markerfacecolor="white" if outside else look.colour,
                markersize=5,
            )
        lengths = [p.length for p in mine]
        length_axis(one, lengths)
        widen(one, lengths)
        one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
        one.set_ylabel("first copy over second (% off 1)")
        one.set_title(f"A/A control of {analysis.study.timing_partner}, sweep {sweep}")
    return figure
