"""`user item rating unix_seconds` a line, in any order, as MovieLens has them."""

from __future__ import annotations

from pathlib import Path

from harness.data.formats import Format, Histories
from harness.data.lines import ItemIds, lines, malformed

_FORM = "'user item rating unix_seconds' with whole seconds, separated by '::', ',' or white space, in any order"


def read(path: Path, items: ItemIds) -> Histories:
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
    for number, line in lines(path):
        fields = [field for part in line for field in part.replace("::", ",").split(",")]
        if len(fields) != 4 or not all(fields):
            raise malformed(path, number, line, _FORM)
        try:
            seconds = int(fields[3])
        except ValueError:
            if number == 1 and not any(character.isdigit() for character in "".join(fields)):
                continue
            raise malformed(path, number, line, _FORM) from None
        users.setdefault(fields[0], []).append((seconds, fields[1]))
    histories, times = [], []
    for events in users.values():
        events.sort(key=lambda event: event[0])
        histories.append([items[token] for _, token in events])
        times.append([seconds for seconds, _ in events])
    return histories, times


FORMAT = Format(read)
