"""What a study does to the events of a data set before they are split: repeats, k-core, sample of users, length."""

from __future__ import annotations

import hashlib
import itertools
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from harness.data.account import Account, given, in_words
from harness.data.formats import Histories, cut
from harness.data.interactions import Integers
from harness.errors import UserError

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done, in this order.

    Attributes:
        repeats: `keep`; `first`: of several events of a user with one item the first stays; `exact`: of several
            events of a user with one item in one second.
        core: Least events of every user and every item that stay.
        core_passes: `all`: users and items are left out until every one that is left has that many. `one`: once, by
            the counts of all events, as the published files of Amazon's reviews were made
            (repository kang205/SASRec, data/DataProcessing.py); some may then have fewer.
        users: So many users, drawn by `seed` from those that are left; items keep what events these have.
        seed: Of that draw.
        longest: The last so many events of each user.
    """

    repeats: Literal["keep", "first", "exact"] = "keep"
    core: _Count = 1
    core_passes: Literal["all", "one"] = "all"
    users: _Count | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    longest: _Count | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The choices that differ from their defaults."""
        return given(self, Preparation)

    @property
    def words(self) -> str:
        """The same in words, for a cell's spec and the key of the cache."""
        return in_words(self.given)

    def problem(self) -> str | None:
        """What is wrong with the choices together; None if nothing is."""
        if self.core_passes == "one" and self.core == 1:
            return "core_passes says how often a k-core is taken, and core is 1; write `core: 5`, or leave it out"
        if self.seed and self.users is None:
            return "seed is that of a sample of users; write `users: 1000`, or leave it out"
        return None


def prepared(name: str, choices: Preparation, found: Histories, account: Account) -> Histories:
    """Histories after a preparation, items numbered anew from 1 in the order of their first event.

    Args:
        name: Of the data set, for messages.
        choices: What to do.
        found: Histories of a reader, and times of the same events or None.
        account: Told what was left out.

    Raises:
        UserError: Nothing is left, or fewer users than were to be drawn.
    """
    histories = [np.asarray(history, np.int64) for history in found[0]]
    lengths = np.array([len(history) for history in histories], np.int64)
    items = np.concatenate(histories) if histories else np.empty(0, np.int64)
    times = None if found[1] is None else np.fromiter(itertools.chain.from_iterable(found[1]), np.int64, len(items))
    owner = np.repeat(np.arange(len(histories)), lengths)
    # Places of the events that are left, in the order of the file's users.
    left = np.arange(len(items))
    if choices.repeats == "first":
        left = _told(account, "repeats: first", left, _first_of_each(owner, items))
    if choices.repeats == "exact":
        if times is None:
            raise UserError(
                f"data set '{name}': repeats: exact is of events of one second, and there are no times; write "
                "`repeats: first`, or leave it out"
            )
        left = _told(account, "repeats: exact", left, _first_of_each(owner, items, times))
    if choices.core > 1:
        left = _told(account, f"core: {choices.core}", left, _core(owner, items, left, choices))
    if not len(left):
        raise UserError(f"data set '{name}': core {choices.core} leaves no event; write a smaller one")
    if choices.users is not None:
        left = _told(account, f"users: {choices.users}", left, _sample(name, owner, left, choices.users, choices.seed))
    if choices.longest is not None:
        left = _told(account, f"longest: {choices.longest}", left, _last(owner, left, choices.longest))
    distinct, firsts, places = np.unique(items[left], return_index=True, return_inverse=True)
    numbers = np.empty(len(distinct), np.int64)
    numbers[np.argsort(firsts)] = np.arange(1, len(distinct) + 1)
    account.rows = len(left)
    bounds = np.flatnonzero(np.diff(owner[left], prepend=-1, append=-1))
    return cut(numbers[places], bounds), None if times is None else cut(times[left], bounds)


def _told(account: Account, choice: str, before: Integers, after: Integers) -> Integers:
    account.leave_out(f"by {choice}", len(before) - len(after))
    return after


def _first_of_each(owner: Integers, items: Integers, times: Integers | None = None) -> Integers:
    """The first event of every pair of user and item, in every second where there are times."""
    pairs = owner * (items.max(initial=0) + 1) + items
    if times is None:
        _, firsts = np.unique(pairs, return_index=True)
    else:
        order = np.lexsort((times, pairs))
        same = (np.diff(pairs[order]) == 0) & (np.diff(times[order]) == 0)
        # lexsort is stable, so that the first of equal ones is the first in the file.
        firsts = order[np.concatenate([[True], ~same])[: len(order)]]
    found: Integers = np.sort(firsts)
    return found


def _core(owner: Integers, items: Integers, left: Integers, choices: Preparation) -> Integers:
    while True:
        own, thing = owner[left], items[left]
        stays = (np.bincount(own)[own] >= choices.core) & (np.bincount(thing)[thing] >= choices.core)
        left = left[stays]
        if stays.all() or choices.core_passes == "one":
            return left


def _sample(name: str, owner: Integers, left: Integers, count: int, seed: int) -> Integers:
    """Users by the smallest hashes of their places: the same on every machine and version of numpy."""
    users = np.unique(owner[left]).tolist()
    if count > len(users):
        raise UserError(f"data set '{name}': users is {count}, and {len(users)} are left; write at most {len(users)}")
    drawn = sorted(users, key=lambda user: hashlib.sha256(f"{seed} {user}".encode()).digest())[:count]
    found: Integers = left[np.isin(owner[left], drawn)]
    return found


def _last(owner: Integers, left: Integers, longest: int) -> Integers:
    own = owner[left]
    _, starts, counts = np.unique(own, return_index=True, return_counts=True)
    to_come = np.repeat(starts + counts, counts) - np.arange(len(own))
    found: Integers = left[to_come <= longest]
    return found
