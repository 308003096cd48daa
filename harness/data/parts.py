"""Data that come split, as files of train, validation and test, such as published benchmarks are.

Each file holds its own events alone, with the same ids in all. A user's events are those of train, then of validation,
then of test, each in the order of its file or of its times, and those of a file are ranked after all that come before.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harness.data import leaks
from harness.data.account import Account, Options
from harness.data.formats import Format, Histories, cut
from harness.data.interactions import Integers, StoredInteractions
from harness.data.reading.lines import ItemIds, shown
from harness.data.reading.order import by_first
from harness.data.reading.tokens import look_alikes
from harness.data.splits import HeldOutEvents, ranges
from harness.errors import UserError

# Rises when files of a split give other arrays than before.
VERSION = 1
# From this share of its events on that stand in a file before it, at the same time, a file is no held-out one.
_MOST_COPIES = 0.5


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file; its fields are those of a `DataSource`."""

    file: str
    sha256: str | None = None
    url: str | None = None


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The files of a split, by their places or with their checksums.

    Attributes:
        train: Events that are trained on.
        test: Events that results are reported on.
        validation: Events that epochs are chosen by; None: the last training event of every user of test who has two.
    """

    train: str | Part
    validation: str | Part | None = None
    test: str | Part

    @property
    def parts(self) -> dict[str, Part]:
        """Those that there are, in the order of a user's events."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: Part(file=part) if isinstance(part, str) else part for name, part in named.items() if part is not None
        }


@dataclass(frozen=True)
class Joined:
    """Files of a split as one data set.

    Attributes:
        histories: Items of every user, and times of the same events or None. Items are numbered from 1 in the order of
            their first event; those of left-out users come last.
        held_out: `[U, 2]` how many of the last events of each user are validation, and how many test.
        num_items: Catalogue size V: every item of any file is ranked.
    """

    histories: Histories
    held_out: Integers
    num_items: int


@dataclass(frozen=True)
class _Read:
    """Events of one file, a user's one after the other.

    Attributes:
        users: Whose.
        owner: `[N]` place of the user among those of train; −1 for a user who is not there.
        items: `[N]`.
        times: `[N]` unix seconds, or None.
        account: What was found.
    """

    users: list[str]
    owner: Integers
    items: Integers
    times: Integers | None
    account: Account


def joined(name: str, paths: Mapping[str, Path], form: Format, options: Options, account: Account) -> Joined:
    """Read the files of a split.

    Args:
        name: Of the data set, for messages.
        paths: `train`, `validation` where there is one, and `test`.
        form: Of all of them.
        options: How they are read.
        account: Filled with what was found.

    Raises:
        UserError: A malformed file; times in one of them alone, or of another unit; no user of a file in train; or a
            file that repeats the events of one before it.
    """
    if not form.tells_users:
        raise UserError(
            f"data set '{name}': this format does not tell whose a history is, so it cannot read `files:`; take table, "
            "ratings, pairs or sequences"
        )
    ids, places = ItemIds(), dict[str, int]()
    found: dict[str, _Read] = {}
    for part, path in paths.items():
        found[part] = _read(path, form, options, ids, places, first=part == "train")
    _one_clock(name, paths, found)
    _tell(account, found)
    account.warnings += _alike_between(found, ids)
    kept = [_kept(part, read, paths[part], account) for part, read in found.items()]
    owner = np.concatenate([read.owner[stays] for read, stays in zip(found.values(), kept, strict=True)])
    order = np.argsort(owner, kind="stable")
    items = np.concatenate([read.items[stays] for read, stays in zip(found.values(), kept, strict=True)])[order]
    times = [read.times[stays] for read, stays in zip(found.values(), kept, strict=True) if read.times is not None]
    seconds = np.concatenate(times)[order] if times else None
    counts = {
        part: np.bincount(read.owner[stays], minlength=len(places))
        for (part, read), stays in zip(found.items(), kept, strict=True)
    }
    bounds = np.concatenate([[0], np.cumsum(sum(counts.values()))])
    numbers = _numbers(items, len(ids))
    items = numbers[items]
    account.rows = len(items)
    _refuse_repeated(name, paths, StoredInteractions(items.astype(np.int32), bounds, len(ids), seconds), counts, found)
    if "validation" not in counts:
        # Whoever is not tested keeps all of the events for training, as a user too short for leave-one-out does.
        counts["validation"] = ((counts["test"] > 0) & (counts["train"] > 1)).astype(np.int64)
    held_out = np.stack([counts["validation"], counts["test"]], axis=1).astype(np.int64)
    return Joined((cut(items, bounds), None if seconds is None else cut(seconds, bounds)), held_out, len(ids))


def _read(path: Path, form: Format, options: Options, ids: ItemIds, places: dict[str, int], *, first: bool) -> _Read:
    """Events of a file; `places` is filled with the users of the first one."""
    users, account = list[str](), Account()
    histories, times = form.histories(path, ids, options, account, users)
    parts = [np.asarray(history, np.int64) for history in histories]
    if first:
        places.update({user: place for place, user in enumerate(users)})
    return _Read(
        users=users,
        owner=np.repeat([places.get(user, -1) for user in users], [len(part) for part in parts]),
        items=np.concatenate(parts),
        times=None if times is None else np.fromiter(itertools.chain.from_iterable(times), np.int64),
        account=account,
    )


