"""Time of a step against its length."""

from __future__ import annotations

import pandas as pd
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
    widen,
)
from harness.report.numbers import number
from harness.report.section import Section
from harness.report.theme import Style, length_axis, log_axis

# Inches of a panel by the number of panels: three or more stand in two columns, and all of them on one page.
_HEIGHTS = (2.35, 2.0, 2.3, 2.3, 1.8, 1.8, 1.5)
_PHASES = {"step": "Training step", "forward": "Forward pass"}


def time(analysis: Analysis) -> Figure | None:
    """Time against length: a panel per sweep and phase with two lengths or more; None without any.

    Constant tokens: microseconds per token, where linear time is a level line. Constant batch:
    milliseconds per step.
    """
    # What all models share is a share in a table, not a line of its own.
    timed = frame([point for point in analysis.times if point.phase != "rest"])
    if timed.empty:
        return None
    groups = [(key, own) for key, own in timed.groupby(["sweep", "phase"], sort=False) if _grows(analysis, own)]
    if not groups:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(groups), _HEIGHTS[min(len(groups), len(_HEIGHTS)) - 1])
    drawn = [_panel(analysis, one, own, looks) for one, (_, own) in zip(axes, groups, strict=True)]
    labels = present(looks, (label for _, own in groups for label in own["label"]))
    name_lines(figure, axes, labels, looks, [ends for ends, _ in drawn], [rows for _, rows in drawn])
    return figure


def _grows(analysis: Analysis, own: pd.DataFrame) -> bool:
    """Whether there are two lengths, of which one may have ended out of memory or time."""
    lost = lost_cells(analysis, own["sweep"].iloc[0])
    return len({*own["length"], *(length for cells in lost.values() for length, _ in cells)}) > 1


def _panel(analysis: Analysis, axes: Axes, own: pd.DataFrame, looks: dict[str, Style]) -> tuple[Ends, dict[str, float]]:
    first = own.iloc[0]
    per_token = first["constant"] == "tokens"
    lost = lost_cells(analysis, first["sweep"])
    lengths = sorted({*own["length"], *(length for cells in lost.values() for length, _ in cells)})
    factor = 1e6 / own["tokens"] if per_token else pd.Series(1e3, index=own.index)
    means = points(own, "length", "step_seconds", interval="step_interval", samples="process_seconds", factor=factor)
    ends = curves(axes, means, looks, _lines(analysis, means.assign(factor=factor), first["sweep"], first["phase"]))
    predicted = points(own, "length", "predicted_seconds", factor=factor).dropna(subset=["y"])
    for label, line in predicted.groupby("label", sort=False):
        axes.plot(line["x"], line["y"], ":", color=looks[str(label)].colour, linewidth=0.8)
    length_axis(axes, lengths)
    widen(axes, lengths)
    log_axis(axes, "time per token (µs)" if per_token else "time per step (ms)")
    what = f"{first['tokens']:,} tokens a batch" if per_token else f"batch of {first['batch']:,}"
    axes.set_title(f"{_PHASES.get(first['phase'], first['phase'])}, {what}")
    rows = censored_marks(axes, lost, looks)
    log_axis(axes, axes.get_ylabel())
    return ends, rows


def _lines(analysis: Analysis, means: pd.DataFrame, sweep: str, phase: str) -> pd.DataFrame:
    """The best law of each label where one was fitted to a step, else its means joined."""
    found = []
    for label, own in means.groupby("label", sort=False):
        law = next((s for s in analysis.laws if (s.label, s.sweep) == (label, sweep) and phase == "step"), None)
        fit = next((f for f in law.fits if f.law == law.best), None) if law else None
        line = own[["label", "x", "y"]]
        if law is not None and fit is not None and set(law.lengths) <= set(own["x"]):
            factor = own.set_index("x")["factor"][law.lengths]
            line = pd.DataFrame({"label": label, "x": law.lengths, "y": fit.fitted_seconds * factor.to_numpy()})
        found.append(line)
    return pd.concat(found, ignore_index=True)


def see(analysis: Analysis) -> str:
    """How much dearer a token becomes with the length, for the timing partner and for whom it grows most."""
    tokens = [p for p in analysis.times if p.constant == "tokens" and p.phase == "step"]
    sweep = next((p.sweep for p in tokens if any(q.sweep == p.sweep and q.length != p.length for q in tokens)), "")
    own = [p for p in tokens if p.sweep == sweep]
    growth: dict[str, tuple[int, int, float]] = {}
    for label in dict.fromkeys(p.label for p in own):
        line = sorted((p for p in own if p.label == label), key=lambda p: p.length)
        if len(line) > 1:
            ratio = line[-1].microseconds_per_token / line[0].microseconds_per_token
            growth[label] = line[0].length, line[-1].length, ratio
    if not growth:
        return ""
    partner = analysis.study.timing_partner if analysis.study.timing_partner in growth else next(iter(growth))
    first, last, ratio = growth.pop(partner)
    words = f"From {first:,} to {last:,} events the time of a token becomes {number(ratio)} times as long for {partner}"
    if not growth:
        return f"{words}."
    label, (first, last, ratio) = max(growth.items(), key=lambda item: item[1][2])
    return f"{words}. For {label} it becomes {number(ratio)} times as long from {first:,} to {last:,}."


SECTION = Section(
    order=30,
    page="growth",
    lacks="No sweep has timed cells at two lengths, so nothing is said about how time grows.",
    figures={"time": time},
    see={"time": see},
)
