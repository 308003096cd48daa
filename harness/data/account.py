"""How a file is to be read, as a study says it, and what was found in it, as `data` shows it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

# How a separator is called in a message; a blank stands for any white space.
SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars", "::": "'::'", " ": "blanks"}


def given(choices: msgspec.Struct, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of `kind` that differ from their defaults, so that one added later changes no words of today."""
    fields = msgspec.structs.fields(kind)
    return {f.name: getattr(choices, f.name) for f in fields if getattr(choices, f.name) != f.default}


def in_words(found: Mapping[str, Any]) -> str:
    """The same for a cell's spec and the key of the cache; empty where there are none."""
    return ", ".join(f"{name} {value!r}" for name, value in found.items())


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a study may say of how a file is read; what it leaves out is found in the file.

    Attributes:
        user: Column of the users: its name in the header, or its number from 1 on.
        item: Column of the items.
        time: Column of the times.
        order: `time`: a user's events are in the order of their times. `lines`: in that of the file, which then
            needs no times.
        separator: One character, or `::`; a blank stands for any white space.
        encoding: Of the text, as Python names it.
        rating: Column of the ratings, which `least_rating` asks for.
        least_rating: Events of a smaller rating are left out; None: ratings are not read, every row is an event.
        ties: Order of a user's events of one time: `file`, that of the rows; `hashed`: that of a hash of their items'
            ids, which no sorting of the file can change and no model can learn.
    """

    user: str | int | None = None
    item: str | int | None = None
    time: str | int | None = None
    order: Literal["time", "lines"] = "time"
    separator: str | None = None
    encoding: str = "utf-8"
    rating: str | int | None = None
    least_rating: float | None = None
    ties: Literal["file", "hashed"] = "file"

    @property
    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return given(self, Options)

    @property
    def words(self) -> str:
        """The same in words, for a cell's spec and the key of the cache; empty where there are none."""
        return in_words(self.given)

    def problem(self) -> str | None:
        """What is wrong with them; None if nothing is."""
        if self.separator is not None and self.separator != "::" and len(self.separator) != 1:
            found = "a tab is found by itself, leave separator out" if "t" in self.separator else "or '::'"
            return f"separator is {self.separator!r}; it must be one character, {found}"
        if self.separator in ('"', "\n", "\r"):
            return f"separator is {self.separator!r}; quotes and line ends cannot separate. Legal: any other character"
        for role in ("user", "item", "time", "rating"):
            place = getattr(self, role)
            if isinstance(place, int) and place < 1:
                return f"{role} is {place}; columns are counted from 1"
        if self.time is not None and self.order == "lines":
            return "time names a column, and order: lines does without; leave one of them out"
        if self.ties == "hashed" and self.order == "lines":
            return "ties: hashed orders events of one time, and order: lines does without times; leave one of them out"
        if self.rating is not None and self.least_rating is None:
            return (
                "rating names a column that nothing uses; write `least_rating: 4` to leave out smaller ones, or neither"
            )
        if self.least_rating is not None and not math.isfinite(self.least_rating):
            return f"least_rating is {self.least_rating}; it must be a number"
        try:
            # Not every codec of that name is one of text.
            io.TextIOWrapper(io.BytesIO(), encoding=self.encoding).write("a")
        except (LookupError, ValueError):
            return f"encoding is '{self.encoding}'; it must be a name such as utf-8, utf-16, latin-1 or cp1252"
        return None


# All options as they are by default.
PLAIN = Options()


class Leaks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the leak check of a split found, see harness/data/leaks.py.

    Attributes:
        held_out: Events of validation and test together.
        trained: Those that models train on, or that are both validation and test; more than 0 is a fault.
        had_before: Those of an item that stands in the history that they are ranked after.
        copies: Those of them with the same time: one event that is there twice. None: there are no times.
        earlier: Those earlier than an event of the history that they are ranked after. None: there are no times.
        later_training: Share of the training events that are later than a test event, mean over test events: what
            was learned from the future. None: there are no times.
    """

    held_out: int
    trained: int
    had_before: int
    copies: int | None = None
    earlier: int | None = None
    later_training: float | None = None

    @property
    def words(self) -> str:
        """The same as half a sentence."""
        found = [f"{self.trained:,} of {self.held_out:,} held-out events are trained on"]
        if self.copies is None or self.earlier is None:
            found += [
                f"{self.had_before:,} are of an item that the user has had before",
                "without times it cannot be told whether these are one event twice, nor what came later",
            ]
            return "; ".join(found)
        found += [
            f"{self.had_before:,} are of an item that the user has had before, {self.copies:,} of them at the same "
            "time",
            f"{self.earlier:,} are earlier than an event of their own history",
        ]
        if self.later_training is not None:
            found.append(f"{self.later_training:.1%} of the training events come after a test event, on average")
        return "; ".join(found)

    @property
    def warnings(self) -> list[str]:
        """What may be wrong with the split, a sentence each."""
        found = []
        if self.trained:
            found.append(
                f"{self.trained:,} of {self.held_out:,} held-out events are trained on: the split is wrong, and so is "
                "every result on it"
            )
        if self.copies:
            found.append(
                f"{self.copies:,} of {self.held_out:,} held-out events stand in the history that they are ranked "
                "after, with the same item and time: a model has seen the answer"
            )
        if self.earlier:
            found.append(
                f"{self.earlier:,} of {self.held_out:,} held-out events are earlier than an event of the history that "
                "they are ranked after: a model is told what came later"
            )
        return found


@dataclass
class Account:
    """What a reader found in a file.

    Attributes:
        form: In words.
        columns: Name of the column, or its number, by what it was read as.
        ignored: Columns that were not used.
        unit: That of the times; None where there are none.
        rows: Lines that hold events.
        left_out: Lines that hold none, by reason.
        duplicates: Events that are there twice: same user, item and time. None: not counted, since without a time
            they may be repeats.
        ties: Share of neighbouring events of a user that carry the same time; None without times.
        warnings: What may be wrong with the file, a sentence each.
    """

    form: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unit: str | None = None
    rows: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    duplicates: int | None = None
    ties: float | None = None
    warnings: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Count lines without an event, or events that were not wanted."""
        self.left_out[reason] = self.left_out.get(reason, 0) + count
