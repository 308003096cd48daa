"""`user item` a line, grouped by user, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.data.formats import Format, Histories
from harness.data.lines import ItemIds, lines, malformed
from harness.errors import UserError

_FORM = "'user item', grouped by user, oldest first"


def read(path: Path, items: ItemIds) -> Histories:
    """Histories of the file; one user in memory at a time."""
    return _users(path, items), None


def _users(path: Path, items: ItemIds) -> Iterator[list[int]]:
    """Histories of a file of `user item` lines.

    Args:
        path: UTF-8 text; blank lines are skipped.
        items: Filled as tokens appear.

    Yields:
        Item ids of one user, oldest first.

    Raises:
        UserError: A line of another form, or a user who comes back after another one: the order of
            such a user's events would be ambiguous.
    """
    finished: set[str] = set()
    user: str | None = None
    history: list[int] = []
    for number, fields in lines(path):
        if len(fields) != 2:
            raise malformed(path, number, fields, _FORM)
        if fields[0] != user:
            if history:
                yield history
            if fields[0] in finished:
                raise UserError(
                    f"{path}, line {number}: user '{fields[0]}' comes back after other users; expected {_FORM}. "
                    "Sort the file by user, keeping each user's events in order (for instance `sort -s -k1,1 FILE`)"
                )
            user, history = fields[0], []
            finished.add(user)
        history.append(items[fields[1]])
    if history:
        yield history


FORMAT = Format(read)
