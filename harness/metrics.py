"""Ranking metrics of one relevant item a user, from its rank r."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ndcg(ranks: NDArray[np.float64], k: int) -> float:
    """NDCG@k, the mean over the users: 1 / log₂(r + 1) for r < k + 1, so that half ties count, else 0.

    Args:
        ranks: `[E]` ranks, E ≥ 1.
        k: Cut-off.
    """
    return float(np.where(ranks < k + 1, 1 / np.log2(ranks + 1), 0.0).mean())
