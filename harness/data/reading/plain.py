"""Plain CSV a block at once, by pyarrow where it is installed: the rows that `csv` gives, in a fraction of the time.

A block is plain if each of its lines is a row: no quotes, comments or blank lines. Whoever reads a file takes plain
blocks from here, and goes on by `csv` from the first row that is in none; so what is wrong is said there alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.interactions import Integers
from harness.data.reading import lines

_BLOCK = 1 << 24
_SIGNATURE = b"\xef\xbb\xbf"
# Where a block holds none of these, and no line begins with one of those, its lines are its rows.
_ODD = (b'"', b"\r", b"\0")
_NOT_AT_START = (b"#", b"\n", b" ", b"\t")


@dataclass(frozen=True)
class Coded:
    """A column of few distinct texts.

    Attributes:
        texts: Each of them, in the order of their first rows.
        places: `[N]` the place of every row's text in `texts`, from 0.
    """

    texts: list[str]
    places: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.places)


# Cells of a column without blanks at their ends; whole numbers as such where all cells are.
Column = list[str] | Coded | Integers


def uncoded(column: Column) -> list[str] | Integers:
    """The cells of a column, each by itself."""
    return [column.texts[place] for place in column.places.tolist()] if isinstance(column, Coded) else column


class PlainBlocks:
    """Columns of the plain blocks that a file begins with.

    Args:
        path: A file of UTF-8, plain or compressed.
        separator: One character.
        header: Whether the first line names the columns.
        width: Number of columns.
        roles: Place of each column that is asked for, from 0; `user` and `item` are coded.
    """

    def __init__(self, path: Path, separator: str, header: bool, width: int, roles: dict[str, int]) -> None:
        self._path, self._separator, self._header = path, separator.encode(), header
        self._width, self._roles = width, roles
        self.rows = 0
        self.ended = False

    def __iter__(self) -> Iterator[list[Column]]:
        """Columns of `roles`, in their order, a block at once; then `rows` were given, and `ended` tells if all were.

        Raises:
            UserError: A file that cannot be unpacked.
        """
        try:
            import pyarrow
        except ImportError:
            return
        with lines.opened(self._path) as file:
            header = self._header
            for block in _blocks(file):
                if not _is_plain(block):
                    return
                if header:
                    block, header = block[block.index(b"\n") + 1 :], False
                if not block:
                    continue
                # That all others have as many cells as the first is for pyarrow to see.
                if block[: block.index(b"\n")].count(self._separator) != self._width - 1:
                    return
                try:
                    columns = self._columns(block)
                # A row of another width, or bytes that are no UTF-8.
                except pyarrow.ArrowInvalid:
                    return
                yield columns
                self.rows += len(columns[0])
            self.ended = self.rows > 0

    def _columns(self, block: bytes) -> list[Column]:
        import pyarrow
        from pyarrow import csv

        names = [f"f{place}" for place in self._roles.values()]
        table = csv.read_csv(
            pyarrow.BufferReader(block),
            csv.ReadOptions(autogenerate_column_names=True),
            csv.ParseOptions(delimiter=self._separator.decode(), quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False
            ),
        )
        return [
            coded(column) if role in ("user", "item") else _numbers(column) if role == "time" else _texts(column)
            for role, column in zip(self._roles, table.columns, strict=True)
        ]


def _is_plain(block: bytes) -> bool:
    return not (
        block.startswith(_NOT_AT_START)
        or any(odd in block for odd in _ODD)
        or any(b"\n" + start in block for start in _NOT_AT_START)
    )


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, some megabytes at once; ends of lines are those of Unix."""
    rest, more = file.read(len(_SIGNATURE)).removeprefix(_SIGNATURE), True
    while more:
        read = file.read(_BLOCK)
        more = bool(read)
        rest += read
        if not more and rest and not rest.endswith(b"\n"):
            rest += b"\n"
        end = rest.rfind(b"\n") + 1
        block, rest = rest[:end].replace(b"\r\n", b"\n"), rest[end:]
        if block:
            yield block


def coded(column: Any) -> Coded:
    """A column of pyarrow, of any type whose values are what they are as text; a missing one is empty."""
    whole = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if str(whole.type).startswith("dictionary"):
        whole = whole.cast("string")
    found = whole.dictionary_encode(null_encoding="encode")
    texts = [text.strip() for text in found.dictionary.cast("string").fill_null("").to_pylist()]
    return Coded(texts, found.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False))


def _numbers(column: Any) -> Column:
    import pyarrow
    from pyarrow import compute

    if compute.all(compute.ascii_is_decimal(column)).as_py():
        try:
            return np.asarray(column.cast("int64").to_numpy(), np.int64)
        # Beyond 64 bits: refused where the text is read.
        except pyarrow.ArrowInvalid:
            pass
    return _texts(column)


def _texts(column: Any) -> list[str]:
    return [text.strip() for text in column.to_pylist()]
