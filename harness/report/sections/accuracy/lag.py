"""Accuracy against the lag of a planted dependence: how far back a model reaches."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec
import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.results import AccuracyRow, Analysis
from harness.data.catalogue import Planted
from harness.data.generated.planted import oracles
from harness.metrics import SELECTION
from harness.report.drawing import Ends, looks_of, name_lines, panels, present, widen
from harness.report.sections.accuracy.means import means_against
from harness.report.theme import MUTED, length_axis

# The data are drawn anew for it, and each takes a second.
_reached = lru_cache(maxsize=64)(oracles)

_REFERENCES = {"lag known": "an oracle that knows the lag", "popularity": "popularity, which does not"}


def _groups(analysis: Analysis) -> list[tuple[list[Planted], list[tuple[AccuracyRow, Planted]]]]:
    """Planted data sets that differ in nothing but the lag, by lag, and what was trained on them, at two lags or more.

    Of several lengths the longest counts.
    """
    groups: dict[Planted, dict[str, Planted]] = {}
    for name, source in analysis.study.data.items():
        if source.planted is not None:
            groups.setdefault(msgspec.structs.replace(source.planted, lag=1), {})[name] = source.planted
    trained = [r for r in analysis.accuracy if r.length and not r.is_reference and SELECTION in r.metrics]
    found = []
    for planted in groups.values():
        here = [r for r in trained if r.dataset in planted]
        longest = max((r.length or 0 for r in here), default=0)
        rows = [(r, planted[r.dataset]) for r in here if r.length == longest]
        if len({p.lag for _, p in rows}) > 1:
            found.append((sorted(planted.values(), key=lambda p: p.lag), rows))
    return found


def accuracy_lag(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 against the lag, beside an oracle that knows it and popularity; None with fewer than two lags."""
    groups = _groups(analysis)
    if not groups:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(groups), 2.6)
    ends: list[Ends] = []
    for one, (planted, found) in zip(axes, groups, strict=True):
        lags = [p.lag for p in planted]
        for name, words in (
            ("lag known", "an oracle that knows the lag"),
            ("popularity", "popularity, which does not"),
        ):
            reached = [_reached(p)[name] for p in planted]
            one.plot(lags, reached, "--", color=MUTED, linewidth=0.9, zorder=1)
            one.annotate(words, (lags[0], reached[0]), (0, 3), textcoords="offset points", color=MUTED, fontsize=6.5)
        rows = pd.DataFrame(
            [
                (r.label, p.lag, r.metrics[SELECTION].mean, r.metrics[SELECTION].interval or (math.nan, math.nan))
                for r, p in found
            ],
            columns=["label", "lag", "mean", "interval"],
        )
        ends.append(means_against("lag", one, rows, looks))
        length_axis(one, lags, "lag of the planted dependence (events)")
        widen(one, lags)
        one.set_ylabel("test NDCG@10 (0 to 1)")
    labels = present(looks, (r.label for _, found in groups for r, _ in found))
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure


def see_lag(analysis: Analysis) -> str:
    """What share of the way from popularity to the oracle each model goes at the longest lag."""
    groups = _groups(analysis)
    if not groups:
        return ""
    _, found = groups[0]
    farthest = max((p for _, p in found), key=lambda p: p.lag)
    low, high = _reached(farthest)["popularity"], _reached(farthest)["lag known"]
    shares = {r.label: (r.metrics[SELECTION].mean - low) / (high - low) for r, p in found if p == farthest}
    words = ", ".join(
        f"{name} {100 * share:.0f} %" for name, share in sorted(shares.items(), key=lambda item: -item[1])
    )
    return (
        f"Where the next item depends on the event {farthest.lag} events back, models go this part of the way from "
        f"popularity to an oracle: {words}."
    )
