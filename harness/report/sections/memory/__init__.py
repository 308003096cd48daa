"""Peak memory and energy against length."""

from __future__ import annotations

from collections import Counter

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
from harness.report.numbers import storage
from harness.report.section import Section
from harness.report.theme import MUTED, Style, length_axis, log_axis

_MEBIBYTE = 2**20


def memory(analysis: Analysis) -> Figure | None:
    """Peak memory that grows with the batch, against length; None without memory passes."""
    passes = frame([p for p in analysis.memory if p.net_bytes > 0])
    if passes.empty:
        return None
    looks = looks_of(analysis)
    groups = list(passes.groupby("sweep", sort=False))
    figure, axes = panels(len(groups), 2.7)
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
    labels = present(looks, passes["label"])
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


def see(analysis: Analysis) -> str:
    """Who needs most and least at the longest length that several have, and the timing partner."""
    batch = [p for p in analysis.memory if p.constant == "batch"]
    own = [p for p in batch if p.sweep == batch[0].sweep]
    counts = Counter(p.length for p in own)
    shared = [length for length, count in counts.items() if count > 1]
    if not shared:
        return ""
    longest = max(shared)
    ordered = sorted((p for p in own if p.length == longest), key=lambda p: p.net_bytes)
    partner = next((p for p in ordered if p.label == analysis.study.timing_partner), None)
    parts = [f"{ordered[0].label} takes least, {storage(ordered[0].net_bytes)}"]
    if partner is not None and partner not in (ordered[0], ordered[-1]):
        parts.append(f"{partner.label} {storage(partner.net_bytes)}")
    parts.append(f"{ordered[-1].label} most, {storage(ordered[-1].net_bytes)}")
    return f"At {longest:,} events and a batch of {ordered[0].batch:,}, {', '.join(parts)}."


SECTION = Section(order=50, figures={"memory": memory, "energy": energy}, see={"memory": see})
