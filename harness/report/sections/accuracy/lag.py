"""Accuracy against the lag of a planted dependence: how far back a model reaches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from harness.analysis.results import AccuracyRow, Analysis
from harness.data.catalogue import Planted
from harness.data.generated.planted import oracles
from harness.metrics import SELECTION
from harness.report.drawing import Ends, look_of_hues, looks_of, name_lines, panels, present, widen
from harness.report.theme import MUTED, length_axis

# The data are drawn anew for it, and each takes a second.
_reached = lru_cache(maxsize=64)(oracles)


def _alike(analysis: Analysis) -> list[dict[str, Planted]]:
    """Planted data sets that differ in nothing but the lag, by name, the lag increasing; with two lags at least."""
    groups: dict[Planted, dict[str, Planted]] = {}
    for name, source in analysis.study.data.items():
        if source.planted is not None:
            groups.setdefault(msgspec.structs.replace(source.planted, lag=1), {})[name] = source.planted
    found = [dict(sorted(own.items(), key=lambda item: item[1].lag)) for own in groups.values()]
    return [own for own in found if len({p.lag for p in own.values()}) > 1]


def _trained(analysis: Analysis, planted: dict[str, Planted]) -> Iterator[tuple[AccuracyRow, int]]:
    """Trained rows on these data sets at their longest history, and the lag."""
    trained = [r for r in analysis.accuracy if r.length and not r.is_reference and SELECTION in r.metrics]
    rows = [r for r in trained if r.dataset in planted]
    longest = max((r.length or 0 for r in rows), default=0)
    yield from ((r, planted[r.dataset].lag) for r in rows if r.length == longest)


def accuracy_lag(analysis: Analysis) -> Figure | None:
    """Test NDCG@10 against the lag, beside an oracle that knows it and popularity; None with fewer than two lags."""
    groups = []
    for planted in _alike(analysis):
        found = [(r.label, lag, r.metrics[SELECTION]) for r, lag in _trained(analysis, planted)]
        cells = [(label, lag, metric.mean, metric.interval) for label, lag, metric in found]
        rows = pd.DataFrame(cells, columns=["label", "lag", "mean", "interval"])
        if rows["lag"].nunique() > 1:
            groups.append((planted, rows))
    if not groups:
        return None
    looks = looks_of(analysis)
    figure, axes = panels(len(groups), 2.6)
    ends: list[Ends] = []
    for one, (planted, rows) in zip(axes, groups, strict=True):
        labels = present(looks, rows["label"])
        for name in ("lag known", "popularity"):
            reached = [_reached(p)[name] for p in planted.values()]
            one.plot([p.lag for p in planted.values()], reached, "--", color=MUTED, linewidth=0.9, zorder=1)
            words = "an oracle that knows the lag" if name == "lag known" else "popularity, which does not"
            one.annotate(
                words,
                (min(p.lag for p in planted.values()), reached[0]),
                (0, 3),
                textcoords="offset points",
                color=MUTED,
                fontsize=6.5,
            )
        for label, lag, interval in zip(rows["label"], rows["lag"], rows["interval"], strict=True):
            if interval is not None:
                one.plot([lag, lag], interval, "-", color=looks[label].colour, linewidth=0.9, alpha=0.8)
        sns.lineplot(
            rows.sort_values("lag"),
            x="lag",
            y="mean",
            estimator=None,
            style="label",
            markers={label: looks[label].marker for label in labels},
            dashes=False,
            size="label",
            sizes={label: looks[label].width for label in labels},
            markersize=4.6,
            markeredgecolor="white",
            **look_of_hues(looks, labels, one),
        )
        last = rows.sort_values("lag").groupby("label").last()
        ends.append({label: (float(last["lag"][label]), float(last["mean"][label])) for label in labels})
        lags = sorted(set(rows["lag"]))
        length_axis(one, lags, "lag of the planted dependence (events)")
        widen(one, lags)
        one.set_ylabel("test NDCG@10 (0 to 1)")
    labels = present(looks, (label for _, rows in groups for label in rows["label"]))
    name_lines(figure, axes, labels, looks, ends, [{} for _ in axes])
    return figure


def see_lag(analysis: Analysis) -> str:
    """What share of the way from popularity to the oracle each model goes at the longest lag."""
    for planted in _alike(analysis):
        found = list(_trained(analysis, planted))
        if len({lag for _, lag in found}) < 2:
            continue
        longest = max(lag for _, lag in found)
        name, known = next((n, p) for n, p in planted.items() if p.lag == longest)
        low, high = _reached(known)["popularity"], _reached(known)["lag known"]
        shares = {r.label: (r.metrics[SELECTION].mean - low) / (high - low) for r, _ in found if r.dataset == name}
        words = ", ".join(f"{label} {share:.0%}" for label, share in sorted(shares.items(), key=lambda item: -item[1]))
        return (
            f"Where the next item depends on the event {longest} events back, models go this part of the way from "
            f"popularity to an oracle: {words}."
        ).replace("%", " %")
    return ""
