"""Formats of interaction files, one file each: a file here is a format, found by its place.

A format's name is its file's, `-` written as `_`; files that begin with `_` are not formats. Each defines `FORMAT`;
`_template.py` is one to copy. A package brings a format with an entry point of the group `hyenarec_bench.formats`.

Tokens of users and items are arbitrary strings without white space. Items get dense ids 1 … V in order of first
appearance, users keep the order of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.data.lines import ItemIds
from harness.doors import Door

FORMATS = Door("format", "harness.data.formats", "FORMAT")

# Item ids of every user, oldest first; and unix seconds of the same events, where the file has them.
Histories = tuple[Iterable[list[int]], Iterable[list[int]] | None]


@dataclass(frozen=True)
class Format:
    """How files of one format are read.

    Attributes:
        read: From a file, filling the ids, to histories.
        version: Rises when `read` gives other arrays for the same file, which are then prepared anew.
    """

    read: Callable[[Path, ItemIds], Histories]
    version: int = 1


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
