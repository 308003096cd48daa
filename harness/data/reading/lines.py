"""What readers of text share: lines of plain and compressed files, dense ids, and messages for what they refuse."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness.data.account import Account
from harness.errors import UserError

_GZIP, _ZSTANDARD, _ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What unpackers raise over a damaged file.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, lzma.LZMAError)
# Texts of reviews may be long; what bounds them is the file.
csv.field_size_limit(1 << 30)
# Enough to see a byte order mark, or that a file is no text.
_PEEK = 4096


class ItemIds(dict[str, int]):
    """Dense ids by token, 1 for the first token asked for."""

    def __missing__(self, token: str) -> int:
        self[token] = len(self) + 1
        return len(self)


def lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields, separated by white space, of every line that is neither blank nor a comment.

    Raises:
        UserError: See `text_lines`.
    """
    for number, line in text_lines(path):
        yield number, line.split()


def text_lines(path: Path, encoding: str = "utf-8", account: Account | None = None) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is neither blank nor a comment: `#` alone, or before a blank.

    So a user named `#1` is a user.

    Args:
        path: Text, plain or compressed; see `opened`.
        encoding: Its encoding; a byte order mark is left out.
        account: Where lines that are left out are counted.

    Raises:
        UserError: A file that cannot be unpacked, or is not text of that encoding.
    """
    with text(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if reason := empty(line):
                if account is not None:
                    account.leave_out(reason)
                continue
            yield number, line


def empty(line: str) -> str | None:
    """Why a line holds nothing; None if it does."""
    if line.isspace():
        return "blank lines"
    if line[0] == "#" and (len(line) == 1 or line[1].isspace()):
        return "comments"
    return None


@contextlib.contextmanager
def text(path: Path, encoding: str = "utf-8") -> Iterator[IO[str]]:
    """A file as text, its line ends as they are.

    Raises:
        UserError: A file that cannot be unpacked, or is not text of that encoding, while it is read.
    """
    with opened(path) as binary:
        head = binary.peek(_PEEK)[:_PEEK]
        if is_utf8(encoding) and head.startswith(_UTF16):
            raise UserError(
                f"{path}, line 1: the text is UTF-16, not UTF-8; write `encoding: utf-16` with the data set in the "
                "study, or convert the file (`iconv -f utf-16 -t utf-8`)"
            )
        if b"\0" in head and not encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "u16", "u32")):
            line = len(head[: head.index(b"\0")].splitlines(keepends=True)) or 1
            raise UserError(
                f"{path}, line {line}: not text (it holds zero bytes). Legal: text, .gz, .zst, .zip of one text, "
                ".parquet; unpack an archive first, and export a workbook as CSV"
            )
        # The signature is that of UTF-8 alone: for other encodings Python takes it off itself, or there is none.
        file = io.TextIOWrapper(binary, encoding="utf-8-sig" if is_utf8(encoding) else encoding, newline="")
        try:
            yield file
        except UnicodeError as error:
            raise _undecodable(path, encoding, error) from None


def is_utf8(encoding: str) -> bool:
    """Whether an encoding is UTF-8, however it is spelled."""
    return codecs.lookup(encoding).name == "utf-8"


def _undecodable(path: Path, encoding: str, error: UnicodeError) -> UserError:
    reason = getattr(error, "reason", str(error))
    if not is_utf8(encoding):
        return UserError(f"{path}: not text of encoding {encoding} ({reason}); name the encoding that it has")
    number = 0
    with opened(path) as binary:
        for line in binary:
            number += 1
            try:
                line.decode()
            except UnicodeDecodeError:
                break
    return UserError(
        f"{path}, line {number}: not UTF-8 text ({reason}); write its encoding with the data set in the study, for "
        "instance `encoding: latin-1`, or convert the file (`iconv -f latin1 -t utf-8`)"
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked if it is gzip, Zstandard, or a zip of one member.

    Raises:
        UserError: A zip of several members or with a password, Zstandard without the package for it, or, while it is
            read, a damaged file.
    """
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        start = file.peek(4)[:4]
        if start.startswith(_GZIP):
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif start == _ZSTANDARD:
            file = stack.enter_context(_zstandard(path, file))
        elif start == _ZIP:
            file = stack.enter_context(_member(path, stack))
        try:
            yield file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)
        except DAMAGED as error:
            raise UserError(f"{path} is damaged ({error}); get it again") from None


