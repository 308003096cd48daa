"""Fetching a published file: with progress, resumed where the server allows, whole and verified or not at all.

pooch verifies the checksum and puts the file in its place; it has no downloader that goes on where a connection broke.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of a block that breaks off nothing is kept.
_CHUNK = 1 << 16
_TIMEOUT_SECONDS = 60
_ATTEMPTS = 4
_WAIT_SECONDS = 1.0


class ChecksumError(Exception):
    """What was fetched is not what the checksum names; its text says both."""


def fetch(url: str, path: Path, checksum: str | None = None) -> None:
    """Fetch a file. What was left of an attempt before is gone on with, if the server says that nothing changed.

    Args:
        url: https://, http://, ftp:// or file:///.
        path: Where it goes; only whole and verified. Until then it is `.NAME.part` beside it.
        checksum: `md5:…` or `sha256:…`; None accepts any content of the length that the server states.

    Raises:
        ChecksumError: Another file; nothing is left of it.
        OSError: It could not be fetched, whatever the reason.
    """
    import pooch

    # It would tell users to put a checksum into a call of its own.
    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(url, known_hash=checksum, fname=path.name, path=path.parent, downloader=_downloader(url, path))
    except ValueError as error:
        raise ChecksumError(str(error)) from None


def reason(error: OSError) -> str:
    """Why something could not be fetched, without the layers of the library around it."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^HTTPS?Connection\(.*?\): ", "", str(inner or error))


def is_whole(path: Path, checksum: str | None) -> bool:
    """Whether a file is what a checksum names."""
    import pooch

    if checksum is None:
        return True
    kind, digest = checksum.split(":")
    return str(pooch.file_hash(str(path), alg=kind)) == digest


def _downloader(url: str, path: Path) -> Any:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme == "file":
        return _copy
    if scheme == "ftp":
        import pooch

        return pooch.FTPDownloader(timeout=_TIMEOUT_SECONDS)
    return _Resuming(path)


def _copy(url: str, output_file: str, pooch: Any) -> None:
    shutil.copyfile(urllib.request.url2pathname(urllib.parse.urlsplit(url).path), output_file)


class _Resuming:
    """A downloader for pooch that leaves what it has where a connection broke, and goes on from there.

    It asks for the rest only of the very same content: `If-Range` names the tag or the date that the server gave with
    the part that is there, and a server with another content answers with all of it.

    Args:
        path: Where the file will lie.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._part = path.with_name(f".{path.name}.part")
        self._mark = path.with_name(f".{path.name}.part-of")

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fetch to `output_file`, which pooch then verifies.

        Raises:
            requests.RequestException: Four attempts broke, or the server refused.
        """
        import requests

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._go_on(url)
                break
            except requests.HTTPError:
                raise
            except requests.RequestException:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_WAIT_SECONDS * attempt)
        self._mark.unlink()
        self._part.replace(output_file)

    def _go_on(self, url: str) -> None:
        import requests

        have = self._part.stat().st_size if self._part.is_file() else 0
        same = self._mark.read_text() if have and self._mark.is_file() else ""
        # Compressed on the way, a length would be that of another content.
        headers = {"Accept-Encoding": "identity"}
        if same:
            headers |= {"Range": f"bytes={have}-", "If-Range": same}
        with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS, headers=headers) as answer:
            resumed = answer.status_code == requests.codes.partial_content
            asked = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if (resumed and not asked) or (
                same and answer.status_code == requests.codes.requested_range_not_satisfiable
            ):
                self._part.unlink()
                raise requests.ConnectionError(f"{url} answered with another part than it was asked for")
            answer.raise_for_status()
            if not resumed:
                have = 0
                # First the part, then its mark: killed in between, no part may bear the mark of another.
                self._part.unlink(missing_ok=True)
                self._mark.write_text(_validator(answer.headers))
            length = answer.headers.get("Content-Length")
            with self._part.open("ab" if resumed else "wb") as file:
                for block in _shown(answer.iter_content(_CHUNK), self._name, have, length and have + int(length)):
                    file.write(block)


def _validator(headers: Any) -> str:
    """What names a content; empty where the server gives nothing that may stand in `If-Range` (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag", "")
    return str(tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", ""))


def _shown(blocks: Iterator[bytes], name: str, have: int, total: Any) -> Iterator[bytes]:
    """The same blocks; a terminal shows how far they are."""
    if not sys.stderr.isatty():
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total or None, completed=have)
        for block in blocks:
            yield block
            progress.advance(task, len(block))
