"""Counts over training events, as the untrained references use them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.base import Interactions

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def popularity_share(interactions: Interactions) -> Floats:
    """`[V]` share of all events that each item has; zero everywhere if there are no events."""
    counts = np.bincount(interactions.items, minlength=interactions.num_items + 1)[1:]
    return counts / max(int(counts.sum()), 1)


def transition_counts(interactions: Interactions) -> sparse.csr_array[np.float64]:
    """`[V, V]`: how often item j + 1 directly follows item i + 1 in a user's events."""
    items = np.asarray(interactions.items)
    within = np.ones(max(len(items) - 1, 0), dtype=bool)
    last_of_user = np.asarray(interactions.offsets)[1:] - 1
    within[last_of_user[(last_of_user >= 0) & (last_of_user < len(within))]] = False
    rows, columns = items[:-1][within] - 1, items[1:][within] - 1
    shape = (interactions.num_items, interactions.num_items)
    return sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()


def last_items(items: Integers, lengths: Integers, ago: int) -> Integers:
    """`[B]` item of every history that lies `ago` events before its last, 0 where there is none."""
    position = lengths - 1 - ago
    return np.where(position >= 0, items[np.arange(len(items)), np.maximum(position, 0)], 0)
