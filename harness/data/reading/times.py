"""Times of events as text: their unit is recognised from all of them, and nothing of their order is lost."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

import numpy as np

from harness.data.interactions import Integers
from harness.data.reading.order import Growing
from harness.data.reading.tokens import MISSING

# 1990-01-01 and 2100-01-01. In units of each other these ranges do not meet, so a value tells its unit.
FIRST, LAST = 631_152_000, 4_102_444_800
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_SMALL, _OUTSIDE = "numbers before 1990", "no date"
_ONE_DIGIT = re.compile(r"^(\d{4}-\d\d-\d\d[ T])(\d:)")
_EPOCH = datetime.datetime(1970, 1, 1)
_ISO = re.compile(r"\d{4}-\d\d-\d\d")
_BILLION = 10**9
LEGAL = (
    "Legal: unix seconds, milli-, micro- or nanoseconds of 1990 to 2100, all of one unit, or ISO dates such as "
    "2009-12-14 or 2009-12-14T02:52:24Z"
)


class RowError(Exception):
    """What is wrong with one row.

    Args:
        row: Its number, from 0.
        words: What is wrong, and what is legal.
    """

    def __init__(self, row: int, words: str) -> None:
        super().__init__(words)
        self.row = row


@dataclass(frozen=True)
class Times:
    """Times of all rows.

    Attributes:
        keys: `[N]` each, the most significant first: what orders the rows exactly.
        per_second: How many of the first key are a second; unix seconds are that key over it, rounded down.
        unit: In words.
        warning: What is odd about them.
    """

    keys: list[Integers]
    per_second: int
    unit: str
    warning: str | None = None


@dataclass
class Clock:
    """Reads columns of times piece by piece, then decides what they are."""

    _whole: Growing = field(default_factory=lambda: Growing(np.int64))
    # First row of a piece → its parts of a second, where one has any.
    _fractions: dict[int, Integers] = field(default_factory=dict)
    _rows: int = 0
    _iso: bool | None = None
    _zoned: bool | None = None

    def add(self, column: list[str] | Integers) -> None:
        """Read some more: texts, or whole numbers that stand for theirs.

        Raises:
            RowError: A time that is missing, or none.
        """
        if isinstance(column, np.ndarray):
            if not self._iso:
                self._iso = False
                self._whole.append(column)
                self._rows += len(column)
                return
            column = list(map(str, column.tolist()))
        if self._iso is None:
            self._iso = _ISO.match(column[0]) is not None
        try:
            if self._iso or any("_" in text for text in column):
                raise ValueError
            values = np.fromiter(map(int, column), np.int64, len(column))
        except (ValueError, OverflowError):
            values = self._one_by_one(column, self._micros if self._iso else self._number)
        self._whole.append(values)
        self._rows += len(column)

    def _one_by_one(self, column: list[str], read: Callable[[str], tuple[int, int]]) -> Integers:
        whole, fractions = np.empty(len(column), np.int64), np.zeros(len(column), np.int64)
        for place, text in enumerate(column):
            try:
                whole[place], fractions[place] = read(text)
            except (ValueError, OverflowError, InvalidOperation) as error:
                known = isinstance(error, _NoTimeError)
                words = "is missing" if text in MISSING else str(error) if known else "is neither a number nor a date"
                raise RowError(self._rows + place, f"time '{text}' {words}. {LEGAL}") from None
        if fractions.any():
            self._fractions[self._rows] = fractions
        return whole

    def _number(self, text: str) -> tuple[int, int]:
        if "_" in text:
            raise _NoTimeError("is not a number")
        try:
            return _bounded(int(text.removesuffix(".0"))), 0
        except ValueError as error:
            if isinstance(error, _NoTimeError):
                raise
            if _ISO.match(text):
                raise _NoTimeError("is a date, where the times before it are numbers") from None
        value = Decimal(text)
        if not value.is_finite():
            raise _NoTimeError("is not a number")
        if value.adjusted() > 20:
            raise _NoTimeError("is beyond any date")
        whole = int(value.to_integral_value("ROUND_FLOOR"))
        return _bounded(whole), min(int((value - whole) * _BILLION), _BILLION - 1)

    def _micros(self, text: str) -> tuple[int, int]:
        # Python 3.11 reads a date as far as a zero byte.
        if not _ISO.match(text) or "\0" in text:
            raise _NoTimeError("is not an ISO date, where the times before it are")
        moment = datetime.datetime.fromisoformat(_usual(text))
        zoned = moment.tzinfo is not None
        if self._zoned is None:
            self._zoned = zoned
        if zoned != self._zoned:
            raise _NoTimeError(
                f"has {'a' if zoned else 'no'} time zone, where the times before it have {'none' if zoned else 'one'}"
            )
        if zoned:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        return (moment - _EPOCH) // datetime.timedelta(microseconds=1), 0

    def finish(self) -> Times:
        """What the times are.

        Raises:
            RowError: A time of another unit than most have, or outside 1990 to 2100.
        """
        whole = self._whole.joined()
        keys = [whole]
        if self._fractions:
            below = np.zeros(len(whole), np.int64)
            for row, fractions in self._fractions.items():
                below[row : row + len(fractions)] = fractions
            keys.append(below)
        if self._iso:
            outside = np.flatnonzero((whole < FIRST * 10**6) | (whole >= LAST * 10**6))
            if len(outside):
                raise RowError(int(outside[0]), f"the date lies outside 1990 to 2100. {LEGAL}")
            return Times(keys, 10**6, "ISO dates" if self._zoned else "ISO dates without a zone, read as UTC")
        unit = _unit(whole)
        if unit != _SMALL:
            return Times(keys, _UNITS[unit], f"unix {unit}")
        if (days := _calendar(whole)) is not None and len(keys) == 1:
            return Times([days * 86_400], 1, "dates YYYYMMDD")
        low, high = int(whole.min()), int(whole.max())
        warning = (
            f"times go from {low:,} to {high:,}, which are not unix seconds after 1990: they order the events, and "
            "gaps between them are taken for seconds"
        )
        return Times(keys, 1, f"{_SMALL}, taken for seconds", warning)


def _usual(text: str) -> str:
    """A date as exports write it, with a zone's name or an hour of one digit, as ISO 8601 has it."""
    for zone in (" UTC", " GMT"):
        if text.endswith(zone):
            text = f"{text.removesuffix(zone)}+00:00"
    return _ONE_DIGIT.sub(r"\g<1>0\g<2>", text)


