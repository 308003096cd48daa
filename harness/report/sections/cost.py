"""Figures of cost: time, memory and energy against length, and how well the laws hold."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.analysis.results import Analysis, Challenge, TimePoint
from harness.report.drawing import censored_marks, legend, looks_of, name_lines, panels, present, series, widen
from harness.report.numbers import number
from harness.report.theme import MUTED, Style, length_axis, log_axis

_PHASES = {"step": "Training step", "forward": "Forward pass"}
_MEBIBYTE = 2**20
# From this ratio of ends on, an axis has a mark a decade only.
_WIDE = 200.0


def time(analysis: Analysis) -> Figure | None:
    """Time against length: a panel per sweep and phase; None without timed cells.

    Constant tokens: microseconds per token, where linear time is a level line. Constant batch:
    milliseconds per step.
    """
    groups: dict[tuple[str, str], list[TimePoint]] = defaultdict(list)
    for point in analysis.times:
        # What all models share is a share in a table, not a line of its own.
        if point.phase != "rest":
            groups[point.sweep, point.phase].append(point)
    if not groups:
        return None
    labels = present(analysis, (p.label for p in analysis.times))
    looks = looks_of(analysis)
    figure, axes = panels(len(groups), 2.9 if len(groups) == 1 else 2.5)
    ends, rows = [], []
    for one, ((sweep, phase), points) in zip(axes, groups.items(), strict=True):
        end, row = _time_panel(analysis, one, sweep, phase, points, looks)
        ends.append(end)
        rows.append(row)
    name_lines(figure, axes, labels, looks, ends, rows)
    return figure


def _time_panel(
    analysis: Analysis, axes: Axes, sweep: str, phase: str, points: list[TimePoint], looks: dict[str, Style]
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    per_token = points[0].constant == "tokens"
    lost = lost_cells(analysis, sweep)
    lengths = sorted({p.length for p in points} | {length for cells in lost.values() for length, _ in cells})
    ends: dict[str, tuple[float, float]] = {}
    for label in present(analysis, (p.label for p in points)):
        mine = [p for p in points if p.label == label]
        scale = {p.length: 1e6 / p.tokens if per_token else 1e3 for p in mine}
        law = next((s for s in analysis.laws if (s.label, s.sweep) == (label, sweep) and phase == "step"), None)
        fit = next((f for f in law.fits if f.law == law.best), None) if law else None
        line = None
        if law is not None and fit is not None and all(length in scale for length in law.lengths):
            line = (law.lengths, [s * scale[n] for n, s in zip(law.lengths, fit.fitted_seconds, strict=True)])
        series(
            axes,
            looks[label],
            [p.length for p in mine],
            [p.step_seconds * scale[p.length] for p in mine],
            [_scaled(p.step_interval, scale[p.length]) for p in mine],
            [[s * scale[p.length] for s in p.process_seconds] for p in mine],
            line,
        )
        predicted = [(p.length, p.predicted_seconds * scale[p.length]) for p in mine if p.predicted_seconds]
        axes.plot(
            *zip(*predicted, strict=True) if predicted else ([], []), ":", color=looks[label].colour, linewidth=0.8
        )
        ends[label] = (mine[-1].length, mine[-1].step_seconds * scale[mine[-1].length])
    length_axis(axes, lengths)
    widen(axes, lengths)
    log_axis(axes, "time per token (µs)" if per_token else "time per step (ms)")
    what = f"{points[0].tokens:,} tokens a batch" if points[0].constant == "tokens" else f"batch of {points[0].batch:,}"
    axes.set_title(f"{_PHASES.get(phase, phase)}, {what}")
    rows = censored_marks(axes, lost, looks)
    log_axis(axes, axes.get_ylabel())
    return ends, rows


def memory(analysis: Analysis) -> Figure | None:
    """Peak memory that grows with the batch, against length; None without memory passes."""
    points = [p for p in analysis.memory if p.net_bytes > 0]
    if not points:
        return None
    labels = present(analysis, (p.label for p in points))
    looks = looks_of(analysis)
    sweeps = list(dict.fromkeys(p.sweep for p in points))
    figure, axes = panels(len(sweeps), 2.7)
    ends, rows = [], []
    for one, sweep in zip(axes, sweeps, strict=True):
        here = [p for p in points if p.sweep == sweep]
        lost = lost_cells(analysis, sweep)
        lengths = sorted({p.length for p in here} | {length for cells in lost.values() for length, _ in cells})
        end: dict[str, tuple[float, float]] = {}
        for label in present(analysis, (p.label for p in here)):
            mine = [p for p in here if p.label == label]
            y = [p.net_bytes / _MEBIBYTE for p in mine]
            series(one, looks[label], [p.length for p in mine], y, [None] * len(mine), [[] for _ in mine])
            end[label] = (mine[-1].length, y[-1])
        one.set_yscale("log")
        batch = here[0].constant == "batch"
        if batch and len(lengths) > 1:
            low, high = one.get_ylim()
            start = min(p.net_bytes / _MEBIBYTE for p in here if p.length == here[0].length) * 0.75
            one.plot(
                [lengths[0], lengths[-1]], [start, start * lengths[-1] / lengths[0]], "--", color=MUTED, linewidth=0.8
            )
            one.annotate(
                "∝ L",
                (lengths[-1], start * lengths[-1] / lengths[0]),
                xytext=(-4, -9),
                textcoords="offset points",
                color=MUTED,
                fontsize=6.5,
                ha="right",
            )
            one.set_ylim(low, high)
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "net peak memory (MiB)")
        what = f"batch of {here[0].batch:,}" if batch else f"{here[0].batch * here[0].length:,} tokens a batch"
        one.set_title(f"Training step, {what}")
        rows.append(censored_marks(one, lost, looks))
        log_axis(one, one.get_ylabel())
        ends.append(end)
    name_lines(figure, axes, labels, looks, ends, rows)
    return figure


def energy(analysis: Analysis) -> Figure | None:
    """Energy per step against length; None where the device has no energy counter."""
    points = analysis.energy
    if not points:
        return None
    labels = present(analysis, (p.label for p in points))
    looks = looks_of(analysis)
    sweeps = list(dict.fromkeys(p.sweep for p in points))
    figure, axes = panels(len(sweeps), 2.5)
    ends: list[dict[str, tuple[float, float]]] = []
    for one, sweep in zip(axes, sweeps, strict=True):
        here = [p for p in points if p.sweep == sweep]
        ends.append({})
        for label in present(analysis, (p.label for p in here)):
            mine = [p for p in here if p.label == label]
            y = [p.joules_per_step for p in mine]
            series(one, looks[label], [p.length for p in mine], y, [None] * len(mine), [[] for _ in mine])
            ends[-1][label] = (mine[-1].length, y[-1])
        lengths = sorted({p.length for p in here})
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "energy per step (J)")
        one.set_title(f"Training step, sweep {sweep}")
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure


def laws(analysis: Analysis) -> Figure | None:
    """Residuals of the best law, and every law held against the longest length; None without laws."""
    shown = [law for law in analysis.laws if law.lengths]
    if not shown:
        return None
    labels = present(analysis, (law.label for law in shown))
    looks = looks_of(analysis)
    trials = [(law.label, trial) for law in shown for trial in law.challenges]
    figure, axes = panels(2 if trials else 1, max(2.5, 0.155 * len(trials) + 1.0), columns=2 if trials else 1)
    left = axes[0]
    for law in shown:
        fit = next((f for f in law.fits if f.law == law.best), None)
        if fit is None:
            continue
        look = looks[law.label]
        percent = [100 * r for r in fit.residuals]
        left.plot(law.lengths, percent, "-", color=look.colour, linewidth=0.8, alpha=0.7)
        left.plot(
            law.lengths, percent, linestyle="none", marker=look.marker, color=look.colour, markeredgecolor="white"
        )
    left.axhline(0, color=MUTED, linewidth=0.9)
    lengths = sorted({length for law in shown for length in law.lengths})
    length_axis(left, lengths)
    widen(left, lengths)
    left.set_ylabel("measured / fitted − 1 (%)")
    left.set_title("Residuals of the best law")
    if trials:
        _challenge_panel(axes[1], trials, looks)
    legend(figure, labels, looks)
    return figure


def _challenge_panel(axes: Axes, trials: list[tuple[str, Challenge]], looks: dict[str, Style]) -> None:
    height = len(trials)
    for place, (label, trial) in enumerate(trials):
        y = height - 1 - place
        allowed = 1 + trial.tolerance
        axes.fill_betweenx([y - 0.5, y + 0.5], 1 / allowed, allowed, color="#e9ecef", linewidth=0, zorder=0)
        look = looks[label]
        if trial.interval is not None:
            axes.plot(trial.interval, [y, y], "-", color=look.colour, linewidth=1.4)
        axes.plot(
            [trial.ratio],
            [y],
            marker=look.marker,
            color=look.colour,
            markerfacecolor=look.colour if trial.outcome == "passed" else "white",
            markersize=5,
        )
    axes.axvline(1, color=MUTED, linewidth=0.8)
    axes.set_xscale("log")
    # An interval over many decades runs out of the panel instead of squeezing the others to a point.
    ratios = [trial.ratio for _, trial in trials]
    low, high = axes.get_xlim()
    low, high = max(low, min(0.1, 0.8 * min(ratios))), min(high, max(10.0, 1.25 * max(ratios)))
    axes.set_xlim(low, high)
    marks: tuple[float, ...] = (0.01, 0.1, 1, 10, 100, 1000)
    if high / low < _WIDE:
        marks = (0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
    ticks = [t for t in marks if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_yticks(range(height), [f"{label} · {trial.law}" for label, trial in reversed(trials)])
    axes.set_ylim(-0.6, height - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("measured / predicted (×)")
    axes.set_title("Challenge of the laws")


def lost_cells(analysis: Analysis, sweep: str) -> dict[str, list[tuple[int, str]]]:
    """Label → (length, status) of the speed cells of a sweep that ended in OOM or time-out."""
    lost: dict[str, list[tuple[int, str]]] = {}
    for cell in analysis.censored:
        if cell.kind == "speed" and cell.where == sweep and cell.length is not None:
            lost.setdefault(cell.label, []).append((cell.length, cell.status))
    return lost


def _scaled(interval: tuple[float, float] | None, factor: float) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] * factor, interval[1] * factor)
