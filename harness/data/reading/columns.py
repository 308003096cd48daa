"""Which column of a table is what: by its name, by what the study says, or by its place where there are no names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.data.account import Options
from harness.data.reading.tokens import ITEMS, LISTS, OTHERS, RATINGS, TIMES, USERS, plain

_KNOWN = {"user": USERS, "item": ITEMS, "time": TIMES}
_NAMES = frozenset([*USERS, *ITEMS, *TIMES, *OTHERS])
_TYPED = re.compile(r".+:(token|float|token_seq|float_seq)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\d{4}-\d\d-\d\d.*)")
# From this value on a number is hardly a rating, and may be a time.
_LATE = 631_152_000


class UnclearError(Exception):
    """Columns that cannot be told; its text says why and what to write."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table.

    Attributes:
        names: From the header; None where there is none.
        width: Number of columns.
        user: Place of the users' column, from 0.
        item: That of the items.
        time: That of the times; None where the order of the lines counts.
        warnings: What is unsure.
        rating: Place of the ratings' column; None where they are not asked for.
    """

    names: list[str] | None
    width: int
    user: int
    item: int
    time: int | None
    warnings: tuple[str, ...] = ()
    rating: int | None = None

    @property
    def roles(self) -> dict[str, int]:
        """Place of each column that is used."""
        found = {"user": self.user, "item": self.item, "time": self.time, "rating": self.rating}
        return {role: place for role, place in found.items() if place is not None}

    def name(self, place: int) -> str:
        """How a column is called."""
        named = self.names and self.names[place]
        return named or f"column {place + 1}"


def header(rows: Sequence[list[str]], options: Options) -> list[str] | None:
    """Names in the first row, without their types; None where it is an event.

    A row with a number in it is an event. Else it names columns if one of its names is known or given, or if a column
    holds numbers in all other rows.

    Raises:
        UnclearError: A column of RecBole that holds a list of items.
    """
    first = [cell.strip() for cell in rows[0]]
    first[0] = first[0].lstrip("#").strip()
    if typed := all(map(_TYPED.fullmatch, first)):
        for cell in first:
            name, kind = cell.rsplit(":", 1)
            if kind == "token_seq" and plain(name) in LISTS:
                raise UnclearError(
                    f"column '{name}' holds a list of items in each row; write one row an event (user, item, time), "
                    "or one line a user, 'user item item …', and read it with `format: sequences`"
                )
        return [cell.rsplit(":", 1)[0] for cell in first]
    if any(map(_NUMBER.fullmatch, filter(None, first))):
        return None
    given = {options.user, options.item, options.time} & set(first)
    known = any(plain(cell) in _NAMES for cell in first)
    others = [row for row in rows[1:] if len(row) == len(first)]
    numbers = others and any(all(_NUMBER.fullmatch(row[k]) for row in others) for k in range(len(first)))
    return first if typed or given or known or numbers else None


def is_header(first: list[str]) -> bool:
    """Whether a first row names a user and an item, or types of columns."""
    names = {plain(cell) for cell in first}
    return bool(names & {*USERS} and names & {*ITEMS}) or all(map(_TYPED.fullmatch, first))


def has_times(rows: Sequence[list[str]]) -> bool:
    """Whether some column holds times from 1990 on in all rows but perhaps the first."""
    return any(all(_late(row[k]) for row in rows[len(rows) > 1 :]) for k in range(len(rows[0])))


def has_numbers(rows: Sequence[list[str]]) -> bool:
    """Whether the last column holds numbers in all rows but perhaps the first."""
    return all(_NUMBER.fullmatch(row[-1]) for row in rows[len(rows) > 1 :])


def find(rows: Sequence[list[str]], options: Options) -> Columns:
    """The columns of a table of which these are the first rows.

    Raises:
        UnclearError: They cannot be told.
    """
    names = header(rows, options)
    width = len(rows[0])
    return _by_place(rows, options, width) if names is None else by_name(names, options, rows[1:])


def by_name(names: list[str], options: Options, rows: Sequence[list[str]] = ()) -> Columns:
    """The columns of a table with a header.

    Args:
        names: Of all columns.
        options: What the study says of them.
        rows: Some events, for a header whose names say nothing.

    Raises:
        UnclearError: A column that is named is not there or there twice, or one that is needed has no usual name.
    """
    found: dict[str, int] = {}
    unnamed = not any(plain(name) in _NAMES for name in names)
    for role, known in _KNOWN.items():
        if role == "time" and options.order == "lines":
            continue
        given = getattr(options, role)
        if given is not None:
            found[role] = _given(names, role, given)
        elif place := _known(names, known):
            found[role] = place[0]
            if role == "time":
                _refuse_clock(names, place[0], rows)
    missing = [r for r in _KNOWN if r not in found and not (r == "time" and options.order == "lines")]
    warnings: tuple[str, ...] = ()
    if missing and unnamed and not found and len(names) == 4 and rows:
        found = dict(_by_place(rows, options, 4).roles)
        warnings = (
            f"the names of the columns, {', '.join(names)}, say nothing: taken for user, item, rating and time; "
            "write user, item and time with the data set in the study if they are others",
        )
    elif missing:
        raise UnclearError(_unnamed(missing, names, options))
    if len(set(found.values())) < len(found):
        raise UnclearError(f"one column is given for two of user, item and time; the columns are {', '.join(names)}")
    columns = Columns(names, len(names), found["user"], found["item"], found.get("time"), warnings)
    return _rated(columns, options)


def _refuse_clock(names: list[str], place: int, rows: Sequence[list[str]]) -> None:
    """Refuse a column of the time of day beside one of dates: the first would order events of different days."""
    others = [name for name in names if plain(name) == "date"]
    cells = [row[place] for row in rows if len(row) == len(names)]
    if plain(names[place]) == "time" and others and cells and not all(map(_late, cells)):
        raise UnclearError(
            f"the day stands in column '{others[0]}' and the time of day in '{names[place]}'; join them in one column, "
            f"such as 2009-12-14 02:52:24, or write `time: {others[0]}` with the data set in the study to order by days"
        )


def _rated(columns: Columns, options: Options) -> Columns:
    """The same with the column of the ratings, where the study asks for it."""
    if options.least_rating is None:
        return columns
    names, given = columns.names, options.rating
    place: int | None = None
    if names is not None:
        places = [_given(names, "rating", given)] if given is not None else _known(names, RATINGS)
        place = places[0] if places else None
    elif isinstance(given, int) and given <= columns.width:
        place = given - 1
    elif given is None and columns.width == 4 and 2 not in columns.roles.values():
        # user, item, rating, time
        place = 2
    if place is None or place in columns.roles.values():
        shown = ", ".join(names) if names else f"1 to {columns.width}"
        raise UnclearError(
            f"least_rating is {options.least_rating:g}, and which column holds the ratings is not known; the columns "
            f"are {shown}. Write `rating: {'NAME' if names else 'NUMBER'}` with the data set in the study"
        )
    return replace(columns, rating=place)


def _unnamed(missing: list[str], names: list[str], options: Options) -> str:
    words = f"no column is known as {' or '.join(missing)}; the columns are {', '.join(n or repr(n) for n in names)}. "
    if missing == ["time"]:
        return f"{words}Write `time: NAME` with the data set in the study, or `order: lines` if the lines are in order"
    return f"{words}Write `{', '.join(f'{role}: NAME' for role in missing)}` with the data set in the study"


def _given(names: list[str], role: str, given: str | int) -> int:
    if isinstance(given, int):
        if given > len(names):
            raise UnclearError(f"{role} is column {given}, and there are {len(names)}: {', '.join(names)}")
        return given - 1
    if names.count(given) != 1:
        words = "is there twice" if given in names else "is not there"
        raise UnclearError(f"column '{given}', given as {role}, {words}; the columns are {', '.join(names)}")
    return names.index(given)


def _known(names: list[str], known: list[str]) -> list[int]:
    """Place of the column with the surest name, in a list; empty if none has one.

    Raises:
        UnclearError: Two columns have the same name.
    """
    bare = [plain(name) for name in names]
    for name in known:
        if places := [k for k, other in enumerate(bare) if other == name]:
            if len(places) > 1:
                raise UnclearError(f"column '{names[places[0]]}' is there twice; name the columns apart")
            return places
    return []


def _by_place(rows: Sequence[list[str]], options: Options, width: int) -> Columns:
    given = {role: getattr(options, role) for role in _KNOWN}
    for role, place in given.items():
        if isinstance(place, str):
            raise UnclearError(
                f"there is no header, so no column '{place}'; write the number of the {role}'s column: `{role}: 1` to "
                f"`{role}: {width}`"
            )
        if place is not None and place > width:
            raise UnclearError(f"{role} is column {place}, and there are {width}")
    needed = [role for role in _KNOWN if not (role == "time" and options.order == "lines")]
    late = [all(_late(row[k]) for row in rows if len(row) == width) for k in range(width)]
    warnings: tuple[str, ...] = ()
    if all(given[role] is not None for role in needed):
        places = [given[role] - 1 for role in needed]
    elif any(place is not None for place in given.values()):
        raise UnclearError(f"there is no header; write the numbers of all of {', '.join(needed)}")
    elif "time" not in needed and width == 2:
        places = [0, 1]
    elif "time" in needed and width > 2 and any(late[:2]) and not late[-1]:
        time = late.index(True) + 1
        user, item = [place for place in range(1, width + 1) if place != time][:2]
        raise UnclearError(
            f"there is no header, and column {time} holds the times; write the numbers of the columns with the "
            f"data set in the study, such as `user: {user}, item: {item}, time: {time}`"
        )
    elif "time" not in needed or width not in (3, 4) or not any(_NUMBER.fullmatch(row[-1]) for row in rows):
        raise UnclearError(
            f"there is no header, and what the {width} columns are is not known: 'user item rating time' and "
            "'user item time' are. Write their numbers with the data set in the study, such as "
            f"`user: 1, item: 2{'' if options.order == 'lines' else ', time: 4'}`"
        )
    else:
        places = [0, 1, width - 1]
        if width == 3 and not any(late):
            raise UnclearError(
                "there is no header, and no column looks like times: the third may be a rating. If the lines are in "
                "the order of their events, write `user: 1, item: 2, order: lines` with the data set in the study; if "
                "the third is a time, `user: 1, item: 2, time: 3`"
            )
        if late[2] and not late[-1]:
            raise UnclearError(
                "there is no header, and column 3 looks like times and column 4 does not; write the numbers of the "
                "columns with the data set in the study, such as `user: 1, item: 2, time: 3`"
            )
    if len(set(places)) < len(places):
        raise UnclearError("one column is given for two of user, item and time")
    columns = Columns(None, width, places[0], places[1], places[2] if len(places) == 3 else None, warnings)
    return _rated(columns, options)


def _late(cell: str) -> bool:
    """Whether a cell is a time of 1990 or later, a date, or a number like 20091214."""
    if not _NUMBER.fullmatch(cell):
        return False
    try:
        value = float(cell)
    except ValueError:
        return True
    return value >= _LATE or 19_900_101 <= value <= 21_000_101
