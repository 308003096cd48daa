"""`user item` a line, grouped by user, oldest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from harness.data.account import PLAIN, Account, Options
from harness.data.formats import Format, Histories
from harness.data.reading import grouped
from harness.data.reading.lines import ItemIds, malformed, no_events, refuse, shown, text_lines
from harness.data.reading.tokens import look_alikes
from harness.errors import UserError

_FORM = "'user item', grouped by user, oldest first"
_REMEDY = "Correct the line, or leave it out"


def read(
    path: Path,
    items: ItemIds,
    options: Options = PLAIN,
    account: Account | None = None,
    users: list[str] | None = None,
) -> Histories:
    """Histories of the file; one user in memory at a time."""
    return _users(path, items, options, account or Account(), [] if users is None else users), None


def _users(path: Path, items: ItemIds, options: Options, account: Account, users: list[str]) -> Iterator[list[int]]:
    """Histories of a file of `user item` lines.

    Args:
        path: Text; blank lines, comments and a first line that names columns are skipped.
        items: Filled as tokens appear.
        options: Separator and encoding count.
        account: Filled with what was found.
        users: Filled with whose each history is.

    Yields:
        Item ids of one user, oldest first.

    Raises:
        UserError: A line of another form, an id that is missing, or a user who comes back after another one: the
            order of such a user's events would be ambiguous.
    """
    numbered = text_lines(path, options.encoding, account)
    head = [*itertools.islice(numbered, grouped.SAMPLE)]
    sample = [line for _, line in head]
    cutting = grouped.by(options.separator) if options.separator else grouped.of_pairs(path, sample)
    account.form = f"'user item' lines, {cutting.words}"
    finished: set[str] = set()
    user: str | None = None
    history: list[int] = []
    for place, (number, line) in enumerate(itertools.chain(head, numbered)):
        try:
            fields = cutting.cut(line)
            if place == 0 and grouped.is_header(fields, lists=False):
                account.leave_out("header")
                continue
        except ValueError as error:
            raise refuse(path, number, line, str(error), _REMEDY) from None
        if len(fields) != 2:
            other = "; a table of ratings or times is read with `format: table`" if len(fields) in (3, 4) else ""
            raise malformed(path, number, fields, _FORM + other)
        if words := grouped.check(fields):
            raise refuse(path, number, line, words, _REMEDY)
        if fields[0] != user:
            if history:
                yield history
            if fields[0] in finished:
                raise UserError(
                    f"{path}, line {number}: user '{shown(fields[0])}' comes back after other users; expected {_FORM}. "
                    "If the lines are in the order of their events, write `format: table, order: lines` with the data "
                    "set in the study"
                )
            user, history = fields[0], []
            finished.add(user)
            users.append(user)
        history.append(items[fields[1]])
        account.rows += 1
    if not history:
        raise no_events(path)
    yield history
    account.warnings += [*look_alikes("users", finished), *look_alikes("items", items)]


FORMAT = Format(read, version=3, options=("separator", "encoding"), tells_users=True)
