"""Members of zip and tar archives, written to a file that the caller opened: an archive names no place to write to."""

from __future__ import annotations

import contextlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from harness.data.reading.lines import DAMAGED

_CHUNK = 1 << 20
# The most that is written: tables of text are packed by less than thirty to one.
_LEAST_LIMIT, _RATIO = 64 << 20, 100


class ArchiveError(Exception):
    """An archive that is damaged, or holds something else than it should; its text says what."""


def unpack(archive: Path, members: Sequence[str], file: BinaryIO) -> None:
    """Write members to a file, one after the other.

    Of a second one the first line is left out if it is that of the first: a header. Between two there is a line end.

    Args:
        archive: A zip, or a tar that may be compressed.
        members: Their paths in it.
        file: Where they go.

    Raises:
        ArchiveError: It is damaged or no archive, or a member is not there, is there twice, is encrypted, is a link or
            anything else than a file, or is larger than a table packed into so few bytes can be.
    """
    left = max(_LEAST_LIMIT, _RATIO * archive.stat().st_size)
    header: bytes | None = None
    ended = True
    try:
        with _opened(archive) as member_of:
            for member in members:
                if not ended:
                    left -= file.write(b"\n")
                    ended = True
                with member_of(member) as content:
                    for block in _without(header, content):
                        header = block if header is None else header
                        ended = block.endswith(b"\n")
                        left -= file.write(block)
                        if left < 0:
                            raise ArchiveError(f"{archive}: '{member}' is far larger than it can be; nothing is kept")
    except (*DAMAGED, tarfile.TarError, NotImplementedError) as error:
        raise ArchiveError(
            f"{archive} is damaged ({error or 'it ends too early'}); remove it and get it again"
        ) from None


def _without(header: bytes | None, content: IO[bytes]) -> Iterator[bytes]:
    first = content.readline(_CHUNK)
    if first and first != header:
        yield first
    while block := content.read(_CHUNK):
        yield block


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """A function that opens the member of a path."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield lambda member: _of_zip(archive, packed, member)
        return
    if not tarfile.is_tarfile(archive):
        raise ArchiveError(f"{archive} is damaged, or neither a zip nor a tar; remove it and get it again")
    with tarfile.open(archive) as tar:
        tar.getmembers()
        # A checksum of what is packed stands at its end, and tarfile stops before.
        while tar.fileobj is not None and tar.fileobj.read(_CHUNK):
            pass
        yield lambda member: _of_tar(archive, tar, member)


def _of_zip(archive: Path, packed: zipfile.ZipFile, member: str) -> IO[bytes]:
    found = [entry for entry in packed.infolist() if entry.filename == member]
    _only_one(archive, member, [entry.filename for entry in packed.infolist()])
    kind = stat.S_IFMT(found[0].external_attr >> 16)
    if found[0].is_dir() or kind not in (0, stat.S_IFREG):
        raise ArchiveError(f"{archive}: '{member}' is a link or no file; it is not followed")
    if found[0].flag_bits & 1:
        raise ArchiveError(f"{archive}: '{member}' is encrypted; unpack it, and put it where this file was looked for")
    return packed.open(found[0])


def _of_tar(archive: Path, packed: tarfile.TarFile, member: str) -> IO[bytes]:
    _only_one(archive, member, packed.getnames())
    entry = packed.getmember(member)
    content = packed.extractfile(entry) if entry.isreg() else None
    if content is None:
        raise ArchiveError(f"{archive}: '{member}' is a link or no file; it is not followed")
    return content


def _only_one(archive: Path, member: str, names: list[str]) -> None:
    if names.count(member) != 1:
        what = "is there twice" if member in names else "is not there"
        shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
        raise ArchiveError(f"{archive}: '{member}' {what}; it holds {shown or 'nothing'}")
