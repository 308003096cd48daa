"""Formats of interaction files, one file each: a file here is a format, found by its place.

A format's name is its file's, `-` written as `_`; files that begin with `_` are not formats. Each defines `FORMAT`;
`_template.py` is one to copy. A package brings a format with an entry point of the group `hyenarec_bench.formats`.

Ids of users and items are text. Items get dense ids 1 … V in order of first appearance; users keep the order of the
file, but in `table`, which sorts them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.account import Account, Options
from harness.data.interactions import Integers
from harness.data.reading.lines import ItemIds
from harness.doors import Door

FORMATS = Door("format", "harness.data.formats", "FORMAT")

# Item ids of every user, oldest first; and unix seconds of the same events, where the file has them.
Histories = tuple[Iterable[list[int]], Iterable[list[int]] | None]


@dataclass(frozen=True)
class Format:
    """How files of one format are read.

    Attributes:
        read: `read(path, items)` gives histories of a file, filling the ids.
        version: Rises when `read` gives other arrays for the same file, which are then prepared anew.
        options: Which of the study's options of reading it takes. A format that takes some tells what it found too:
            `read(path, items, options, account)`.
        tells_users: Whether `read` takes a list after these, to which it adds the user's id before it gives a
            history. Only such a format can read a split of several files, whose users must be told.
    """

    read: Callable[..., Histories]
    version: int = 1
    options: tuple[str, ...] = ()
    tells_users: bool = False

    def histories(
        self, path: Path, items: ItemIds, options: Options, account: Account, users: list[str] | None = None
    ) -> Histories:
        """What `read` gives; `users` is filled with whose the histories are, by a format that tells.

        Raises:
            UserError: A file of another form.
        """
        told = () if users is None else (users,)
        return self.read(path, items, *((options, account) if self.options else ()), *told)

    def refuse(self, options: Options) -> str | None:
        """Which options mean nothing to this format; None if all do."""
        vain = [name for name in options.given if name not in self.options]
        if not vain:
            return None
        return f"{', '.join(vain)} mean nothing to this format; it takes {', '.join(self.options) or 'no option'}"


def cut(values: NDArray[np.integer[Any]], bounds: Integers) -> Iterable[list[int]]:
    """Values of all users, one after the other, as a list a user.

    Args:
        values: `[N]`.
        bounds: `[U + 1]`: user u owns `values[bounds[u]:bounds[u + 1]]`.
    """
    return (values[start:end].tolist() for start, end in itertools.pairwise(bounds.tolist()))


def names() -> list[str]:
    """Every format that there is."""
    return sorted(FORMATS.modules())


def find_format(name: str) -> Format:
    """The format of a name.

    Raises:
        UserError: There is none, or its module cannot be imported or defines no `FORMAT`.
    """
    found: Format = FORMATS.load(name)
    return found