def _zstandard(path: Path, file: IO[bytes]) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"{path} is packed with Zstandard, and the package for it is not installed; "
            "`pip install zstandard`, or unpack the file (`unzstd`)"
        ) from None
    return _Zstandard(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True), zstandard.ZstdError)


class _Zstandard(io.RawIOBase):
    """A stream of Zstandard whose error is that of gzip, so that readers need not import the package."""

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self._stream, self._error = stream, error

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; 0 at the end.

        Raises:
            EOFError: Damaged.
        """
        try:
            return int(self._stream.readinto(buffer))
        except self._error as error:
            raise EOFError(str(error)) from None


def _member(path: Path, stack: contextlib.ExitStack) -> Any:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        # A damaged directory may hold an empty name, which `is_dir` cannot bear.
        members = [m for m in archive.infolist() if m.filename and not m.filename.endswith("/")]
        members = [m for m in members if not m.filename.startswith("__MACOSX/")]
        if any(m.filename == "[Content_Types].xml" for m in members):
            raise UserError(f"{path} is a workbook; export its sheet as CSV, and name that file")
        if len(members) == 1:
            return archive.open(members[0])
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        # A damaged directory may name a place that the file does not have.
        raise UserError(f"{path} is damaged ({error}); get it again") from None
    except RuntimeError as error:
        raise UserError(f"{path}: {error}; unpack it, and name the file in it") from None
    names = ", ".join(member.filename for member in members[:8])
    raise UserError(f"{path} holds {len(members)} files ({names}); a zip must hold one. Unpack it, and name the file")


def split(line: str, separator: str) -> list[str]:
    """Fields of one line, without quotes around them and blanks at their ends.

    Args:
        line: With or without its end.
        separator: A key of `SEPARATORS`, or any character.

    Raises:
        ValueError: A quote that is not closed; its text says so.
    """
    if separator == " ":
        fields = line.split()
    elif '"' not in line:
        return [field.strip() for field in line.split(separator)]
    else:
        return [field.strip() for field in next(quoted([line.strip("\r\n")], separator))]
    if '"' in line and any(field[0] == '"' for field in fields):
        return next(quoted([" ".join(fields)], separator))
    return fields


def quoted(texts: Any, separator: str) -> Iterator[list[str]]:
    """Fields of lines in which quotes may stand around a field, as CSV has them.

    Raises:
        ValueError: A quote that is not closed, or text after one.
    """
    # A separator must be one character here, and this one is in no text.
    mark = "\x1f" if separator == "::" else separator
    if separator == "::":
        texts = (line.replace("::", mark) for line in texts)
    reader = csv.reader(texts, delimiter=mark, strict=True, skipinitialspace=True)
    try:
        yield from reader
    except csv.Error as error:
        words = "a quote is not closed" if "end of data" in str(error) or "limit" in str(error) else str(error)
        raise ValueError(f"{words}; a field with quotes in it stands in quotes, and they stand in it twice") from None


def is_parquet(path: Path) -> bool:
    """Whether a file is one of Parquet, which is no text."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def refuse(path: Path, number: int, line: str, why: str, remedy: str) -> UserError:
    """The error for a line: file, number, its text, what is wrong with it and what to do."""
    return UserError(f"{path}, line {number}: '{shown(line)}' {why}. {remedy}")


def shown(line: str) -> str:
    """A line for a message: short, and on one line."""
    plain = " ".join(line.split())
    return plain if len(plain) <= 80 else f"{plain[:77]}…"


def malformed(path: Path, number: int, fields: list[str], form: str) -> UserError:
    """The error for a line of another form."""
    return refuse(path, number, " ".join(fields), f"has {len(fields)} field(s); expected {form}", "Correct the line")


def no_events(path: Path) -> UserError:
    """The error for a file without any."""
    return UserError(f"{path}: the file holds no event; name a file with one event a line at least")
