"""What readers of text share: lines, dense ids, and the message for a line of another form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import UserError


class ItemIds(dict[str, int]):
    """Dense ids by token, 1 for the first token asked for."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self) + 1
        return len(self)


def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of every line that is not blank.

    Raises:
        UserError: Bytes that are not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fields = line.decode().split()
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8 text ({error.reason}); convert the file") from None
            if fields:
                yield number, fields


def malformed(path: Path, number: int, fields: list[str], form: str) -> UserError:
    """The error for a line of another form."""
    text = " ".join(fields)
    shown = text if len(text) <= 80 else f"{text[:77]}…"
    return UserError(f"{path}, line {number}: '{shown}' has {len(fields)} field(s); expected {form}. Correct the line")
