"""Batches: right-padded, to the longest of the batch and not to L, in an order that resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.data.interactions import Integers, StoredInteractions
from harness.data.splits import HeldOut, Split


@dataclass(frozen=True)
class Batch:
    """Training sequences.

    Attributes:
        items: `[B, T]` int64, 0 = padding on the right, oldest first.
        targets: `[B, T]` int64, 0 where a position has no target.
        timestamps: `[B, T]` int64 seconds, where the data has them.
    """

    items: Integers
    targets: Integers
    timestamps: Integers | None = None

    @property
    def tokens(self) -> int:
        """Positions with a target."""
        return int(np.count_nonzero(self.targets))


@dataclass(frozen=True)
class Query:
    """Histories whose next event is held out.

    Attributes:
        items: `[B, T]` int64, 0 = padding on the right: at most the last L events of each history.
        lengths: `[B]` events in each row.
        targets: `[B]` the held-out items.
        seen_rows: Row of every (row, item) pair to filter out of the ranking: all items of the
            whole history except the target itself.
        seen_items: Its item.
        timestamps: `[B, T]` int64 seconds, where the data has them.
    """

    items: Integers
    lengths: Integers
    targets: Integers
    seen_rows: Integers
    seen_items: Integers
    timestamps: Integers | None = None


class TrainingSequences:
    """The last L + 1 training events of each user: input all but the last, target all but the first.

    A user with a single training event has no pair of input and target and cannot be a sequence.

    Args:
        split: Which events are for training.
        length: Longest input L.
        batch_size: Sequences per batch; the last batch of an epoch may be smaller.
        seed: With the epoch, decides the order.
    """

    def __init__(self, split: Split, length: int, batch_size: int, seed: int) -> None:
        self._interactions = split.interactions
        ends = split.training_ends
        starts = np.maximum(split.interactions.offsets[:-1], ends - length - 1)
        usable = ends - starts >= 2
        self._starts, self._ends = starts[usable], ends[usable]
        self._batch_size, self._seed = batch_size, seed

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._starts)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-len(self) // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All sequences once, in an order that depends on seed and epoch alone."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self))
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            padded, times = _pad(self._interactions, self._starts[chosen], self._ends[chosen])
            items = padded[:, :-1].copy()
            items[padded[:, 1:] == 0] = 0
            yield Batch(items, padded[:, 1:], None if times is None else np.where(items > 0, times[:, :-1], 0))


def queries(split: Split, held_out: HeldOut, *, length: int | None, batch_size: int) -> Iterator[Query]:
    """Queries of all ranked users, in the order of the split.

    Args:
        split: Who is ranked on what.
        held_out: Which event is the target; the query is all events before it.
        length: Longest history L given to the model; None: all of it.
        batch_size: Users per batch.
    """
    stored = split.interactions
    positions = split.targets(held_out)
    for first in range(0, len(positions), batch_size):
        ends = positions[first : first + batch_size]
        starts = np.asarray(stored.offsets[:-1][split.users[first : first + batch_size]])
        kept = starts if length is None else np.maximum(starts, ends - length)
        items, times = _pad(stored, kept, ends)
        targets = stored.items[ends].astype(np.int64)
        history = items if length is None else _pad(stored, starts, ends)[0]
        rows, columns = np.nonzero((history > 0) & (history != targets[:, None]))
        yield Query(items, ends - kept, targets, rows, history[rows, columns], times)


def _pad(stored: StoredInteractions, starts: Integers, ends: Integers) -> tuple[Integers, Integers | None]:
    positions = starts[:, None] + np.arange((ends - starts).max())
    inside = positions < ends[:, None]
    positions = np.minimum(positions, ends[:, None] - 1)
    items = np.where(inside, stored.items[positions], 0).astype(np.int64)
    times = stored.timestamps
    return items, None if times is None else np.where(inside, times[positions], 0).astype(np.int64)


def _next_item(batch: Batch) -> Batch:
    return batch


TRANSFORMS: dict[str, Callable[[Batch], Batch]] = {"next-item": _next_item}
