"""The noise floor: the timing partner against its own copy."""

from __future__ import annotations

from typing import Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from harness.analysis.results import Analysis, NoiseFloor
from harness.report.drawing import frame, looks_of, panels, points, widen
from harness.report.numbers import number
from harness.report.section import Section
from harness.report.theme import MUTED, length_axis


def noise(analysis: Analysis) -> Figure | None:
    """The A/A control: the timing partner against its own copy, per length; None without controls."""
    if not analysis.controls:
        return None
    partner = analysis.study.timing_partner
    look = looks_of(analysis)[partner]
    controls = frame(analysis.controls).assign(label=partner)
    groups = list(controls.groupby("sweep", sort=False))
    figure, axes = panels(len(groups), 2.1)
    for one, (sweep, own) in zip(axes, groups, strict=True):
        floor = next((f for f in analysis.noise_floors if f.sweep == sweep), None)
        if floor is not None and floor.factor is not None:
            one.axhspan(100 / floor.factor - 100, 100 * floor.factor - 100, color="#e9ecef", linewidth=0, zorder=0)
        one.axhline(0, color=MUTED, linewidth=0.9)
        found = points(own, "length", "ratio", interval="simultaneous", samples="process_ratios", factor=100.0)
        one.vlines(found["x"], found["low"] - 100, found["high"] - 100, color=look.colour, linewidth=1.6)
        single = found.explode("samples")
        shared: dict[str, Any] = {"ax": one, "color": look.colour, "legend": False}
        sns.scatterplot(
            x=single["x"] * 1.06, y=single["samples"].astype(float) - 100, s=8, alpha=0.5, linewidth=0, **shared
        )
        for inside, part in found.groupby(own["covers_one"].ne(False)):
            filled = {} if inside else {"facecolor": "white", "edgecolor": look.colour, "linewidth": 1.0}
            sns.scatterplot(x=part["x"], y=part["y"] - 100, marker=look.marker, s=27, zorder=3, **{**shared, **filled})
        length_axis(one, list(own["length"]))
        widen(one, list(own["length"]))
        one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))
        one.set_ylabel("first copy over second (% off 1)")
        one.set_title(f"A/A control of {partner}, sweep {sweep}")
    return figure


def data(analysis: Analysis) -> dict[str, Any]:
    """A paragraph a sweep: how small an effect these records can tell."""
    return {"floors": [_words(floor, analysis.study.timing_partner) for floor in analysis.noise_floors]}


def _words(floor: NoiseFloor, partner: str) -> dict[str, str]:
    """What the controls of a sweep allow, and in `warning` what they forbid."""
    if floor.percent is None:
        return {
            "sweep": floor.sweep,
            "words": "too few processes for an interval, hence no noise floor.",
            "warning": "",
        }
    words = f"an effect below {number(floor.percent, 2)} % is inconclusive."
    if floor.all_cover_one:
        words += f" Every simultaneous interval of {partner} against its own copy covers 1, as it must."
    warning = (
        f"At least one simultaneous interval of {partner} against its own copy does not cover 1: the timing itself "
        "is biased there, and small effects must not be trusted."
    )
    return {"sweep": floor.sweep, "words": words, "warning": warning if floor.all_cover_one is False else ""}


def see(analysis: Analysis) -> str:
    """How small an effect can be told, or how far the copies were apart."""
    if not analysis.controls:
        return ""
    partner = analysis.study.timing_partner
    known = [floor for floor in analysis.noise_floors if floor.percent is not None]
    if known:
        worst = max(known, key=lambda floor: floor.percent or 0.0)
        least = number(worst.percent, 2)
        return f"Two copies of {partner} may differ by {least} % in the mean: a smaller effect is inconclusive."
    most = max(abs(point.ratio - 1) for point in analysis.controls)
    return f"Two copies of {partner} differ by up to {number(100 * most, 2)} %; too few processes for a noise floor."


SECTION = Section(
    order=70,
    page="sure",
    lacks="No A/A control is among these records: no noise floor can be stated, and small differences in time cannot "
    "be told from noise.",
    figures={"noise": noise},
    see={"noise": see},
    data=data,
)