def _one_clock(name: str, paths: Mapping[str, Path], found: Mapping[str, _Read]) -> None:
    train = found["train"].account.unit
    for part, read in found.items():
        if read.account.unit != train:
            raise UserError(
                f"data set '{name}': the times of train ({paths['train']}) are {train or 'not there'}, those of {part} "
                f"({paths[part]}) are {read.account.unit or 'not there'}; write them alike in all files, or leave them "
                "out with `order: lines`"
            )


def _tell(account: Account, found: Mapping[str, _Read]) -> None:
    """What was found in all files; form, columns and unit are those of train."""
    train = found["train"].account
    account.form, account.columns, account.ignored = train.form, train.columns, train.ignored
    account.unit, account.ties = train.unit, train.ties
    for part, read in found.items():
        for reason, count in read.account.left_out.items():
            account.leave_out(reason, count)
        if read.account.duplicates is not None:
            account.duplicates = (account.duplicates or 0) + read.account.duplicates
        account.warnings += [f"{part}: {words}" for words in read.account.warnings]


def _alike_between(found: Mapping[str, _Read], ids: ItemIds) -> list[str]:
    """Ids that look alike and stand in different files: those in one file are told of it already."""
    told = {words for read in found.values() for words in read.account.warnings}
    users = {user for read in found.values() for user in read.users}
    return [words for words in (*look_alikes("users", users), *look_alikes("items", ids)) if words not in told]


def _kept(part: str, read: _Read, path: Path, account: Account) -> Integers:
    """Places of the events of users who are in train; nothing can be recommended to others by."""
    stays = np.flatnonzero(read.owner >= 0)
    if not len(stays):
        raise UserError(
            f"{path}: no user of {part} is in train, for instance '{shown(read.users[0])}'. Write the same ids in all "
            "files; what a new user did before must stand in train, and in the other files only what is to be ranked"
        )
    if new := len(set(read.users)) - len(np.unique(read.owner[stays])):
        account.leave_out(f"in {part}, of {new:,} users without a training event", len(read.owner) - len(stays))
    return stays


def _numbers(items: Integers, count: int) -> Integers:
    """`[V + 1]` the new number of every item: in the order of their first event, then those without one."""
    order = by_first(items, count)
    numbers = np.zeros(count + 1, np.int64)
    numbers[order] = np.arange(1, len(order) + 1)
    others = np.flatnonzero(numbers[1:] == 0) + 1
    numbers[others] = np.arange(len(order) + 1, count + 1)
    return numbers


def _refuse_repeated(
    name: str,
    paths: Mapping[str, Path],
    stored: StoredInteractions,
    counts: Mapping[str, Integers],
    found: Mapping[str, _Read],
) -> None:
    """Refuse a file of whole histories, and one whose events are all in the files before."""
    users = found["train"].users
    ends = stored.offsets[:-1] + counts["train"]
    for part, path in list(paths.items())[1:]:
        ranked = np.flatnonzero(counts[part])
        held = HeldOutEvents(ranked, ends[ranked], counts[part][ranked])
        if len(whole := _begin_again(stored, counts["train"][ranked], held)):
            raise UserError(
                f"{path}: the events of {len(whole):,} users, such as '{shown(users[whole[0]])}', begin with all of "
                f"the user's training events, so the file of {part} holds whole histories; leave in it what is to be "
                "ranked alone"
            )
        again = leaks.in_history(stored, held, same_time=stored.timestamps is not None)
        # Without times an event cannot be told from a repeat, of which some data have many.
        if again.all() or (stored.timestamps is not None and again.mean() >= _MOST_COPIES):
            first = users[np.repeat(held.users, held.counts)[np.argmax(again)]]
            raise UserError(
                f"data set '{name}': {again.sum():,} of {len(again):,} events of {part} ({path}) stand in the files "
                f"before it too, such as those of user '{shown(first)}'; every event must stand in one file alone. "
                "Leave out of train what is held out"
            )
        ends = ends + counts[part]


def _begin_again(stored: StoredInteractions, lengths: Integers, held: HeldOutEvents) -> Integers:
    """Users whose held-out events begin with their training events, if half of those with two of them do; else none."""
    # One event may well come again.
    told = lengths >= 2
    long = np.flatnonzero(told & (held.counts >= lengths))
    if not len(long) or 2 * len(long) < told.sum():
        return long[:0]
    starts, lengths = stored.offsets[held.users[long]], lengths[long]
    alike = (
        stored.items[ranges(starts, starts + lengths)]
        == stored.items[ranges(held.ends[long], held.ends[long] + lengths)]
    )
    same = np.logical_and.reduceat(alike, np.cumsum(lengths) - lengths)
    users: Integers = held.users[long][same]
    return users if 2 * len(users) >= told.sum() else users[:0]
