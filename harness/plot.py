"""Four figures of the frame that `harness.load` gives, for a notebook: seaborn on matplotlib axes, to go on with.

    import harness
    import harness.plot

    cells = harness.load("results/reference/cpu-2core")
    axes = harness.plot.speedup(cells)

Lines are means over processes or seeds and bands their range; nothing is estimated here. For intervals and verdicts
take `python -m harness report FOLDER`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from harness.errors import UserError, unknown
from harness.metrics import SELECTION, names
from harness.report.theme import Style, length_axis, log_axis, styles


def speedup(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many times as fast the timing partner trains as each model, against the sequence length.

    Args:
        frame: From `harness.load(FOLDER)`, or some of its rows: of one sweep and one timing partner.
        ax: Where to draw; None: the current axes.

    Returns:
        The axes, both logarithmic: x in events, y a ratio of step times. A line joins the geometric means over the
        processes, a band spans their range.

    Raises:
        UserError: No row with a speed-up, or rows of several sweeps or timing partners.
    """
    own = _rows(frame, "speedup", "speed cells that were timed in pairs")
    own = own[own["label"] != own["partner"]]
    partner = _one(own, "partner")
    _one(own, "sweep")
    axes = _curves(own, "speedup", partner, ax)
    axes.axhline(1.0, color="#6b7280", linewidth=0.9, zorder=1)
    log_axis(axes, f"speed-up of {partner} over the model (×)")
    return axes