class _NoTimeError(ValueError):
    """Why a text is no time."""


def _bounded(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise _NoTimeError("is beyond any date")
    return value


def _unit(values: Integers) -> str:
    """The one unit of all values.

    Raises:
        RowError: There are several, or a value is a date in none.
    """
    low, high = int(values.min()), int(values.max())
    for unit, (least, most) in _RANGES.items():
        if least <= low and high < most:
            return unit
    kinds = np.full(len(values), len(_RANGES))
    for number, (least, most) in enumerate(_RANGES.values()):
        kinds[(values >= least) & (values < most)] = number
    names = [*_RANGES, _OUTSIDE]
    outside = np.flatnonzero(kinds == len(_RANGES))
    if len(outside):
        row = int(outside[0])
        raise RowError(row, f"time {values[row]} is not a date from 1990 to 2100 in any unit. {LEGAL}")
    usual = int(np.bincount(kinds).argmax())
    row = int(np.flatnonzero(kinds != usual)[0])
    raise RowError(
        row,
        f"time {values[row]} would be {names[kinds[row]]}, where most of the file's are {names[usual]}; "
        f"correct it, or leave the line out. {LEGAL}",
    )


_RANGES = {_SMALL: (-FIRST, FIRST), **{unit: (FIRST * factor, LAST * factor) for unit, factor in _UNITS.items()}}


def _calendar(values: Integers) -> Integers | None:
    """`[N]` days since 1970 of numbers such as 20091214; None if one is no such date."""
    if values.min() < 19_900_101 or values.max() > 21_000_101:
        return None
    distinct, places = np.unique(values, return_inverse=True)
    days = np.empty(len(distinct), np.int64)
    for place, value in enumerate(distinct.tolist()):
        try:
            days[place] = (datetime.datetime.strptime(str(value), "%Y%m%d") - _EPOCH).days
        except ValueError:
            return None
    return days[places]
