"""`user item item …` a line, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.data.formats import Format, Histories
from harness.data.lines import ItemIds, lines, malformed
from harness.errors import UserError

_FORM = "'user item item …', one line a user, oldest first"


def read(path: Path, items: ItemIds) -> Histories:
    """Histories of the file; one user in memory at a time."""
    return _users(path, items), None


def _users(path: Path, items: ItemIds) -> Iterator[list[int]]:
    """Histories of a file of `user item item …` lines.

    Raises:
        UserError: A line without an item, or a user with two lines.
    """
    finished: set[str] = set()
    for number, fields in lines(path):
        if len(fields) < 2:
            raise malformed(path, number, fields, _FORM)
        if fields[0] in finished:
            raise UserError(
                f"{path}, line {number}: user '{fields[0]}' has two lines; expected {_FORM}. "
                "Join the user's events on one line"
            )
        finished.add(fields[0])
        yield [items[token] for token in fields[1:]]


FORMAT = Format(read)
