"""Item-kNN over sequences: items that soon follow what the user had last, weighted by nearness on both sides.

Sarwar et al. (Item-based collaborative filtering, WWW 2001) compare items by the cosine of who has had them. Here
it is the cosine of how often j comes after i, since the next item is asked for: with n_i events of item i,

    c_ij = Σ 1 / d over all pairs of one user's events, i first and j d events later, d ≤ WINDOW
    s_ij = c_ij / √(n_i n_j), and 0 for i = j

and the score of j is Σ_a s_{i_a j} / (1 + a) over the last `HISTORY` items i_0, i_1, … of the history, i_0 the last.
The window bounds time and memory by the number of events, however long a single history is.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers, last_items, popularity_share

WINDOW = 10
HISTORY = 50
# So little that it orders only the items that nothing in the history is similar to.
POPULARITY_WEIGHT = 1e-9


@register_reference("item-knn", citation="cosine of ordered co-occurrence; Sarwar et al., item-based CF, WWW 2001")
class ItemKnn(Scorer):
    """Score of item j: `Σ_{a<50} s_{i_a j} / (1 + a) + 1e-9 · popularity`, s the cosine of ordered co-occurrence."""

    def __init__(self) -> None:
        self._share: Floats | None = None
        self._similarity: sparse.csr_array[np.float64] | None = None

    def fit(self, interactions: Interactions) -> None:
        """Count pairs within users and windows, and normalise them."""
        self._share = popularity_share(interactions)
        counts = _ordered_pairs(interactions)
        events = np.bincount(interactions.items, minlength=interactions.num_items + 1)[1:]
        scale = np.maximum(events, 1) ** -0.5
        counts.data *= np.repeat(scale, np.diff(counts.indptr)) * scale[counts.indices]
        self._similarity = counts

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._similarity is None or self._share is None:
            raise ValueError("item-knn has no counts yet; call fit(interactions) first")
        recent = np.stack([last_items(items, lengths, ago) for ago in range(HISTORY)])
        ago, row = np.nonzero(recent)
        shape = (len(items), self._share.size)
        weights = sparse.coo_array((1 / (1 + ago), (row, recent[ago, row] - 1)), shape=shape).tocsr()
        result: Floats = (weights @ self._similarity).toarray()
        result += POPULARITY_WEIGHT * self._share
        return result


def _ordered_pairs(interactions: Interactions) -> sparse.csr_array[np.float64]:
    """`[V, V]`: 1 / d for every time that item j + 1 comes d ≤ WINDOW events after another item i + 1 of a user."""
    items = np.asarray(interactions.items) - 1
    users = np.repeat(np.arange(len(interactions.offsets) - 1), np.diff(interactions.offsets))
    shape = (interactions.num_items, interactions.num_items)
    total = sparse.csr_array(shape, dtype=np.float64)
    for distance in range(1, WINDOW + 1):
        before, after = items[:-distance], items[distance:]
        pairs = (users[:-distance] == users[distance:]) & (before != after)
        weights = np.full(int(pairs.sum()), 1 / distance)
        total = total + sparse.coo_array((weights, (before[pairs], after[pairs])), shape=shape).tocsr()
    return total
