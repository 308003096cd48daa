"""Whether a split leaks: what is held out must not be learned from, nor stand in its own history already."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data import interactions
from harness.data.account import Leaks
from harness.data.interactions import Integers, StoredInteractions
from harness.data.splits import SPLITS, HeldOut, HeldOutEvents, Split, ranges

# Some 250 MiB while events of a piece of users are compared, however many there are.
_EVENTS = 1 << 22
_PARTS: tuple[HeldOut, HeldOut] = ("validation", "test")


def leaks(split: Split) -> Leaks:
    """Check every held-out event of a split.

    Args:
        split: By any rule.
    """
    stored = split.interactions
    targets = [split.targets(part) for part in _PARTS]
    whose = [np.repeat(split.held(part).users, split.held(part).counts) for part in _PARTS]
    trained = sum(
        int((positions < split.training_ends[users]).sum()) for positions, users in zip(targets, whose, strict=True)
    )
    both = np.intersect1d(targets[0], targets[1])
    again = [in_history(stored, split.held(part)) for part in _PARTS]
    counts = {
        "held_out": sum(map(len, targets)),
        "trained": trained + len(both),
        "had_before": sum(int(found.sum()) for found in again),
    }
    times = stored.timestamps
    if times is None:
        return Leaks(**counts)
    return Leaks(
        **counts,
        copies=sum(_copies(stored, split.held(part), found) for part, found in zip(_PARTS, again, strict=True)),
        earlier=sum(int(_before_history(stored, times, split.held(part)).sum()) for part in _PARTS),
        later_training=_later_training(split, times[targets[1]]),
    )


def _copies(stored: StoredInteractions, held: HeldOutEvents, again: NDArray[np.bool_]) -> int:
    """How many held-out events stand in their history with the same time; `again` says which are there at any time."""
    # Those are few in most data, and only their histories need to be looked through once more.
    rows = np.unique(np.repeat(np.arange(len(held.users)), held.counts)[again])
    some = HeldOutEvents(held.users[rows], held.ends[rows], held.counts[rows])
    return int(in_history(stored, some, same_time=True).sum())


def _later_training(split: Split, tested: Integers) -> float | None:
    """Mean over test events of the share of training events that are later."""
    training = split.training().timestamps
    if training is None or not len(training) or not len(tested):
        return None
    later = len(training) - np.searchsorted(np.sort(training), tested, side="right")
    return float(later.mean() / len(training))


@cache
def of_arrays(folder: Path, rule: str) -> Leaks:
    """The same of prepared arrays; once in a process, which may run many cells on them.

    Args:
        folder: Of the arrays.
        rule: An entry of `harness.data.splits.SPLITS`.
    """
    return leaks(SPLITS[rule](interactions.load(folder)[0]))


def in_history(stored: StoredInteractions, held: HeldOutEvents, *, same_time: bool = False) -> NDArray[np.bool_]:
    """Which held-out events are of an item that stands in the history that they are ranked after.

    Args:
        stored: All events.
        held: Those that are held out.
        same_time: Count an event of the history only if it has the same time too, which the data must have.

    Returns:
        `[P]`, history after history.
    """
    found = np.zeros(int(held.counts.sum()), dtype=bool)
    places = np.concatenate([[0], np.cumsum(held.counts)])
    for first, last in _pieces(stored, held):
        users, ends, counts = (part[first:last] for part in (held.users, held.ends, held.counts))
        starts = np.asarray(stored.offsets[users])
        history, targets = ranges(starts, ends), ranges(ends, ends + counts)
        own = np.arange(len(users))
        # One number for each pair of a history and an item, and of a time: equal ones are equal numbers.
        row = np.concatenate([np.repeat(own, ends - starts), np.repeat(own, counts)])
        positions = np.concatenate([history, targets])
        key = row * (stored.num_items + 1) + stored.items[positions]
        if same_time and stored.timestamps is not None:
            moments, moment = np.unique(stored.timestamps[positions], return_inverse=True)
            key = np.unique(key, return_inverse=True)[1] * len(moments) + moment
        found[places[first] : places[last]] = np.isin(key[len(history) :], key[: len(history)])
    return found


def _pieces(stored: StoredInteractions, held: HeldOutEvents) -> Iterator[tuple[int, int]]:
    """Ranges of the histories, each of some millions of events or a single one."""
    sizes = np.cumsum(held.ends - stored.offsets[held.users] + held.counts)
    first = 0
    while first < len(sizes):
        before = sizes[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(sizes, before + _EVENTS, side="right")))
        yield first, last
        first = last


def _before_history(stored: StoredInteractions, times: Integers, held: HeldOutEvents) -> NDArray[np.bool_]:
    """`[P]` which held-out events are earlier than an event of the history that they are ranked after."""
    # Histories may be out of order themselves where files of a split were joined: the latest event counts.
    starts = np.asarray(stored.offsets[held.users])
    lengths = held.ends - starts
    filled = lengths > 0
    latest = np.full(len(lengths), np.iinfo(np.int64).min)
    if filled.any():
        bounds = np.cumsum(lengths[filled]) - lengths[filled]
        latest[filled] = np.maximum.reduceat(times[ranges(starts[filled], held.ends[filled])], bounds)
    found: NDArray[np.bool_] = times[ranges(held.ends, held.ends + held.counts)] < np.repeat(latest, held.counts)
    return found
