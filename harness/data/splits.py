"""Which event is held out for whom, and a checksum of that decision.

Half of the neighbouring events of a MovieLens user carry the same second, so "leave one out" names
several test sets. Here the order of the file is the order of events, ties included.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from harness.data.interactions import Integers, Items, StoredInteractions

RULE = "leave-one-out: last event test, the one before it validation, ties in file order"
LEAST_EVENTS = 3
_CHUNK = 1 << 22

HeldOut = Literal["validation", "test"]


@dataclass(frozen=True)
class Split:
    """A leave-one-out split.

    Attributes:
        interactions: All events.
        users: `[E]` users with at least three events, in file order; they are ranked.
    """

    interactions: StoredInteractions
    users: Integers

    @property
    def training_only(self) -> int:
        """Number of users with fewer than three events: kept for training, never ranked."""
        return self.interactions.num_users - len(self.users)

    @cached_property
    def training_ends(self) -> Integers:
        """`[U]` position after the last training event of each user."""
        ends = np.array(self.interactions.offsets[1:])
        ends[self.users] -= 2
        return ends

    def targets(self, held_out: HeldOut) -> Integers:
        """`[E]` position of each ranked user's held-out event; the query is all before it."""
        return np.asarray(self.interactions.offsets[1:][self.users] - (1 if held_out == "test" else 2))

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
        digest = hashlib.sha256(RULE.encode())
        parts: list[Items | Integers] = [self.interactions.items, self.interactions.offsets]
        parts += [self.targets("validation"), self.targets("test")]
        for part in parts:
            digest.update(f"|{len(part)}|".encode())
            for start in range(0, len(part), _CHUNK):
                digest.update(np.ascontiguousarray(part[start : start + _CHUNK]).data)
        return digest.hexdigest()


def leave_one_out(interactions: StoredInteractions) -> Split:
    """Hold out the last two events of every user who has at least three."""
    return Split(interactions, np.flatnonzero(interactions.lengths >= LEAST_EVENTS))
