"""How cost grows: the fitted laws, their challenge at the longest length, exponents and slopes.

The challenge stays in plain matplotlib: intervals of its own a row, which no plot of seaborn takes.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from harness.analysis.results import Analysis, Challenge
from harness.report.drawing import legend, look_of_hues, looks_of, panels, present, widen
from harness.report.numbers import number
from harness.report.section import Section
from harness.report.theme import MUTED, Style, length_axis

# From this ratio of ends on, an axis has a mark a decade only.
_WIDE = 200.0


def laws(analysis: Analysis) -> Figure | None:
    """Residuals of the best law, and every law held against the longest length; None without laws."""
    shown = [law for law in analysis.laws if law.lengths]
    if not shown:
        return None
    looks = looks_of(analysis)
    labels = present(looks, (law.label for law in shown))
    trials = [(law.label, trial) for law in shown for trial in law.challenges]
    figure, axes = panels(2 if trials else 1, max(2.5, 0.155 * len(trials) + 1.0), columns=2 if trials else 1)
    left = axes[0]
    residuals = pd.DataFrame(
        [
            (law.label, law.sweep, length, 100 * residual)
            for law in shown
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


SECTION = Section(order=90, figures={"laws": laws})
