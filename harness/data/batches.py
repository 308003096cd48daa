"""Batches: right-padded, to the longest of the batch and not to L, in an order that resumes.

Three objectives cut batches from the same sequences in the same order, so that models differ in
nothing else:

- `next-item`: every event but the first is a target, at the position before it.
- `masked-item` (BERT4Rec): 20 % of the events, at least one, are replaced by the mask V + 1 and are
  targets where they stood. To rank, a mask follows the history, which then is at most L − 1 events.
- `last-item` (FMLP-Rec): one target a sequence, at the last real position: the event at a cut drawn
  anew in every epoch, uniformly from all but the first. The published code trains on every prefix
  of every sequence; a random prefix is a sample of that at the cost of one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.data.interactions import Integers, StoredInteractions
from harness.data.splits import HeldOut, Split

# BERT4Rec's share on MovieLens and in its common re-implementations.
MASKED_SHARE = 0.2


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
        """Real positions; under `next-item` all have a target."""
        return int(np.count_nonzero(self.items))


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
    """The last L + 1 training events of each user, and the batches that an objective cuts from them.

    A user with a single training event has no pair of input and target and cannot be a sequence.

    Args:
        split: Which events are for training.
        length: Longest input L.
        batch_size: Sequences per batch; the last batch of an epoch may be smaller.
        seed: With the epoch, decides the order, the masks and the cuts.
        objective: One of `TRANSFORMS`.
    """

    def __init__(self, split: Split, length: int, batch_size: int, seed: int, objective: str = "next-item") -> None:
        self._interactions = split.interactions
        ends = split.training_ends
        starts = np.maximum(split.interactions.offsets[:-1], ends - length - 1)
        usable = ends - starts >= 2
        self._starts, self._ends = starts[usable], ends[usable]
        self._length, self._batch_size, self._seed = length, batch_size, seed
        self._transform = TRANSFORMS[objective]

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._starts)

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return -(-len(self) // self._batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All sequences once, in an order that depends on seed and epoch alone."""
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(len(self))
        for first in range(0, len(order), self._batch_size):
            chosen = order[first : first + self._batch_size]
            events, times = _pad(self._interactions, self._starts[chosen], self._ends[chosen])
            yield self._transform(_Events(events, times, self._length, self._interactions.num_items), random)


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


def with_mask(query: Query, mask: int) -> Query:
    """The query with a mask after each history, which a model of masked items fills in.

    The time of the event to come is unknown; the mask carries that of the last one.

    Args:
        query: Histories of at most L − 1 events.
        mask: Id of the mask, V + 1.
    """
    rows = np.arange(len(query.lengths))
    items = np.pad(query.items, ((0, 0), (0, 1)))
    items[rows, query.lengths] = mask
    times = query.timestamps
    if times is not None:
        times = np.pad(times, ((0, 0), (0, 1)))
        times[rows, query.lengths] = times[rows, np.maximum(query.lengths - 1, 0)]
    return replace(query, items=items, lengths=query.lengths + 1, timestamps=times)


@dataclass(frozen=True)
class _Events:
    """Right-padded sequences of at least two and at most L + 1 events, before the objective."""

    items: Integers
    times: Integers | None
    length: int
    num_items: int


def _next_item(events: _Events, random: np.random.Generator) -> Batch:
    items = events.items[:, :-1].copy()
    items[events.items[:, 1:] == 0] = 0
    times = None if events.times is None else np.where(items > 0, events.times[:, :-1], 0)
    return Batch(items, events.items[:, 1:], times)


def _masked_item(events: _Events, random: np.random.Generator) -> Batch:
    items, times = events.items, events.times
    if items.shape[1] > events.length:
        # A sequence of L + 1 events loses its first, which only `next-item` can use.
        whole = (items[:, -1] > 0)[:, None]
        items = np.where(whole, items[:, 1:], items[:, :-1])
        times = None if times is None else np.where(whole, times[:, 1:], times[:, :-1])
    real = items > 0
    counts = np.maximum(1, np.rint(MASKED_SHARE * real.sum(axis=1))).astype(np.int64)
    # The smallest of random keys: every choice of that many positions is equally likely.
    keys = np.where(real, random.random(items.shape), np.inf)
    chosen = keys.argsort(axis=1).argsort(axis=1) < counts[:, None]
    return Batch(np.where(chosen, events.num_items + 1, items), np.where(chosen, items, 0), times)


def _last_item(events: _Events, random: np.random.Generator) -> Batch:
    cuts = random.integers(1, (events.items > 0).sum(axis=1))
    rows, columns = np.arange(len(cuts)), np.arange(cuts.max())
    inside = columns < cuts[:, None]
    items = np.where(inside, events.items[:, : len(columns)], 0)
    targets = np.zeros_like(items)
    targets[rows, cuts - 1] = events.items[rows, cuts]
    times = None if events.times is None else np.where(inside, events.times[:, : len(columns)], 0)
    return Batch(items, targets, times)


TRANSFORMS: dict[str, Callable[[_Events, np.random.Generator], Batch]] = {
    "next-item": _next_item,
    "masked-item": _masked_item,
    "last-item": _last_item,
}
