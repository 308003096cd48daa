"""How lines of grouped files, `user item` and `user item item …`, are cut into ids: decided once for a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.data.account import SEPARATORS
from harness.data.reading.lines import shown, split
from harness.data.reading.tokens import ITEMS, LISTS, MISSING, USERS, plain
from harness.errors import UserError

# Lines that decide.
SAMPLE = 1000
_SEPARATES = re.compile(r"[\s,;|]")
Cut = Callable[[str], list[str]]


@dataclass(frozen=True)
class Cutting:
    """How lines are cut.

    Attributes:
        words: In words.
        cut: From a line to its fields.
    """

    words: str
    cut: Cut


def by(separator: str) -> Cutting:
    """Lines with one separator."""
    return Cutting(f"separated by {SEPARATORS.get(separator, repr(separator))}", lambda line: split(line, separator))


def of_pairs(path: Path, sample: list[str]) -> Cutting:
    """How `user item` lines are cut: by the separator that gives two fields in most lines.

    Raises:
        UserError: Two give them in all lines.
    """
    counts = {separator: sum(_count(line, separator) == 2 for line in sample) for separator in SEPARATORS}
    best = max(counts.values())
    fit = [separator for separator, count in counts.items() if count == best]
    if best == 0:
        return by(" ")
    # Blanks belong to a name where tabs separate; where something else does, they may separate as well.
    if fit[0] != "\t":
        fit += [separator for separator in SEPARATORS if separator not in fit and _is_wider(sample, separator)]
        if len(fit) > 1:
            raise _ambiguous(path, sample[0], [SEPARATORS[separator] for separator in fit])
    return by(fit[0])


def of_sequences(sample: list[str]) -> Cutting:
    """How `user item item …` lines are cut.

    By tabs, if a line has several; else, if each has one, the items after it by commas or blanks. Else by white
    space, with `,` or `;` behind ids and `:` behind the user left out if they stand there in all lines; or by a
    separator, if there is no white space. Tabs and separators need but half of the lines, so that a wrong line is
    what is refused, not the others.

    Raises:
        ValueError: One separator stands behind every user, and another between the items.
    """
    bare = [line.strip() for line in sample]
    _refuse_mixed(bare)
    fields = [line.split() for line in bare]
    tabbed = [line for line in bare if "\t" in line]
    others = [parts for line, parts in zip(bare, fields, strict=True) if "\t" not in line]
    # A line without a tab may be cut by the blanks that it has, and then all may, unless ids have blanks too.
    wide = any(" " in part.strip() for line in tabbed for part in line.split("\t"))
    if 2 * len(tabbed) >= len(bare) and (wide or all(len(parts) == 1 for parts in others)):
        if any(line.count("\t") > 1 for line in tabbed):
            return by("\t")
        for mark in (",", ";"):
            if any(mark in line.partition("\t")[2] for line in tabbed):
                return Cutting(f"a tab behind the user, items separated by {SEPARATORS[mark]}", _after_tab(mark))
    single = [parts[0] for parts in fields if len(parts) == 1]
    if 2 * len(single) >= len(bare):
        counts = {mark: sum(mark in line for line in single) for mark in ("::", ",", ";", "|")}
        # Where several are in as many lines, the first: the others belong to ids then.
        mark = max(counts, key=lambda mark: counts[mark])
        if 2 * counts[mark] >= len(bare) and counts[mark] > 0:
            return by(mark)
    for mark in (",", ";"):
        if _closes(mark, [line[:-1] for line in fields]):
            return Cutting(f"separated by {SEPARATORS[mark]} and blanks", by(mark).cut)
        if _closes(mark, [line[1:-1] for line in fields]):
            return Cutting(f"a blank behind the user, items separated by {SEPARATORS[mark]}", _after_blank(mark))
    if all(len(line) == 2 and "," in line[1] for line in fields):
        return Cutting("a blank behind the user, items separated by commas", _after_blank(","))
    if all(len(line[0]) > 1 and line[0].endswith(":") for line in fields):
        return Cutting("a colon behind the user, items separated by blanks", _after_colon)
    return by(" ")


def _refuse_mixed(lines: list[str]) -> None:
    """Refuse `user:item,item` and the like: one separator behind every user, and another between the items.

    Where it stands once in each line, and what is before it names another user in each, the first item would else
    become a part of the user.

    Raises:
        ValueError: The lines are such.
    """
    for mark in ("::", ":", ",", ";", "|"):
        parts = [line.partition(mark) for line in lines]
        users = {user for user, _, _ in parts}
        if 1 < len(lines) == len(users) and all(_is_mixed(user, mark, rest) for user, _, rest in parts):
            raise ValueError(f"has '{mark}' once and another separator behind it, so where the user ends is not known")


def _is_mixed(user: str, mark: str, rest: str) -> bool:
    """Whether a mark stands once in a line, behind its user, and something else separates the rest."""
    # A blank behind the mark ends the user there; `of_sequences` knows those forms.
    once = user != "" and mark not in rest and not rest[:1].isspace()
    return once and _SEPARATES.search(user) is None and _SEPARATES.search(rest) is not None


def _closes(mark: str, fields: list[list[str]]) -> bool:
    """Whether all fields end with a mark, and there are some."""
    return any(fields) and all(len(field) > 1 and field.endswith(mark) for line in fields for field in line)


def _after_tab(mark: str) -> Cut:
    def cut(line: str) -> list[str]:
        user, _, rest = line.partition("\t")
        return [*split(user, "\t"), *split(rest, mark)]

    return cut


def _after_blank(mark: str) -> Cut:
    def cut(line: str) -> list[str]:
        user, _, rest = line.strip().partition(" ")
        return [*split(user, " "), *split(rest, mark)]

    return cut


def _after_colon(line: str) -> list[str]:
    user, *items = split(line, " ")
    return [user.removesuffix(":"), *items]


def _count(line: str, separator: str) -> int:
    try:
        return len([field for field in split(line, separator) if field])
    except ValueError:
        return 0


def _is_wider(sample: list[str], separator: str) -> bool:
    """Whether a separator cuts all lines into as many fields, and more than two: then they may be a table's."""
    counts = {_count(line, separator) for line in sample}
    return separator != " " and len(counts) == 1 and counts.pop() > 2


def _ambiguous(path: Path, line: str, names: list[str]) -> UserError:
    return UserError(
        f"{path}, line 1: '{shown(line)}' can be cut by {' or by '.join(names)}; write which with the data set in the "
        "study, for instance `separator: ','`, or `format: table` if it is a table"
    )


def is_header(fields: list[str], *, lists: bool) -> bool:
    """Whether a first line names columns.

    Args:
        fields: Of the line.
        lists: Whether the second column may be named as a list of items.

    Raises:
        ValueError: It names the items first, or more columns than two.
    """
    names = [plain(field) for field in fields[:2]]
    if len(fields) > 2 and names[0] in USERS and names[1] in ITEMS:
        raise ValueError("names the columns of a table, which is read with `format: table`")
    if len(fields) != 2:
        return False
    if names[0] in USERS and (names[1] in ITEMS or (lists and names[1] in LISTS)):
        return True
    if names[0] in ITEMS and names[1] in USERS:
        raise ValueError("names the items first; expected the users first")
    return False


def check(fields: list[str]) -> str | None:
    """What is wrong with the ids of a line; None if nothing is."""
    for place, field in enumerate(fields):
        if field in MISSING:
            return f"has no {'item' if place else 'user'} in field {place + 1} ('{shown(field)}')"
        if "\0" in field:
            return f"has a zero byte in field {place + 1}, which no text has"
    return None
