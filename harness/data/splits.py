"""Which event is held out for whom, and a checksum of that decision.

Half of the neighbouring events of a MovieLens user carry the same second, so "leave one out" names
several test sets. Here the order of the file is the order of events, ties included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.data.interactions import Integers, Items, StoredInteractions

RULE = "leave-one-out: last event test, the one before it validation, ties in file order"
LEAST_EVENTS = 3
_CHUNK = 1 << 22

HeldOut = Literal["validation", "test"]


@dataclass(frozen=True)
class HeldOutEvents:
    """Histories, and how many of the events right after each are held out.

    Attributes:
        users: `[E]` whose history it is; a user may have several.
        ends: `[E]` position of the first held-out event; the history is all of the user's events before it.
        counts: `[E]` held-out events, 1 or more.
    """

    users: Integers
    ends: Integers
    counts: Integers


@dataclass(frozen=True)
class Split:
    """Which events are ranked after which histories; all others are for training.

    Attributes:
        interactions: All events.
        rule: The rule in words, which is part of the checksum.
        validation: What epochs are chosen by.
        test: What is reported.
    """

    interactions: StoredInteractions
    rule: str
    validation: HeldOutEvents
    test: HeldOutEvents

    @cached_property
    def users(self) -> Integers:
        """The users that are ranked, in file order."""
        return np.unique(self.test.users)

    @property
    def training_only(self) -> int:
        """Number of users that are kept for training and never ranked."""
        return self.interactions.num_users - len(self.users)

    @cached_property
    def training_ends(self) -> Integers:
        """`[U]` position after the last training event of each user."""
        ends = np.array(self.interactions.offsets[1:])
        for held in (self.validation, self.test):
            np.minimum.at(ends, held.users, held.ends)
        return ends

    def held(self, held_out: HeldOut) -> HeldOutEvents:
        """Validation or test."""
        return self.test if held_out == "test" else self.validation

    def targets(self, held_out: HeldOut) -> Integers:
        """`[P]` positions of the held-out events, history after history."""
        held = self.held(held_out)
        return ranges(held.ends, held.ends + held.counts)

    def training(self) -> StoredInteractions:
        """The training events alone, as `Scorer.fit` takes them."""
        starts = np.asarray(self.interactions.offsets[:-1])
        keep = np.ones(self.interactions.num_events, dtype=bool)
        keep[self.targets("test")] = False
        keep[self.targets("validation")] = False
        times = self.interactions.timestamps
        return StoredInteractions(
            items=self.interactions.items[keep],
            offsets=np.concatenate([[0], np.cumsum(self.training_ends - starts)]).astype(np.int64),
            num_items=self.interactions.num_items,
            timestamps=None if times is None else times[keep],
        )

    @cached_property
    def sha256(self) -> str:
        """Checksum over the rule, the events and the held-out positions."""
        digest = hashlib.sha256(self.rule.encode())
        parts: list[Items | Integers] = [self.interactions.items, self.interactions.offsets]
        parts += [self.targets("validation"), self.targets("test")]
        for part in parts:
            digest.update(f"|{len(part)}|".encode())
            for start in range(0, len(part), _CHUNK):
                digest.update(np.ascontiguousarray(part[start : start + _CHUNK]).data)
        return digest.hexdigest()


def leave_one_out(interactions: StoredInteractions, users: Integers | None = None) -> Split:
    """Hold out the last two events of users.

    Args:
        interactions: All events.
        users: Whose, in file order; each must have three events. None: of everyone who has.
    """
    users = np.flatnonzero(interactions.lengths >= LEAST_EVENTS) if users is None else users
    ends, one = np.asarray(interactions.offsets[1:][users]), np.ones_like(users)
    return Split(interactions, RULE, HeldOutEvents(users, ends - 2, one), HeldOutEvents(users, ends - 1, one))


TEMPORAL_RULE = (
    "global-temporal: the last tenth of all events by time is test, the tenth before it validation, equal times "
    "together; a user's events in it are ranked after the history before it; users without training events left out"
)
_VALIDATION_FROM, _TEST_FROM = 0.8, 0.9


def global_temporal(interactions: StoredInteractions) -> Split:
    """Hold out what comes after two moments that are the same for all users, so that nothing is learned from later.

    Who has no event before the first moment cannot be recommended to, and is left out; items that first come after it
    stay, and are ranked with what a model gives an item it never saw. Events of one time lie on one side.

    Args:
        interactions: All events, with times, a user's in their order.

    Raises:
        ValueError: There are no times.
    """
    if interactions.timestamps is None:
        raise ValueError("the split global-temporal needs times, which these data do not have")
    times = np.asarray(interactions.timestamps)
    places = [int(share * len(times)) for share in (_VALIDATION_FROM, _TEST_FROM)]
    moments = np.partition(times, places)[places]
    training, before_test = (_before(interactions, moment) for moment in moments)
    kept = training > 0
    if not kept.all():
        interactions = _of_users(interactions, kept)
        training, before_test = training[kept], before_test[kept]
    starts = np.asarray(interactions.offsets[:-1])
    held = []
    for first, last in ((training, before_test), (before_test, interactions.lengths)):
        users = np.flatnonzero(last > first)
        held.append(HeldOutEvents(users, (starts + first)[users], (last - first)[users]))
    return Split(interactions, TEMPORAL_RULE, *held)


def _before(interactions: StoredInteractions, moment: int) -> Integers:
    """`[U]` events of each user before a moment."""
    counts = np.concatenate([[0], np.cumsum(np.asarray(interactions.timestamps) < moment)])
    found: Integers = counts[interactions.offsets[1:]] - counts[interactions.offsets[:-1]]
    return found


def _of_users(interactions: StoredInteractions, kept: NDArray[np.bool_]) -> StoredInteractions:
    """The events of some users alone."""
    events = np.repeat(kept, interactions.lengths)
    times = interactions.timestamps
    return StoredInteractions(
        items=interactions.items[events],
        offsets=np.concatenate([[0], np.cumsum(interactions.lengths[kept])]).astype(np.int64),
        num_items=interactions.num_items,
        timestamps=None if times is None else times[events],
    )


# What validation is, where data come as train and test alone.
TAKEN = "the last training event of every user of test who has two"
GIVEN_RULE = (
    "given: validation and test are the files of the data set, their events ranked after those of the files before; "
    f"without a file of validation it is {TAKEN}"
)
# Beside the arrays of data that come split: int64 [U, 2], events of validation and of test at the end of each user's.
HELD_OUT_FILE = "held_out.npy"


def given(interactions: StoredInteractions) -> Split:
    """Hold out what the files of a data set do, see harness/data/parts.py.

    Args:
        interactions: Prepared arrays, still in their folder: a split is told nothing else, and beside them lies how
            many of a user's last events are held out.

    Raises:
        ValueError: They are not, or the data did not come split.
    """
    place = getattr(interactions.items, "filename", None)
    file = None if place is None else Path(place).parent / HELD_OUT_FILE
    if file is None or not file.is_file():
        raise ValueError("the split given needs data that come as files of train and test, which these do not")
    counts = np.load(file)
    test_ends = np.asarray(interactions.offsets[1:]) - counts[:, 1]
    held = []
    for ends, count in ((test_ends - counts[:, 0], counts[:, 0]), (test_ends, counts[:, 1])):
        users = np.flatnonzero(count)
        held.append(HeldOutEvents(users, ends[users], count[users]))
    return Split(interactions, GIVEN_RULE, *held)


# By the name in a cell's spec. A cell's source digest covers the entry of its own split alone.
SPLITS: dict[str, Callable[[StoredInteractions], Split]] = {
    "leave-one-out": leave_one_out,
    "global-temporal": global_temporal,
    "given": given,
}


def ranges(starts: Integers, ends: Integers) -> Integers:
    """The numbers `starts[i] … ends[i] − 1` of all i, one range after the other."""
    counts = ends - starts
    before = np.cumsum(counts) - counts
    found: Integers = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return found
