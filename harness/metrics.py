"""Ranking metrics of one relevant item a user, from its rank r: THE table.

To add one, write its gain and name it in `GAINS`: it then stands at every cut-off in the analysis, the report and the
frames, for records measured before too, since a record keeps the rank of every user. A training cell computes
the metric that chooses epochs alone, so no record becomes stale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.float64]

CUTOFFS = (1, 5, 10, 20)
# The metric that chooses epochs and that claims about accuracy are about.
SELECTION: Final = "ndcg@10"


def hit(ranks: Ranks) -> Ranks:
    """1: the target is among the first k (HR; with one relevant item, recall too)."""
    return np.ones_like(ranks)


def discount(ranks: Ranks) -> Ranks:
    """1 / log₂(r + 1), the gain of NDCG with an ideal gain of 1 (Järvelin and Kekäläinen, TOIS 2002)."""
    return 1 / np.log2(ranks + 1)


def reciprocal(ranks: Ranks) -> Ranks:
    """1 / r, as in MRR."""
    return 1 / ranks


# Name → gain of a rank that is within the cut-off; beyond it the gain is 0.
GAINS: dict[str, Callable[[Ranks], Ranks]] = {
    "hr": hit,
    "ndcg": discount,
    "mrr": reciprocal,
}


def names() -> list[str]:
    """Every metric at every cut-off, such as `hr@1`."""
    return [f"{name}@{k}" for name in GAINS for k in CUTOFFS]


def gains(metric: str, ranks: Ranks) -> Ranks:
    """Gain of every rank.

    Args:
        metric: One of `names()`.
        ranks: Of any shape; ties give half ranks.

    Returns:
        Numbers of the same shape; their mean is the metric.
    """
    name, _, k = metric.partition("@")
    return within(ranks, int(k), GAINS[name])


def within(ranks: Ranks, k: int, gain: Callable[[Ranks], Ranks]) -> Ranks:
    """A gain where r < k + 1, so that half ties count, else 0."""
    return np.where(ranks < k + 1, gain(ranks), 0.0)


def ndcg(ranks: Ranks, k: int) -> float:
    """NDCG@k, the mean over the users.

    Args:
        ranks: `[E]` ranks, E ≥ 1.
        k: Cut-off.
    """
    return float(within(ranks, k, discount).mean())
