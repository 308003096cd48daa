"""`user item item …` a line, oldest first."""

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

_FORM = "'user item item …', one line a user, oldest first"
_REMEDY = "Correct the line, or leave it out"
_MIXED = "Write one separator between all, or its name with the data set in the study, such as `separator: ','`"
# What fills histories up to one length, where somebody has done so.
_PADDING = "0"


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
    """Histories of a file of `user item item …` lines.

    Args:
        path: Text; blank lines, comments and a first line that names columns are skipped.
        items: Filled as tokens appear.
        options: Separator and encoding count.
        account: Filled with what was found.
        users: Filled with whose each history is.

    Raises:
        UserError: A line without an item or with one that is missing, a list in brackets, or a user with two lines.
    """
    numbered = text_lines(path, options.encoding, account)
    head = [*itertools.islice(numbered, grouped.SAMPLE)]
    # A list in brackets is refused below, by its own line, and must not decide how the others are cut.
    sample = [line for _, line in head if not _is_list(line)]
    try:
        cutting = grouped.by(options.separator) if options.separator else grouped.of_sequences(sample)
    except ValueError as error:
        raise refuse(path, *head[0], str(error), _MIXED) from None
    account.form = f"'user item item …' lines, {cutting.words}"
    finished: set[str] = set()
    padded, padding = 0, True
    for place, (number, line) in enumerate(itertools.chain(head, numbered)):
        if _is_list(line):
            raise refuse(
                path, number, line, "holds a list in brackets", "Write the items without brackets, separated by blanks"
            )
        try:
            fields = cutting.cut(line)
            if place == 0 and _is_header(path, number, line, fields):
                account.leave_out("header")
                continue
        except ValueError as error:
            raise refuse(path, number, line, str(error), _REMEDY) from None
        if len(fields) < 2:
            raise malformed(path, number, fields, _FORM)
        if words := grouped.check(fields):
            raise refuse(path, number, line, words, _REMEDY)
        if fields[0] in finished:
            raise UserError(
                f"{path}, line {number}: user '{shown(fields[0])}' has two lines; expected {_FORM}. "
                "Join the user's events on one line"
            )
        finished.add(fields[0])
        users.append(fields[0])
        account.rows += 1
        if padding and _PADDING in fields[1:]:
            first = fields.index(_PADDING, 1)
            padding = all(field == _PADDING for field in fields[first:])
            padded += len(fields) - first > 1
        yield [items[token] for token in fields[1:]]
    if not finished:
        raise no_events(path)
    if padding and padded:
        account.warnings.append(
            f"item '{_PADDING}' stands only at the ends of lines, several times at {padded} of them: it looks like "
            "padding, and counts as an item; take it out if it is padding"
        )
    account.warnings += [*look_alikes("users", finished), *look_alikes("items", items)]


def _is_header(path: Path, number: int, line: str, fields: list[str]) -> bool:
    if any(":token" in field for field in fields):
        raise refuse(
            path, number, line, f"names columns of a table; expected {_FORM}", "Read a table with `format: table`"
        )
    return grouped.is_header(fields, lists=True)


def _is_list(line: str) -> bool:
    """Whether a line is `user [item, item]`, or JSON."""
    text = line.strip()
    return text[-1] in "]}" and (
        text[0] in "{[" or (text.count("[") == text.count("]") == 1 and text.partition("[")[0][-1] in " \t,;:")
    )


FORMAT = Format(read, version=4, options=("separator", "encoding"), tells_users=True)
