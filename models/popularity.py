"""Popularity: every history gets the items' shares of all training events."""

from __future__ import annotations

import numpy as np

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers, popularity_share


@register_reference("popularity", citation="most frequent items, without a history")
class Popularity(Scorer):
    """Score of item j: its share of all training events."""

    def __init__(self) -> None:
        self._share: Floats | None = None

    def fit(self, interactions: Interactions) -> None:
        """Count events by item."""
        self._share = popularity_share(interactions)

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`, every row the same.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._share is None:
            raise ValueError("popularity has no counts yet; call fit(interactions) first")
        return np.tile(self._share, (len(items), 1))