def cost(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """What a training step costs a token, against the sequence length.

    Args:
        frame: From `harness.load(FOLDER)`, or some of its rows: of one sweep and one timing partner.
        ax: Where to draw; None: the current axes.

    Returns:
        The axes, both logarithmic: x in events, y in microseconds a token. A line that is level is linear time.

    Raises:
        UserError: No row with a step time, or rows of several sweeps or timing partners.
    """
    own = _rows(frame, "token_seconds", "timed speed cells")
    _one(own, "sweep")
    own = own.assign(microseconds=1e6 * own["token_seconds"])
    axes = _curves(own, "microseconds", _one(own, "partner"), ax)
    log_axis(axes, "training step (µs a token)")
    return axes


def accuracy(frame: pd.DataFrame, metric: str = SELECTION, ax: Axes | None = None) -> Axes:
    """Test accuracy of every model, the best one on top, a dot a seed and a bar at their mean.

    Args:
        frame: From `harness.load(FOLDER)`, or some of its rows: of one data set and one length; references, which see
            all of a history, count to every length.
        metric: Column such as `ndcg@10`.
        ax: Where to draw; None: the current axes.

    Returns:
        The axes: x from 0 to 1, y the labels.

    Raises:
        UserError: No such metric, no trained or fitted model among the rows, or rows of several data sets or lengths.
    """
    if metric not in names():
        raise unknown("metric", metric, names())
    own = _rows(frame, metric, "training cells with a test")
    dataset = _one(own, "dataset")
    trained = own["length"].dropna().unique()
    if len(trained) > 1:
        _one(own.dropna(subset=["length"]), "length")
    looks = _looks(own, _partner(frame))
    order = list(own.groupby("label")[metric].mean().sort_values(ascending=False).index)
    palette = {label: looks[label].colour for label in order}
    place: dict[str, Any] = {"x": metric, "y": "label", "hue": "label", "order": order, "palette": palette, "ax": ax}
    axes: Axes = sns.stripplot(own, **place, jitter=False, alpha=0.5, size=5, legend=False)
    place["ax"] = axes
    sns.pointplot(own, **place, errorbar=None, markers="|", markersize=16, linestyle="none", legend=False)
    length = f", {int(trained[0]):,} events" if len(trained) else ""
    axes.set(xlabel=f"test {metric.upper()} on {dataset}{length}", ylabel="")
    return axes


def frontier(frame: pd.DataFrame, metric: str = SELECTION, ax: Axes | None = None) -> Axes:
    """Test accuracy of every trained model against its seconds of training, and the frontier of those not surpassed.

    Args:
        frame: From `harness.load(FOLDER)`, or some of its rows: of one data set; lengths of a model are points of it.
        metric: Column such as `ndcg@10`.
        ax: Where to draw; None: the current axes.

    Returns:
        The axes: x in seconds, logarithmic, y from 0 to 1. A point is the mean over the seeds of a label and length;
        the steps join the points that no other ranks above after as little training, up to the longest training.

    Raises:
        UserError: No such metric, no timed training among the rows, or rows of several data sets.
    """
    if metric not in names():
        raise unknown("metric", metric, names())
    own = _rows(frame, metric, "training cells with a test")
    dataset = _one(own, "dataset")
    # Only the times of cells that ran alone can be compared.
    own = _rows(own[own["timed"].eq(True)], "training_seconds", "timed trainings (`timed: true` in the study)")
    own = _rows(own, "length", "trained models; references alone have no frontier")
    points = own.groupby(["label", "length"], as_index=False)[["training_seconds", metric]].mean()
    labels = _by_label(own, _partner(frame))
    axes: Axes = sns.scatterplot(points, x="training_seconds", y=metric, **labels, s=50, zorder=3, ax=ax)
    best = points.sort_values(["training_seconds", metric], ascending=[True, False])
    best = best[best[metric] > best[metric].cummax().shift(fill_value=-1.0)]
    x = [*best["training_seconds"], points["training_seconds"].max()]
    y = [*best[metric], best[metric].max()]
    axes.step(x, y, where="post", color="#6b7280", linewidth=0.9, zorder=1, gid="frontier")
    log_axis(axes, "training (s)", "x")
    axes.set(ylabel=f"test {metric.upper()} on {dataset}")
    _untitled_legend(axes)
    return axes


def _rows(frame: pd.DataFrame, column: str, what: str) -> pd.DataFrame:
    """The rows that have a number in a column."""
    if column not in frame:
        raise UserError(f"the frame has no column '{column}'; take harness.load(FOLDER), the table 'cells'")
    own = frame.dropna(subset=[column])
    if own.empty:
        raise UserError(f"no row has a '{column}': the folder, or what was chosen of it, holds no {what}")
    return own


def _one(own: pd.DataFrame, column: str) -> Any:
    """The one value of a column."""
    found = list(own[column].dropna().unique())
    if len(found) > 1:
        shown = ", ".join(map(str, found))
        first = repr(found[0]) if isinstance(found[0], str) else found[0]
        raise UserError(
            f"rows of several values of {column} ({shown}); choose one: frame[frame['{column}'] == {first}]"
        )
    if not found:
        raise UserError(f"no row is left to draw: none has a {column} but that of the timing partner itself")
    return found[0]


def _partner(frame: pd.DataFrame) -> str:
    """The label to stand out: the timing partner of the speed cells, or HyenaRec without any."""
    found: Sequence[str] = list(frame["partner"].dropna().unique())
    return found[0] if found else "hyenarec"


def _looks(own: pd.DataFrame, partner: str) -> dict[str, Style]:
    references = set(own.loc[own["family"] == "reference", "label"])
    return styles(own["label"].unique(), partner, references)


def _by_label(own: pd.DataFrame, partner: str) -> dict[str, Any]:
    """Seaborn's arguments for a colour and a marker a label."""
    looks = _looks(own, partner)
    order = [label for label in looks if label in set(own["label"])]
    return {
        "hue": "label",
        "style": "label",
        "hue_order": order,
        "style_order": order,
        "palette": {label: looks[label].colour for label in order},
        "markers": {label: looks[label].marker for label in order},
    }


def _untitled_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    if legend is not None:
        legend.set_title("")


def _curves(own: pd.DataFrame, y: str, partner: str, ax: Axes | None) -> Axes:
    """A line a label over lengths, with the range of its processes."""
    axes = plt.gca() if ax is None else ax
    sns.lineplot(
        own.astype({"length": int, y: float}),
        x="length",
        y=y,
        **_by_label(own, partner),
        dashes=False,
        estimator=_geometric_mean,
        errorbar=("pi", 100),
        ax=axes,
    )
    length_axis(axes, [int(length) for length in own["length"].unique()])
    _untitled_legend(axes)
    return axes


def _geometric_mean(values: pd.Series[float]) -> float:
    return float(np.exp(np.log(values).mean()))
