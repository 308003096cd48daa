"""Batches of sequences of like length, right-padded to the longest of the batch, in an order that resumes.

A batch holds about as many positions as `batch_size` sequences of mean length do: fewer long sequences or
more short ones. So a step costs the same whatever its batch, and few positions are padding: of random batches
of 128 users 46 % are on ML-1M and 90 % on Beauty, at L = 200.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from harness.data.interactions import Integers, StoredInteractions
from harness.data.splits import HeldOut, Split, ranges

# BERT4Rec's share on MovieLens and in its common re-implementations.
MASKED_SHARE = 0.2
# Some 300 MiB while a query is made: what histories of 32,768 events leave of 256 users.
_EVENTS_PER_BATCH = 1 << 23


@dataclass(frozen=True)
class Batch:
    """Training sequences.

    Attributes:
        items: `[B, T]` int64, 0 = padding on the right, oldest first.
        targets: `[N]` int64, the items to predict.
        positions: `[N]` int64, where: row · T + column, rising.
        tokens: Real positions; under `next-item` all have a target.
        weight: What the mean loss of its targets counts for in a step: how many they are, in units of the
            epoch's mean. So every target of an epoch weighs the same, whatever batch it came into.
        timestamps: `[B, T]` int64 seconds, where the data has them.
    """

    items: Integers
    targets: Integers
    positions: Integers
    tokens: int
    weight: float
    timestamps: Integers | None = None


@dataclass(frozen=True)
class Query:
    """Histories and the items that are held out after them.

    Attributes:
        items: `[B, T]` int64, 0 = padding on the right: at most the last L events of each history.
        lengths: `[B]` events in each row.
        rows: `[P]` row of each held-out item; a row may have several.
        targets: `[P]` the held-out items.
        places: `[P]` place of each among all held-out events of the split.
        seen_rows: `[S]` row of every event of the whole histories, to be left out of the ranking.
        seen_items: `[S]` its item.
        timestamps: `[B, T]` int64 seconds, where the data has them.
    """

    items: Integers
    lengths: Integers
    rows: Integers
    targets: Integers
    places: Integers
    seen_rows: Integers
    seen_items: Integers
    timestamps: Integers | None = None


class TrainingSequences:
    """The last L + 1 training events of each user, and the batches that an objective cuts from them.

    A user with a single training event has no pair of input and target and cannot be a sequence.

    Args:
        split: Which events are for training.
        length: Longest input L.
        batch_size: Sequences of mean length per batch.
        seed: With the epoch, decides the order, the masks and the cuts.
        objective: One of `OBJECTIVES`.

    Attributes:
        steps: Batches per epoch.
    """

    def __init__(self, split: Split, length: int, batch_size: int, seed: int, objective: str = "next-item") -> None:
        self._interactions = split.interactions
        ends = split.training_ends
        starts = np.maximum(split.interactions.offsets[:-1], ends - length - 1)
        usable = ends - starts >= 2
        self._starts, self._ends = starts[usable], ends[usable]
        self._length, self._seed = length, seed
        self._objective = OBJECTIVES[objective]
        self._bounds = _bounds(self._ends - self._starts - 1, batch_size)
        self.steps = len(self._bounds) - 1
        self._mean_targets = self._objective.count(self._ends - self._starts, length).sum() / max(1, self.steps)

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self._starts)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """All sequences once, in an order that depends on seed and epoch alone.

        Sequences of one length fall to their batches at random, and batches come in random order. One
        is cut while the one before it is worked on.
        """
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(len(self))
        order = order[np.argsort((self._starts - self._ends)[order], kind="stable")]
        places = random.permutation(self.steps)
        return _ahead(self._batch(order[self._bounds[k] : self._bounds[k + 1]], random) for k in places)

    def _batch(self, chosen: Integers, random: np.random.Generator) -> Batch:
        events, times = _pad(self._interactions, self._starts[chosen], self._ends[chosen])
        cut = self._objective.cut(_Events(events, times, self._length, self._interactions.num_items), random)
        positions = np.flatnonzero(cut.targets)
        return Batch(
            items=cut.items,
            targets=cut.targets.ravel()[positions],
            positions=positions,
            tokens=int(np.count_nonzero(cut.items)),
            weight=float(len(positions) / self._mean_targets),
            timestamps=cut.times,
        )


def _bounds(lengths: Integers, batch_size: int) -> list[int]:
    """Where to cut sequences, longest first: no batch of several takes more than `batch_size` of mean length do."""
    longest_first, bounds = np.sort(lengths)[::-1], [0]
    positions = batch_size * (lengths.sum() / max(1, len(lengths)))
    while bounds[-1] < len(lengths):
        rows = int(positions // longest_first[bounds[-1]])
        bounds.append(min(bounds[-1] + max(1, rows), len(lengths)))
    return bounds


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def queries(split: Split, held_out: HeldOut, *, length: int | None, batch_size: int) -> Iterator[Query]:
    """Queries of all histories of a split, with all that is held out after each.

    Args:
        split: What is ranked after what.
        held_out: `validation` or `test`.
        length: Longest history L given to the model; batches are in the order of the split. None: all of it;
            batches are of histories about as long as each other.
        batch_size: Most histories a batch; fewer where one of them is very long.
    """
    stored, held = split.interactions, split.held(held_out)
    starts = np.asarray(stored.offsets[:-1][held.users])
    lengths, places = held.ends - starts, np.cumsum(held.counts) - held.counts
    # Whole histories are padded to the longest of their batch.
    order = np.arange(len(lengths)) if length is not None else lengths.argsort(kind="stable")
    for chosen in _pieces(order, lengths, batch_size):
        begin, ends, counts = starts[chosen], held.ends[chosen], held.counts[chosen]
        kept = begin if length is None else np.maximum(begin, ends - length)
        items, times = _pad(stored, kept, ends)
        rows = np.arange(len(chosen))
        yield Query(
            items=items,
            lengths=ends - kept,
            rows=np.repeat(rows, counts),
            targets=stored.items[ranges(ends, ends + counts)].astype(np.int64),
            places=ranges(places[chosen], places[chosen] + counts),
            seen_rows=np.repeat(rows, lengths[chosen]),
            seen_items=stored.items[ranges(begin, ends)].astype(np.int64),
            timestamps=times,
        )


def _pieces(order: Integers, lengths: Integers, most: int) -> Iterator[Integers]:
    """`order` in pieces of at most `most`, shorter where all would be too many events if as long as the longest."""
    first = longest = 0
    for place, length in enumerate(lengths[order].tolist()):
        count, longest = place - first, max(longest, length)
        if count == most or (count and (count + 1) * longest > _EVENTS_PER_BATCH):
            yield order[first:place]
            first, longest = place, length
    yield order[first:]


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


@dataclass(frozen=True)
class _Cut:
    """Inputs `[B, T]`, their targets, 0 where a position has none, and times."""

    items: Integers
    targets: Integers
    times: Integers | None


def _next_item(events: _Events, random: np.random.Generator) -> _Cut:
    items = events.items[:, :-1].copy()
    items[events.items[:, 1:] == 0] = 0
    times = None if events.times is None else np.where(items > 0, events.times[:, :-1], 0)
    return _Cut(items, events.items[:, 1:], times)


def _masked_item(events: _Events, random: np.random.Generator) -> _Cut:
    items, times = events.items, events.times
    if items.shape[1] > events.length:
        # A sequence of L + 1 events loses its first, which only `next-item` can use.
        whole = (items[:, -1] > 0)[:, None]
        items = np.where(whole, items[:, 1:], items[:, :-1])
        times = None if times is None else np.where(whole, times[:, 1:], times[:, :-1])
    real = items > 0
    counts = _masked(real.sum(axis=1), events.length)
    # The smallest of random keys: every choice of that many positions is equally likely.
    keys = np.where(real, random.random(items.shape), np.inf)
    chosen = keys.argsort(axis=1).argsort(axis=1) < counts[:, None]
    return _Cut(np.where(chosen, events.num_items + 1, items), np.where(chosen, items, 0), times)


def _masked(events: Integers, length: int) -> Integers:
    return np.maximum(1, np.rint(MASKED_SHARE * np.minimum(events, length))).astype(np.int64)


def _last_item(events: _Events, random: np.random.Generator) -> _Cut:
    cuts = random.integers(1, (events.items > 0).sum(axis=1))
    rows, columns = np.arange(len(cuts)), np.arange(cuts.max())
    inside = columns < cuts[:, None]
    items = np.where(inside, events.items[:, : len(columns)], 0)
    targets = np.zeros_like(items)
    targets[rows, cuts - 1] = events.items[rows, cuts]
    times = None if events.times is None else np.where(inside, events.times[:, : len(columns)], 0)
    return _Cut(items, targets, times)


@dataclass(frozen=True)
class _Objective:
    """How batches are cut, and how many targets sequences of so many events at a length L have."""

    cut: Callable[[_Events, np.random.Generator], _Cut]
    count: Callable[[Integers, int], Integers]


OBJECTIVES: dict[str, _Objective] = {
    "next-item": _Objective(_next_item, lambda events, length: events - 1),
    "masked-item": _Objective(_masked_item, _masked),
    "last-item": _Objective(_last_item, lambda events, length: np.ones_like(events)),
}
