"""Most recent items: the user's own, the last one first.

For data in which people come back to what they have had, such as music, groceries or web pages, and a ranking
that keeps seen items: there repeating the last items is a strong baseline. Where seen items are left out of the
ranking, as for ratings, nothing of it remains but its order of unseen items, which is popularity.
"""

from __future__ import annotations

import numpy as np

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers, popularity_share


@register_reference("most-recent", citation="the user's own items, the most recent first, then by popularity")
class MostRecent(Scorer):
    """Score of item j: `1 + 1 / (1 + a)` if the history last had it a events before its end, else j's share of events.

    A share is at most 1, so what the history has had stands above all else.
    """

    def __init__(self) -> None:
        self._share: Floats | None = None

    def fit(self, interactions: Interactions) -> None:
        """Count events by item, for the order of the items that a history has not had."""
        self._share = popularity_share(interactions)

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._share is None:
            raise ValueError("most-recent has no counts yet; call fit(interactions) first")
        found = np.tile(self._share, (len(items), 1))
        rows, columns = np.nonzero(items)
        # The largest counts: an item's last event is its most recent one.
        np.maximum.at(found, (rows, items[rows, columns] - 1), 1 + 1 / (lengths[rows] - columns))
        return found
