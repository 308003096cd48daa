"""What the figures of accuracy against a length or a lag share: a line a model through its means."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from harness.report.drawing import Ends, look_of_hues, present
from harness.report.theme import Style


def means_against(what: Literal["length", "lag"], axes: Axes, rows: pd.DataFrame, looks: dict[str, Style]) -> Ends:
    """Draw each model's means with their intervals against one column.

    Args:
        what: The column, in events.
        axes: Where to draw.
        rows: Columns `label`, `mean`, `interval` (a pair, of NaN where there is none) and the one against which.
        looks: Style of every label.

    Returns:
        The last point of every line.
    """
    labels = present(looks, rows["label"])
    # Side by side: bands of models that differ little would hide each other.
    shifts = {label: 1.03 ** (place - (len(labels) - 1) / 2) for place, label in enumerate(labels)}
    own = rows.sort_values(what)
    own = own.assign(x=own[what] * own["label"].map(shifts))
    for x, label, (low, high) in zip(own["x"], own["label"], own["interval"], strict=True):
        axes.plot([x, x], [low, high], "-", color=looks[label].colour, linewidth=0.9, alpha=0.8)
    sns.lineplot(
        own,
        x="x",
        y="mean",
        estimator=None,
        style="label",
        markers={label: looks[label].marker for label in labels},
        dashes=False,
        size="label",
        sizes={label: looks[label].width for label in labels},
        markersize=4.6,
        markeredgecolor="white",
        **look_of_hues(looks, labels, axes),
    )
    last = own.groupby("label").last()
    return {label: (float(last[what][label]), float(last["mean"][label])) for label in labels}
