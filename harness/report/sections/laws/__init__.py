"""How cost grows: the fitted laws, their challenge at the longest length, exponents and slopes.

The challenge stays in plain matplotlib: intervals of its own a row, which no plot of seaborn takes.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.analysis.results import Analysis, Challenge
from harness.report.drawing import (
    intervals_of,
    legend,
    limit,
    look_of_hues,
    looks_of,
    panels,
    present,
    ratio_axis,
    rows_inches,
    rows_of_intervals,
    shown,
    widen,
)
from harness.report.numbers import counted, number
from harness.report.section import Section
from harness.report.theme import MUTED, Style, length_axis

# From this ratio of ends on, an axis has a mark a decade only.
_WIDE = 200.0
# Rows of a figure that still fits a page beside another one.
_MOST_ROWS = 34


def laws(analysis: Analysis) -> Figure | None:
    """Residuals of the best law, and every law held against the longest length; None without laws."""
    fitted = [law for law in analysis.laws if law.lengths]
    if not fitted:
        return None
    looks = looks_of(analysis)
    labels = present(looks, (law.label for law in fitted))
    trials = [(law.label, trial) for law in fitted for trial in law.challenges]
    figure, axes = panels(2 if trials else 1, max(2.5, 0.155 * len(trials) + 1.0), columns=2 if trials else 1)
    left = axes[0]
    residuals = pd.DataFrame(
        [
            (law.label, law.sweep, length, 100 * residual)
            for law in fitted
            for fit in law.fits
            if fit.law == law.best
            for length, residual in zip(law.lengths, fit.residuals, strict=True)
        ],
        columns=["label", "sweep", "length", "percent"],
    )
    sns.lineplot(
        residuals,
        x="length",
        y="percent",
        units="sweep",
        estimator=None,
        style="label",
        markers={label: looks[label].marker for label in labels},
        dashes=False,
        linewidth=0.8,
        markeredgecolor="white",
        **look_of_hues(looks, labels, left),
    )
    left.axhline(0, color=MUTED, linewidth=0.9)
    lengths = sorted({length for law in fitted for length in law.lengths})
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
    axes.set_yticks(range(height), [f"{shown(label)} · {trial.law}" for label, trial in reversed(trials)])
    axes.set_ylim(-0.6, height - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("measured / predicted (×)")
    axes.set_title("Challenge of the laws")


def growth(analysis: Analysis) -> Figure | None:
    """How the cost of a token rises and the exponent of what grows, an interval a model; None without laws."""
    rows = _growth_rows(analysis)
    kinds = [kind for kind in ("rise", "exponent") if kind in rows and rows[kind].notna().any()]
    if not kinds:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(kinds), rows_inches(len(rows)), columns=len(kinds))
    for one, kind in zip(axes, kinds, strict=True):
        if kind == "rise":
            one.set_xscale("log")
        rows_of_intervals(one, intervals_of(rows, kind), looks, named=kind == kinds[0])
        if kind == "rise":
            limit(one, 1, "linear time", dashed=False)
            ratio_axis(one, "longest over an eighth of it (×)")
            one.set_title("Cost of a token", pad=13)
        else:
            # From linear to quadratic; what lies far outside runs out of the panel.
            low, high = one.get_xlim()
            one.set_xlim(max(min(low, 0.9), -0.5), min(max(high, 2.15), 3.5))
            limit(one, 1, "linear", dashed=False)
            limit(one, 2, "quadratic")
            one.set_xlabel("exponent of L (1)")
            one.set_title("What grows", pad=13)
    return figure


def _growth_rows(analysis: Analysis) -> pd.DataFrame:
    """A row a law of time, in the order of the study."""
    several = len({law.sweep for law in analysis.laws}) > 1
    order = list(looks_of(analysis))
    found = []
    for law in sorted(analysis.laws, key=lambda law: order.index(law.label)):
        row: dict[str, Any] = {"label": law.label, "name": f"{shown(law.label)}, {law.sweep}" if several else law.label}
        low, high = law.rise_interval or (None, None)
        row |= {"rise": law.rise, "rise low": low, "rise high": high}
        power = next(
            (e for e in analysis.exponents if (e.label, e.sweep, e.quantity) == (law.label, law.sweep, "time")), None
        )
        # An exponent says nothing where nothing grows: its interval is open at both ends.
        if power is not None and power.interval not in (None, (None, None)):
            low, high = power.interval
            row |= {"exponent": power.exponent, "exponent low": low, "exponent high": high}
        found.append(row)
    return pd.DataFrame(found[:_MOST_ROWS])


def see(analysis: Analysis) -> str:
    """Whose token becomes most expensive over the upper lengths, and the timing partner's."""
    risen = [law for law in analysis.laws if law.rise is not None and law.rise_window is not None]
    if not risen:
        powers = [e for e in analysis.exponents if e.quantity == "time" and e.interval not in (None, (None, None))]
        if not powers:
            return ""
        steepest = max(powers, key=lambda e: e.exponent)
        return f"What grows of the time of {steepest.label} goes as length to the power {number(steepest.exponent)}."
    most = max(risen, key=lambda law: law.rise or 0.0)
    own = next((law for law in risen if law.label == analysis.study.timing_partner), risen[0])
    shortest, longest = own.rise_window or (0, 0)
    words = f"From {shortest:,} to {longest:,} events a token of {own.label} costs {number(own.rise)} times as much"
    return f"{words}." if most is own else f"{words}, one of {most.label} {number(most.rise)} times."


def see_laws(analysis: Analysis) -> str:
    """How many of the best laws met the longest length."""
    best = [c for law in analysis.laws for c in law.challenges if c.law == law.best]
    if not best:
        fitted = sum(bool(law.lengths) for law in analysis.laws)
        return f"No law of {fitted} could be challenged: too few lengths." if fitted else ""
    passed = sum(c.outcome == "passed" for c in best)
    refuted = sum(c.outcome == "contradicted" for c in best)
    return (
        f"Of {counted(len(best), 'best law', 'best laws')} {passed} predicted the longest length within the tolerance, "
        f"{refuted} did not, {len(best) - passed - refuted} undecided."
    )


SECTION = Section(
    order=32,
    page="growth",
    lacks="Too few timed lengths to fit a law.",
    figures={"growth": growth, "laws": laws},
    see={"growth": see, "laws": see_laws},
)
