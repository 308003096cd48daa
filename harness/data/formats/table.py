"""One event a row, in any order, its columns known by their names: CSV and its kin, RecBole's `.inter`, JSON lines.

A user's events are put in the order of their times, ties in the order of the file. Users are in the order of their
ids, so that the order of the rows is all that a shuffled file may change: that of ties.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness.data.account import PLAIN, SEPARATORS, Account, Options
from harness.data.formats import Format, Histories, cut
from harness.data.formats import _literals as literals
from harness.data.interactions import Integers
from harness.data.reading import columns as by
from harness.data.reading import lines as text
from harness.data.reading import plain, tokens
from harness.data.reading.lines import ItemIds
from harness.data.reading.order import Growing, by_first, sorted_by
from harness.data.reading.times import Clock, RowError, Times
from harness.errors import UserError

# Rows that decide the separator and the columns, and rows that are read at once.
_SAMPLE, _PIECE = 200, 1 << 16
# Of neighbouring events of a user with the same time: from this share in the order of their items on they were sorted.
_SORTED = 0.9
_FEWEST_TIES = 5

Columns = list[plain.Column]


class _Rows(Protocol):
    """Events of a file."""

    columns: by.Columns

    def pieces(self) -> Iterator[Columns]:
        """Columns of the roles of `columns`, in their order, some rows at once."""

    def line(self, row: int) -> int:
        """Number in the file of the line where a row begins."""


def read(
    path: Path,
    items: ItemIds,
    options: Options = PLAIN,
    account: Account | None = None,
    users: list[str] | None = None,
) -> Histories:
    """Histories of the file, and unix seconds where it has times.

    Args:
        path: The file.
        items: Filled user by user, oldest event first.
        options: What the study says of it.
        account: Filled with what was found.
        users: Filled with whose each history is.

    Raises:
        UserError: A row of another form, an id that is missing, a time that is none, or columns that cannot be told.
    """
    return read_table(path, items, options, account or Account(), users, sort_users=True)


def read_table(
    path: Path, items: ItemIds, options: Options, account: Account, told: list[str] | None, *, sort_users: bool
) -> Histories:
    """The same; without `sort_users` users keep the order of the file."""
    source = _source(path, options, account)
    users, things, clock = ItemIds(), ItemIds(), Clock()
    owners, items_seen, rating_parts = Growing(np.int32), Growing(np.int32), [np.empty(0)]
    rows = 0
    try:
        for piece in source.pieces():
            column = dict(zip(source.columns.roles, piece, strict=True))
            owners.append(_codes(users, column["user"]))
            items_seen.append(_codes(things, column["item"]))
            if "time" in column:
                clock.add(plain.uncoded(column["time"]))
            if "rating" in column:
                rating_parts.append(_ratings(plain.uncoded(column["rating"]), rows))
            rows += len(piece[0])
        if not rows:
            raise text.no_events(path)
        owner, thing = owners.joined(), items_seen.joined()
        _refuse_missing(source.columns, {"user": (users, owner), "item": (things, thing)})
        times = None if source.columns.time is None else clock.finish()
    except RowError as error:
        raise UserError(f"{path}, line {source.line(error.row)}: {_one_line(error)}") from None
    if options.least_rating is not None:
        kept = np.concatenate(rating_parts) >= options.least_rating
        if not kept.any():
            raise UserError(
                f"{path}: least_rating {options.least_rating:g} leaves no event; the highest rating is "
                f"{max(map(np.max, rating_parts[1:])):g}"
            )
        account.leave_out(f"rating below {options.least_rating:g}", int((~kept).sum()))
        owner, thing = owner[kept], thing[kept]
        times = times and replace(times, keys=[key[kept] for key in times.keys])
    if options.ties == "hashed" and times is None:
        raise UserError(f"{path}: ties: hashed orders events of one time, and there are no times; leave it out")
    _describe(account, source.columns, len(owner), times)
    rank = _ranks(users) if sort_users else np.arange(len(users) + 1, dtype=np.int32)
    hashed = [_hashes(things)[thing]] if options.ties == "hashed" else []
    keys = [rank[owner], *(times.keys if times else ()), *hashed]
    exact = len(times.keys) if times else 0
    if times is not None:
        # What is sorted is all that stays of them.
        times.keys.clear()
    del owner
    (owner, *keys), thing = sorted_by(keys, thing)
    seconds = None
    if times is not None:
        _count_ties(account, owner, thing, keys[:exact], things)
        seconds = keys[0] // times.per_second if times.per_second > 1 else keys[0]
    del keys
    account.warnings += [*tokens.look_alikes("users", users), *tokens.look_alikes("items", things)]
    labels, names = np.zeros(len(things) + 1, np.int32), list(things)
    for code in by_first(thing, len(things)).tolist():
        labels[code] = items[names[code - 1]]
    bounds = np.concatenate([[0], np.flatnonzero(owner[1:] != owner[:-1]) + 1, [len(owner)]])
    if told is not None:
        # Sorted owners are ranks.
        ids = dict(zip(rank[1:].tolist(), users, strict=True))
        told += [ids[place] for place in owner[bounds[:-1]].tolist()]
    return cut(labels[thing], bounds), None if seconds is None else cut(seconds, bounds)


def _ratings(column: Any, rows: int) -> Any:
    found = np.empty(len(column))
    for place, cell in enumerate(column):
        try:
            found[place] = float(cell)
        except ValueError:
            found[place] = np.nan
        if np.isnan(found[place]):
            raise RowError(rows + place, f"the rating '{text.shown(cell)}' is not a number. Correct the line")
    return found


def _hashes(ids: ItemIds) -> Any:
    """`[V + 1]` a number of each id that follows from its text alone."""
    digests = b"".join(hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()[:8] for token in ids)
    return np.concatenate([np.zeros(1, np.uint64), np.frombuffer(digests, ">u8").astype(np.uint64)])


def _one_line(error: Exception) -> str:
    """A message that may quote a name or an id with line ends in it."""
    return " ".join(str(error).splitlines())


def _codes(ids: ItemIds, column: plain.Column) -> Any:
    if isinstance(column, plain.Coded):
        return np.fromiter(map(ids.__getitem__, column.texts), np.int32, len(column.texts))[column.places]
    return np.fromiter(map(ids.__getitem__, column), np.int32, len(column))


def _ranks(ids: ItemIds) -> Any:
    """`[V + 1]` place of every id in their order."""
    ranks = np.zeros(len(ids) + 1, np.int32)
    ranks[[ids[token] for token in sorted(ids, key=tokens.order)]] = np.arange(len(ids))
    return ranks


def _refuse_missing(found: by.Columns, ids: dict[str, tuple[ItemIds, Any]]) -> None:
    for role, (known, codes) in ids.items():
        for token, code in known.items():
            name = found.name(found.roles[role])
            if token in tokens.MISSING:
                words = f"the {role} is missing ('{token}', {name}). Give it an id, or leave the line out"
            elif "\n" in token or "\r" in token:
                words = f"the {role} ({name}) goes over several lines. Close the quote before it"
            elif "\0" in token:
                words = f"the {role} ({name}) has a zero byte, which no text has. Correct the line"
            else:
                continue
            raise RowError(int(np.flatnonzero(codes == code)[0]), words)


def _describe(account: Account, found: by.Columns, rows: int, times: Times | None) -> None:
    account.rows = rows
    account.columns = {role: found.name(place) for role, place in found.roles.items()}
    account.ignored = [found.name(k) for k in range(found.width) if k not in found.roles.values()]
    account.warnings += found.warnings
    if times is not None:
        account.unit = times.unit
        account.warnings += [times.warning] if times.warning else []


def _count_ties(account: Account, owner: Any, thing: Any, keys: list[Integers], things: ItemIds) -> None:
    """Fill in ties and duplicates of events sorted by user and time."""
    tied = owner[1:] == owner[:-1]
    pairs = int(tied.sum())
    for key in keys:
        tied &= key[1:] == key[:-1]
    account.ties = float(tied.sum() / pairs) if pairs else 0.0
    # Neighbours in this sense: an event twice is a pair of them once the items of a tie are sorted too.
    inside = np.flatnonzero(np.concatenate([[False], tied]) | np.concatenate([tied, [False]]))
    item = thing[inside]
    starts = np.ones(len(inside), bool)
    starts[1:] = ~tied[inside[1:] - 1]
    group = np.cumsum(starts)
    by_item = np.lexsort((item, group))
    group, item = group[by_item], item[by_item]
    account.duplicates = int(((group[1:] == group[:-1]) & (item[1:] == item[:-1])).sum())
    seconds = np.flatnonzero(tied) + 1
    rank = _ranks(things)
    steps = rank[thing[seconds]] - rank[thing[seconds - 1]]
    steps = steps[steps != 0]
    if len(steps) >= _FEWEST_TIES and (share := float((steps > 0).mean())) >= _SORTED:
        account.warnings.append(
            f"{share:.0%} of the neighbouring events with the same time are in the order of their items' ids: the file "
            "was sorted by them, and a model can learn that order; bring the rows in the order of their log"
        )


def _source(path: Path, options: Options, account: Account) -> _Rows:
    try:
        if text.is_parquet(path):
            return _ParquetRows(path, options, account)
        with text.text(path, options.encoding) as file:
            start = next((line for line in file if not text.empty(line)), "")
        if not start:
            raise text.no_events(path)
        start = start.lstrip()
        # Names in single quotes are Python's, as the first dumps of reviews have them, and never JSON's.
        if start.startswith(("{'", "{u'")):
            return _JsonRows(path, options, account, python=True)
        return (_JsonRows if start.startswith(("{", "[{")) else _TextRows)(path, options, account)
    except by.UnclearError as error:
        raise UserError(f"{path}, line 1: {_one_line(error)}") from None


@dataclass
class _Cursor:
    """Where a reader of rows is: `begin` is the line where the row begins that it gave last; 0 between two rows."""

    begin: int = 0


@dataclass
class _TextRows:
    """Rows of text with a separator."""

    path: Path
    options: Options
    account: Account

    def __post_init__(self) -> None:
        self._separator, self.columns = self._decide()
        named = "with a header" if self.columns.names else "without a header"
        how = SEPARATORS.get(self._separator, repr(self._separator))
        self.account.form = f"table {named}, separated by {how}"

    def _decide(self) -> tuple[str, by.Columns]:
        """The separator that gives known columns in every row of the sample; else the one that gives them in most."""
        with text.text(self.path, self.options.encoding) as file:
            sample = [*itertools.islice((line for line in file if not text.empty(line)), _SAMPLE)]
        best: tuple[float, str, by.Columns] | None = None
        reasons: list[tuple[int, by.UnclearError]] = []
        for separator in [self.options.separator] if self.options.separator else SEPARATORS:
            rows = [*self._readable(sample, separator)]
            if not rows or (len(rows[0]) < 2 and self.options.separator is None):
                continue
            alike = [row for row in rows if len(row) == len(rows[0])]
            share = len(alike) / len(rows)
            try:
                found = by.find(alike, self.options)
            except by.UnclearError as error:
                reasons.append((len(rows[0]) if share == 1 else 0, error))
                continue
            if best is None or share > best[0]:
                best = share, separator, found
        if best is not None:
            return best[1:]
        if not reasons:
            raise by.UnclearError(
                f"'{text.shown(sample[0])}' has one column; expected user, item and time, separated by "
                f"{', '.join(SEPARATORS.values())}. Write `separator:` with the data set in the study if it is another"
            )
        raise max(reasons, key=lambda reason: reason[0])[1]

    def _readable(self, sample: list[str], separator: str) -> Iterator[list[str]]:
        try:
            for row in self._parsed(sample, separator):
                yield [cell.strip() for cell in row]
        except ValueError:
            # The sample may end inside a quote; what is wrong in the file itself is said when it is read.
            return

    def _parsed(self, source: Iterable[str], separator: str) -> Iterator[list[str]]:
        if separator == " ":
            return (text.split(line, " ") for line in source)
        return text.quoted(source, separator)

    def _rows(self, account: Account, cursor: _Cursor | None = None) -> Iterator[list[str]]:
        """All rows but the header."""
        cursor = cursor or _Cursor()
        with text.text(self.path, self.options.encoding) as file:

            def full() -> Iterator[str]:
                for number, line in enumerate(file, 1):
                    if reason := text.empty(line):
                        account.leave_out(reason)
                        continue
                    cursor.begin = cursor.begin or number
                    yield line

            rows = self._parsed(full(), self._separator)
            if self.columns.names is not None:
                next(rows)
                account.leave_out("header")
            cursor.begin = 0
            for row in rows:
                yield row
                cursor.begin = 0

    def pieces(self) -> Iterator[Columns]:
        """See `_Rows`."""
        done, header = 0, self.columns.names is not None
        # Of other separators a line does not fall into cells by itself.
        if text.is_utf8(self.options.encoding) and len(self._separator) == 1 and self._separator != " ":
            begin = plain.PlainBlocks(self.path, self._separator, header, self.columns.width, self.columns.roles)
            yield from begin
            if begin.ended:
                if header:
                    self.account.leave_out("header")
                return
            done = begin.rows
        yield from self._others(done)

    def _others(self, done: int) -> Iterator[Columns]:
        """The rows behind the first `done` ones."""
        rows, width = self._rows(self.account), self.columns.width
        collections.deque(itertools.islice(rows, done), maxlen=0)
        places = [*self.columns.roles.values()]
        while True:
            piece: list[list[str]] = []
            try:
                # Not list(): what was read before an error decides its line.
                piece.extend(itertools.islice(rows, _PIECE))
            except ValueError as error:
                if isinstance(error, UnicodeError):
                    raise
                raise RowError(done + len(piece), f"{error}. Correct the line") from None
            if not piece:
                return
            for place, row in enumerate(piece):
                if len(row) != width:
                    raise RowError(done + place, self._other_width(row))
                if any("\n" in cell and self._holds_a_row(cell) for cell in row):
                    self._quoted_rows(done + place)
            yield [[row[k].strip() for row in piece] for k in places]
            done += len(piece)

    def _holds_a_row(self, cell: str) -> bool:
        """Whether a line inside a quoted cell has as many fields as a row."""
        return any(line.count(self._separator) == self.columns.width - 1 for line in cell.splitlines()[1:-1])

    def _quoted_rows(self, row: int) -> None:
        words = "a quote goes over lines that look like rows themselves"
        # Text may hold commas, and lines of them; tabs it hardly has.
        if self._separator == "\t":
            raise RowError(row, f"{words}. Close it, or write two quotes where one is meant")
        warning = (
            f"{words}, first near row {row + 1:,}: they count as text of one event; close the quote if they are rows"
        )
        if not any(other.startswith(words) for other in self.account.warnings):
            self.account.warnings.append(warning)

    def _other_width(self, row: list[str]) -> str:
        names = self.columns.names
        form = (
            ", ".join(names) if names else "'user item rating time'" if self.columns.width == 4 else "as the first line"
        )
        cells = text.shown(" ".join(row))
        return f"'{cells}' has {len(row)} field(s); expected {self.columns.width}: {form}. Correct the line"

    def line(self, row: int) -> int:
        """See `_Rows`."""
        cursor = _Cursor()
        # A quote that is never closed ends the rows at the one that is sought.
        with contextlib.suppress(ValueError):
            for number, _ in enumerate(self._rows(Account(), cursor)):
                if number == row:
                    break
        return cursor.begin


@dataclass
class _JsonRows:
    """JSON objects, one a line, or Python dicts."""

    path: Path
    options: Options
    account: Account
    python: bool = False

    def __post_init__(self) -> None:
        first = next(self._objects(), None)
        if first is None:
            raise text.no_events(self.path)
        self.columns = by.by_name([*first[1]], self.options)
        self.account.form = f"{'Python dicts' if self.python else 'JSON objects'}, one a line"

    def _objects(self, account: Account | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in text.text_lines(self.path, self.options.encoding, account):
            try:
                # Numbers as they are written: an id must not pass through a float.
                if self.python:
                    found = literals.parsed(line)
                else:
                    found = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
            except (ValueError, RecursionError) as error:
                kind = "a Python dict" if self.python else "JSON"
                raise text.refuse(
                    self.path,
                    number,
                    line,
                    f"is not {kind} ({error})",
                    'Write one object a line, with names in "quotes"',
                ) from None
            if not isinstance(found, dict):
                raise text.refuse(self.path, number, line, "is not a JSON object", "Write one object a line")
            yield number, found

    def pieces(self) -> Iterator[Columns]:
        """See `_Rows`."""
        names = [self.columns.name(place) for place in self.columns.roles.values()]
        rows = (self._cells(number, found, names) for number, found in self._objects(self.account))
        while piece := [*itertools.islice(rows, _PIECE)]:
            yield [*map(list, zip(*piece, strict=True))]

    def _cells(self, number: int, found: dict[str, Any], names: list[str]) -> list[str]:
        cells = []
        for name in names:
            cell = found.get(name)
            if not isinstance(cell, str):
                words = "is missing" if cell is None else "is a list or an object, or true or false"
                raise UserError(
                    f"{self.path}, line {number}: '{name}' {words}; it must be text or a number. Correct the line"
                )
            cells.append(cell.strip())
        return cells

    def line(self, row: int) -> int:
        """See `_Rows`."""
        return next(itertools.islice(self._objects(), row, None))[0]


@dataclass
class _ParquetRows:
    """Rows of a Parquet file. The package that reads it is asked for only here."""

    path: Path
    options: Options
    account: Account

    def __post_init__(self) -> None:
        try:
            from pyarrow import ArrowInvalid, parquet
        except ImportError:
            raise UserError(
                f"{self.path} is a Parquet file, and the package that reads it is not installed; `pip install pyarrow`"
            ) from None
        try:
            self._file = parquet.ParquetFile(self.path)
        except ArrowInvalid as error:
            raise UserError(f"{self.path} is damaged ({error}); get it again") from None
        schema = self._file.schema_arrow
        self.columns = by.by_name(schema.names, self.options)
        self.account.form = "Parquet"
        for role, place in self.columns.roles.items():
            if schema.names.count(schema.names[place]) > 1:
                raise by.UnclearError(
                    f"column '{schema.names[place]}', the {role}, is there twice; name the columns apart"
                )
            kind = str(schema.types[place])
            legal = _PARQUET if role in ("user", "item") else (*_PARQUET, *_PARQUET_NUMBERS)
            if not kind.startswith(legal):
                raise by.UnclearError(
                    f"column '{schema.names[place]}', the {role}, is of type {kind}, which cannot be a {role}; "
                    "write it as text or whole numbers"
                )

    def pieces(self) -> Iterator[Columns]:
        """See `_Rows`."""
        names = [self.columns.name(place) for place in self.columns.roles.values()]
        for batch in self._batches(names):
            columns = {role: batch.column(name) for role, name in zip(self.columns.roles, names, strict=True)}
            yield [plain.coded(c) if role in ("user", "item") else _texts(c) for role, c in columns.items()]

    def _batches(self, names: list[str]) -> Iterator[Any]:
        try:
            yield from self._file.iter_batches(_PIECE, columns=names)
        # What the package raises over damaged pages is no class of its own.
        except OSError as error:
            raise UserError(f"{self.path} is damaged ({error}); get it again") from None

    def line(self, row: int) -> int:
        """Number of the row, from 1."""
        return row + 1


# Types of a column whose values are what they are as text.
_PARQUET_NUMBERS = ("timestamp", "date32", "float", "double", "decimal")
_PARQUET = ("int", "uint", "string", "large_string", "string_view", "dictionary<values=string")


def _texts(column: Any) -> list[str]:
    """Values as text; a missing one is empty."""
    if str(column.type).startswith("timestamp"):
        column = column.cast("int64")
    found: list[str] = column.cast("string").fill_null("").to_pylist()
    return found


OPTIONS = ("user", "item", "time", "order", "separator", "encoding", "rating", "least_rating", "ties")
FORMAT = Format(read, version=3, options=OPTIONS, tells_users=True)
