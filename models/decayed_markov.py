"""Markov scores summed over the last ten items with geometric decay."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers, last_items, popularity_share, transition_counts

HISTORY = 10
DECAY = 0.7
POPULARITY_WEIGHT = 0.001


@register_reference("decayed-markov", citation="transition shares, decayed over the last ten items")
class DecayedMarkov(Scorer):
    """Score of item j: `Σ_{a<10} 0.7^a · share of j after the a-th last item + 0.001 · popularity`.

    The shares of an item that nothing ever followed are zero.
    """

    def __init__(self) -> None:
        self._share: Floats | None = None
        self._transitions: sparse.csr_array[np.float64] | None = None

    def fit(self, interactions: Interactions) -> None:
        """Count transitions within users and normalise each item's row to 1."""
        self._share = popularity_share(interactions)
        counts = transition_counts(interactions)
        totals: Floats = np.asarray(counts.sum(axis=1)).ravel()
        counts.data /= np.repeat(totals, np.diff(counts.indptr))
        self._transitions = counts

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._transitions is None or self._share is None:
            raise ValueError("decayed-markov has no counts yet; call fit(interactions) first")
        batch = len(items)
        recent = np.stack([last_items(items, lengths, ago) for ago in range(HISTORY)])
        ago, row = np.nonzero(recent)
        weights = sparse.coo_array((DECAY**ago, (row, recent[ago, row] - 1)), shape=(batch, self._share.size)).tocsr()
        result: Floats = (weights @ self._transitions).toarray()
        result += POPULARITY_WEIGHT * self._share
        return result
