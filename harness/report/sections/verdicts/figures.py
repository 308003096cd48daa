"""The figures of page one: the main one of the study, and how far each claim is from its threshold."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.published import own_rulings
from harness.analysis.results import Analysis, ClaimVerdict
from harness.report.drawing import limit, panels, ratio_axis, rows_inches, rows_of_intervals
from harness.report.numbers import counted, number
from harness.report.sections import accuracy, memory, speedup, time, variants
from harness.report.theme import TEXT_WIDTH_INCHES, Style

# A study with this many challengers is about its claims, not about one model.
_SEVERAL = 3
# Inches of the main figure: what the table of claims leaves of page one.
_LEAST_INCHES, _MOST_INCHES = 2.25, 4.4
# Colours and shapes of the words of verdicts.
LOOKS = {
    "supported": Style("#0b6b50", "o", emphasis=False),
    "refuted": Style("#a8201a", "v", emphasis=False),
    "inconclusive": Style("#855800", "D", emphasis=False),
    "missing": Style("#5f6368", "s", emphasis=False),
}

_Drawing = tuple[str, Callable[[Analysis], Figure | None], Callable[[Analysis], str]]
_MAIN: list[_Drawing] = [
    ("speedup", lambda analysis: speedup.lines(analysis, _height(analysis), most=1), speedup.see_lines),
    ("variants", variants.variants, variants.see),
    ("accuracy", accuracy.accuracy, accuracy.see),
    ("time", time.time, time.see),
    ("memory", memory.memory, memory.see),
    ("speedup-intervals", speedup.speedup_intervals, speedup.see_intervals),
]


def main_name(analysis: Analysis) -> str:
    """Which figure stands on page one; "" where none can be drawn.

    The claims where they are about several models; else the first of speed-up, variants, accuracy, time and memory
    that the records hold. Variants come before accuracy only where all claims are about them.
    """
    several = len({claim.challenger for claim in analysis.claims}) >= _SEVERAL
    return "margins" if several and see_margins(analysis) else next((name for name, _, _ in _candidates(analysis)), "")


def _candidates(analysis: Analysis) -> list[_Drawing]:
    kernels = {claim.rule for claim in analysis.claims} == {"kernel"}
    return [one for one in _MAIN if one[2](analysis) and (one[0] != "variants" or kernels)]


def main(analysis: Analysis) -> Figure | None:
    """The main figure, low enough for page one; None where none can be drawn."""
    name = main_name(analysis)
    if name == "margins":
        return margins(analysis)
    figure = next((draw(analysis) for own, draw, _ in _candidates(analysis) if own == name), None)
    if figure is not None and name != "speedup":
        figure.set_size_inches(TEXT_WIDTH_INCHES, min(max(1.6 * figure.get_size_inches()[1], 2.6), _height(analysis)))
    return figure


def _height(analysis: Analysis) -> float:
    return min(_MOST_INCHES, max(_LEAST_INCHES, 6.6 - 0.42 * len(analysis.claims)))


def see_main(analysis: Analysis) -> str:
    """What to see in it."""
    name = main_name(analysis)
    if name == "margins":
        return see_margins(analysis)
    return next((see(analysis) for own, _, see in _candidates(analysis) if own == name), "")


def margins(analysis: Analysis) -> Figure | None:
    """What was measured over what is allowed, a row a claim; None where no claim has a ratio.

    Filled: these records; open: the same rule over the paper's own published table.
    """
    rows = _margins(analysis)
    if rows.empty:
        return None
    figure, (axes,) = panels(1, rows_inches(len(rows)))
    axes.set_xscale("log")
    looks = dict(zip(rows["label"], [LOOKS[verdict] for verdict in rows["verdict"]], strict=True))
    rows_of_intervals(axes, rows, looks)
    own = own_rulings(list(rows["label"]))
    for place, label in enumerate(rows["label"]):
        found = [ratio for ruling in own.get(label, []) if (ratio := _ratio(ruling.overall)) is not None]
        axes.plot(
            [ratio for ratio, _, _ in found], [len(rows) - 1 - place] * len(found), "o", markersize=5.5,
            markerfacecolor="none", markeredgecolor="#22262b", markeredgewidth=0.9, zorder=2,
        )  # fmt: skip
    limit(axes, 1, "the threshold: the claim holds to its right", dashed=False)
    ratio_axis(axes, "measured over the threshold (×)")
    return figure


def _margins(analysis: Analysis) -> pd.DataFrame:
    rows = [
        (claim.id, claim.id, claim.overall.verdict, *ratio)
        for claim in analysis.claims
        if (ratio := _ratio(claim.overall)) is not None
    ]
    return pd.DataFrame(rows, columns=["label", "name", "verdict", "value", "low", "high"])


def _ratio(verdict: ClaimVerdict) -> tuple[float, float | None, float | None] | None:
    """The statistic over its threshold with the interval's ends, turned so that above 1 the claim holds.

    None for what has no ratio: a threshold of 0, a statistic below it, a band around a value.
    """
    value, threshold = verdict.statistic, verdict.threshold
    at_most, at_least = "≤" in verdict.allowed, verdict.allowed.startswith(("≥", ">"))
    if value is None or threshold is None or min(value, threshold) <= 0 or not (at_most or at_least):
        return None
    ends = [value, *(verdict.interval or (None, None))]
    found = [None if x is None or x <= 0 else threshold / x if at_most else x / threshold for x in ends]
    low, high = (found[2], found[1]) if at_most else (found[1], found[2])
    return found[0] or 0.0, low, high


def see_margins(analysis: Analysis) -> str:
    """Which claim is furthest short of its threshold, and which furthest beyond it."""
    rows = _margins(analysis)
    if rows.empty:
        return ""
    ordered = sorted(zip(rows["value"].astype(float), rows["label"], strict=True))
    (least, lowest), (most, highest) = ordered[0], ordered[-1]
    beyond = sum(value >= 1 for value, _ in ordered)
    words = f"By estimate {beyond} of {counted(len(ordered), 'claim lies', 'claims lie')} beyond the threshold"
    if len(ordered) == 1:
        return f"{words}: {lowest}, {number(least)} times the threshold."
    return (
        f"{words}; the lowest is {lowest}, {number(least)} times the threshold, the highest {highest}, "
        f"{number(most)} times."
    )
