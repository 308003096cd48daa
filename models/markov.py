"""First-order Markov chain: what followed the last item in the training events."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers, last_items, popularity_share, transition_counts


@register_reference("markov", citation="first-order transition counts; Rendle et al., FPMC, WWW 2010, without factors")
class Markov(Scorer):
    """Score of item j after item i: the count of i → j, ties broken by j's share of all events."""

    def __init__(self) -> None:
        self._share: Floats | None = None
        self._counts: sparse.csr_array[np.float64] | None = None

    def fit(self, interactions: Interactions) -> None:
        """Count transitions within users."""
        self._share = popularity_share(interactions)
        self._counts = transition_counts(interactions)

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`: the last item's row of counts plus the popularity share.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._counts is None or self._share is None:
            raise ValueError("markov has no counts yet; call fit(interactions) first")
        result: Floats = self._counts[last_items(items, lengths, 0) - 1].toarray()
        result += self._share
        return result
