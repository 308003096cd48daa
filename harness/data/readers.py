"""Readers of interaction files.

Tokens of users and items are arbitrary strings without white space. Items get dense ids 1 … V in
order of first appearance, users keep the order of the file. Files grouped by user are read in one
pass with one user in memory at a time; ratings come in any order and are held until they are sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import UserError

READER_VERSION = 1
PAIRS_FORM = "'user item', grouped by user, oldest first"
SEQUENCES_FORM = "'user item item …', one line a user, oldest first"
RATINGS_FORM = "'user item rating unix_seconds' with whole seconds, separated by '::', ',' or white space, in any order"


class ItemIds(dict[str, int]):
    """Dense ids by token, 1 for the first token asked for."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self) + 1
        return len(self)


def read_pairs(path: Path, items: ItemIds) -> Iterator[list[int]]:
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
    for number, fields in _lines(path):
        if len(fields) != 2:
            raise _malformed(path, number, fields, PAIRS_FORM)
        if fields[0] != user:
            if history:
                yield history
            if fields[0] in finished:
                raise UserError(
                    f"{path}, line {number}: user '{fields[0]}' comes back after other users; expected {PAIRS_FORM}. "
                    "Sort the file by user, keeping each user's events in order (for instance `sort -s -k1,1 FILE`)"
                )
            user, history = fields[0], []
            finished.add(user)
        history.append(items[fields[1]])
    if history:
        yield history


def read_sequences(path: Path, items: ItemIds) -> Iterator[list[int]]:
    """Histories of a file of `user item item …` lines; see `read_pairs`.

    Raises:
        UserError: A line without an item, or a user with two lines.
    """
    finished: set[str] = set()
    for number, fields in _lines(path):
        if len(fields) < 2:
            raise _malformed(path, number, fields, SEQUENCES_FORM)
        if fields[0] in finished:
            raise UserError(
                f"{path}, line {number}: user '{fields[0]}' has two lines; expected {SEQUENCES_FORM}. "
                "Join the user's events on one line"
            )
        finished.add(fields[0])
        yield [items[token] for token in fields[1:]]


def read_ratings(path: Path, items: ItemIds) -> tuple[list[list[int]], list[list[int]]]:
    """Histories and timestamps of a file of `user item rating unix_seconds` lines, as MovieLens has them.

    A user's events are put in the order of their seconds, ties in the order of the file; every
    rating counts as an event, whatever its value. A first line that names columns is skipped.

    Args:
        path: UTF-8 text; blank lines are skipped.
        items: Filled user by user, oldest event first.

    Returns:
        Item ids by user, and the unix seconds of the same events.

    Raises:
        UserError: A line of another form.
    """
    users: dict[str, list[tuple[int, str]]] = {}
    for number, line in _lines(path):
        fields = [field for part in line for field in part.replace("::", ",").split(",")]
        if len(fields) != 4 or not all(fields):
            raise _malformed(path, number, line, RATINGS_FORM)
        try:
            seconds = int(fields[3])
        except ValueError:
            if number == 1 and not any(character.isdigit() for character in "".join(fields)):
                continue
            raise _malformed(path, number, line, RATINGS_FORM) from None
        users.setdefault(fields[0], []).append((seconds, fields[1]))
    histories, times = [], []
    for events in users.values():
        events.sort(key=lambda event: event[0])
        histories.append([items[token] for _, token in events])
        times.append([seconds for seconds, _ in events])
    return histories, times


READERS: dict[str, Callable[[Path, ItemIds], Iterator[list[int]]]] = {
    "pairs": read_pairs,
    "sequences": read_sequences,
}


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = line.decode().split()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text ({error.reason}); convert the file") from None
            if fields:
                yield number, fields


def _malformed(path: Path, number: int, fields: list[str], form: str) -> UserError:
    text = " ".join(fields)
    shown = text if len(text) <= 80 else f"{text[:77]}…"
    return UserError(f"{path}, line {number}: '{shown}' has {len(fields)} field(s); expected {form}. Mend the line")
