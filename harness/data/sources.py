"""From a name in a study to prepared arrays: find, unpack or fetch a file, verify it, read it once."""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np

from harness.data import interactions, parts
from harness.data.account import Account
from harness.data.catalogue import SYNTHETIC, DataSource, Origin, joint_sha256
from harness.data.formats import find_format
from harness.data.generated import planted, synthetic
from harness.data.interactions import StoredInteractions
from harness.data.preparation import prepared
from harness.data.reading.lines import ItemIds
from harness.data.remote import fetching, unpacking
from harness.data.splits import HELD_OUT_FILE
from harness.errors import UserError

DATA_VARIABLE = "HYENAREC_DATA"
CACHE_VARIABLE = "HYENAREC_CACHE"
CONSENT_VARIABLE = "HYENAREC_CONSENT"
_CHUNK = 1 << 20
# Files that come with the package, `FILE.gz` each, with their licence beside them.
_PACKAGED = Path(__file__).parent / "packaged"


@dataclass(frozen=True)
class Prepared:
    """A data set ready to be split.

    Attributes:
        name: Name in the study.
        interactions: Memory-mapped events.
        data_sha256: Checksum of the file, or of the generated events.
        arrays_sha256: Checksum of the arrays: what a training cell reads.
        files_sha256: Checksums of the files of data that come split; None for others.
        folder: Where the arrays lie.
        account: What was found in the file; None for generated data, and for a format that does not tell.
    """

    name: str
    interactions: StoredInteractions
    data_sha256: str
    arrays_sha256: str
    folder: Path
    account: Account | None = None
    files_sha256: dict[str, str] | None = None


def cache_folder() -> Path:
    """Where prepared arrays and downloads go: HYENAREC_CACHE, else .cache/harness here."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(".cache") / "harness")


def prepare(name: str, source: DataSource, data_folder: str | Path | None = None) -> Prepared:
    """Find, verify and read a data set, once per machine.

    Two processes may prepare the same data at once: they meet at a lock, and arrays appear under
    their final name complete or not at all.

    Args:
        name: Name in the study.
        source: Format, file, checksum and address.
        data_folder: The study's folder of real data; the variable HYENAREC_DATA wins.

    Raises:
        UserError: The file is missing, has another checksum, or a malformed line; or planted data that cannot be.
    """
    source.check(name)
    folder = prepared_folder(name, source, data_folder)
    if (found := _intact(name, folder)) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if _intact(name, folder) is None:
                if folder.is_dir():
                    print(f"data {name}: the arrays in {folder} are damaged; preparing them again", file=sys.stderr)
                    shutil.rmtree(folder)
                _build(folder, name, source, data_folder)
        found = interactions.load(folder)
        _INTACT[folder] = _stamp(folder)
    stored, meta = found
    account = Account(**meta["read"]) if meta.get("read") else None
    files = meta.get("files_sha256")
    return Prepared(name, stored, meta["data_sha256"], meta["arrays_sha256"], folder, account, files)


# Folders whose arrays this process has held against their checksum, and what their files were then.
_INTACT: dict[Path, list[tuple[str, int, int]]] = {}


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _intact(name: str, folder: Path) -> tuple[StoredInteractions, dict[str, Any]] | None:
    """Arrays and meta.json of a folder; None if there is none, or its arrays are not those that were prepared."""
    if not folder.is_dir():
        return None
    try:
        stored, meta = interactions.load(folder)
        stamp = _stamp(folder)
        if _INTACT.get(folder) != stamp:
            if interactions.checksum(folder) != meta["arrays_sha256"] or stored.offsets[-1] != stored.num_events:
                return None
            if "held_out_sha256" in meta and sha256_of(folder / HELD_OUT_FILE) != meta["held_out_sha256"]:
                return None
            _INTACT[folder] = stamp
    # What numpy and json say of files that are cut, empty, or of another kind.
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError):
        return None
    return stored, meta


def locate(name: str, source: DataSource, data_folder: str | Path | None = None) -> Path:
    """Path of a data set's file, verified; unpacked into the cache if it is packaged, downloaded if it has an address.

    Raises:
        UserError: Nowhere to be found, or not the file that the checksum names.
    """
    if source.file is None:
        raise UserError(f"data set '{name}' of format '{source.format}' names no file; add `file:` to it in the study")
    given, file = data_place(data_folder), Path(source.file).expanduser()
    for path in candidates(source.file, data_folder):
        if path.is_file():
            _verify(path, source)
            return path
    if file.is_absolute():
        raise UserError(f"data set '{name}' is missing: there is no file {file}; correct `file:` in the study")
    downloaded = cache_folder() / "files" / file
    if (packaged := packaged_file(source.file)) is not None:
        with filelock.FileLock(_lock_beside(downloaded)):
            if not downloaded.is_file():
                _unpack(source, packaged, downloaded)
        return downloaded
    if (origin := source.published) is None:
        raise _missing(name, source, given, "it has no stable public address")
    with filelock.FileLock(_lock_beside(downloaded)):
        if not downloaded.is_file():
            _obtain(name, source, origin, downloaded, given)
    return downloaded


def candidates(file: str, data_folder: str | Path | None = None) -> list[Path]:
    """Where a file is looked for, in this order: the user's folder, then what was unpacked or downloaded."""
    given, own = data_place(data_folder), Path(file).expanduser()
    return [*([given / own] if given else []), cache_folder() / "files" / own]


def archive_at_hand(source: DataSource, data_folder: str | Path | None = None) -> Path | None:
    """The published archive, if the user has put it where the file in it would lie; None without one."""
    given, origin = data_place(data_folder), source.published
    if given is None or origin is None or not origin.members or source.file is None:
        return None
    path = (given / source.file).with_name(origin.archive)
    return path if path.is_file() else None


def consented(name: str, origin: Origin) -> bool:
    """Whether a data set may be fetched: its terms ask for nothing, or the user has agreed to them by its name."""
    return not origin.consent or name in os.environ.get(CONSENT_VARIABLE, "").replace(",", " ").split()


def packaged_file(file: str) -> Path | None:
    """The packed file that comes with the package; None without one."""
    packaged = (_PACKAGED / f"{file}.gz").resolve()
    # A path may lead out of the folder; what lies there is the user's.
    return packaged if packaged.is_relative_to(_PACKAGED.resolve()) and packaged.is_file() else None


def data_place(data_folder: str | Path | None = None) -> Path | None:
    """The folder of real data, as an absolute path: HYENAREC_DATA, else the study's."""
    given = os.environ.get(DATA_VARIABLE) or data_folder
    return Path(given).expanduser().absolute() if given else None


def own_files(source: DataSource, data_folder: str | Path | None = None) -> dict[str, Path]:
    """The user's files of a data set by part, "" for the only one; those that are there, and no packaged or fetched."""
    found = {part: own_file(one, data_folder) for part, one in (source.parts or {"": source}).items()}
    return {part: file for part, file in found.items() if file is not None}


def own_file(source: DataSource, data_folder: str | Path | None = None) -> Path | None:
    """The user's file of a data set, if it is there; not one that came with the package or was fetched."""
    given = data_place(data_folder)
    if source.file is None:
        return None
    path = Path(source.file).expanduser()
    path = given / path if given else path
    return path if path.is_absolute() and path.is_file() else None


def sha256_of(path: Path) -> str:
    """Checksum of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of_words(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()


def prepared_folder(name: str, source: DataSource, data_folder: str | Path | None) -> Path:
    """Where the arrays of a data set go: a name that tells all that decides them."""
    options = ""
    if source.planted is not None:
        digest, version = _sha256_of_words(repr(source.planted)), planted.GENERATOR_VERSION
    elif source.format == SYNTHETIC:
        digest, version = _sha256_of_words(repr(synthetic.Parameters())), synthetic.GENERATOR_VERSION
    else:
        form = find_format(source.format)
        if words := form.refuse(source.options):
            raise UserError(f"data set '{name}' of format '{source.format}': {words}")
        digest, version = source.stated_sha256 or _data_sha256(name, source, data_folder), form.version
        options = f"-{_sha256_of_words(source.words)[:8]}" if source.words else ""
        options += f"-files{parts.VERSION}" if source.files is not None else ""
    return cache_folder() / "prepared" / f"{name}-{digest[:16]}-{source.format}{options}-v{version}"


def _data_sha256(name: str, source: DataSource, data_folder: str | Path | None) -> str:
    """Checksum of a file, or the common one of several."""
    found = _files_sha256(name, source, data_folder)
    return found[""] if source.files is None else str(joint_sha256(found))


def _files_sha256(name: str, source: DataSource, data_folder: str | Path | None) -> dict[str, str]:
    files = source.parts or {"": source}
    return {part: one.sha256 or sha256_of(locate(name, one, data_folder)) for part, one in files.items()}


def _build(folder: Path, name: str, source: DataSource, data_folder: str | Path | None) -> None:
    # Whoever left these was killed: the lock is ours.
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        shutil.rmtree(left, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        meta: dict[str, Any] = {"name": name, "format": source.format}
        histories: Iterable[list[int]]
        times: Iterable[list[int]] | None = None
        if source.format == SYNTHETIC:
            generated = synthetic.generate() if source.planted is None else planted.generate(source.planted)
            bounds = zip(generated.offsets[:-1], generated.offsets[1:], strict=True)
            histories = (generated.items[start:end].tolist() for start, end in bounds)
            meta |= {
                "data_sha256": generated.sha256,
                "num_items": (source.planted or synthetic.Parameters()).num_items,
            }
        elif source.files is not None:
            account, files = Account(), _files_sha256(name, source, data_folder)
            paths = {part: locate(name, one, data_folder) for part, one in source.parts.items()}
            whole = parts.joined(name, paths, find_format(source.format), source.options, account)
            histories, times = whole.histories
            np.save(aside / HELD_OUT_FILE, whole.held_out)
            meta |= {
                "data_sha256": joint_sha256(files),
                "files_sha256": files,
                "held_out_sha256": sha256_of(aside / HELD_OUT_FILE),
                "num_items": whole.num_items,
                "read": vars(account),
            }
        else:
            path, form, account = locate(name, source, data_folder), find_format(source.format), Account()
            histories, times = form.histories(path, ItemIds(), source.options, account)
            if source.preparation.words:
                histories, times = prepared(name, source.preparation, (histories, times), account)
            # Its entries are filled while the histories are stored.
            meta |= {"data_sha256": source.sha256 or sha256_of(path), "read": vars(account) if form.options else None}
        interactions.store(aside, histories, meta, times)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _verify(path: Path, source: DataSource) -> None:
    origin, words = source.published, None
    if source.sha256 is not None:
        if (found := sha256_of(path)) != source.sha256:
            words = f"sha256 is {found}, expected {source.sha256}"
    elif origin is not None and not origin.members and not fetching.is_whole(path, origin.checksum):
        words = f"it has not the checksum {origin.checksum}"
    if words is not None:
        raise UserError(
            f"{path}: {words}; it is another file or a damaged one. Replace it{f' from {origin.url}' if origin else ''}"
        )


@contextlib.contextmanager
def _arriving(source: DataSource, path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place only when it is whole and verified; else nothing is left of it."""
    # Whoever left these was killed: the lock is ours.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        left.unlink()
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        _verify(Path(aside), source)
        Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _unpack(source: DataSource, packaged: Path, path: Path) -> None:
    print(f"data {source.file}: its terms of use stand in {packaged.parent}", file=sys.stderr, flush=True)
    try:
        with _arriving(source, path) as file, gzip.open(packaged) as content:
            shutil.copyfileobj(content, file, _CHUNK)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{packaged} is damaged ({error}); install the package again") from None


def _obtain(name: str, source: DataSource, origin: Origin, path: Path, given: Path | None) -> None:
    """Fetch a published file, or take it out of the archive that is at hand or fetched."""
    if not origin.members:
        _fetch(name, source, origin, path, given)
        return
    at_hand = archive_at_hand(source, given)
    archive = at_hand or path.with_name(origin.archive)
    if at_hand is None and not archive.is_file():
        _fetch(name, source, origin, archive, given)
    elif not fetching.is_whole(archive, origin.checksum):
        raise UserError(f"{archive} is another file than {origin.checksum} names, or a damaged one; remove it")
    print(f"data {name}: unpacking {archive}", file=sys.stderr, flush=True)
    try:
        with _arriving(source, path) as file:
            unpacking.unpack(archive, origin.members, file)
    except unpacking.ArchiveError as error:
        raise UserError(f"data set '{name}': {error}") from None
    if at_hand is None:
        archive.unlink()


def _fetch(name: str, source: DataSource, origin: Origin, path: Path, given: Path | None) -> None:
    if not consented(name, origin):
        raise UserError(
            f"data set '{name}' waits for your consent to its terms: {origin.conditions}. Size: {origin.weight}. "
            f"Cite: {source.citation or 'not stated'}. To agree, type {CONSENT_VARIABLE}={name} before the command; "
            f"it is then fetched from {origin.url}"
        )
    print(f"data {name}: fetching {origin.url}, {origin.weight}", file=sys.stderr)
    print(f"data {name}: licence: {origin.conditions}", file=sys.stderr)
    print(f"data {name}: cite: {source.citation or 'not stated'}", file=sys.stderr, flush=True)
    checksum = origin.checksum
    if source.sha256 is not None and not origin.members:
        checksum = f"sha256:{source.sha256}"
    try:
        if origin.size is not None and shutil.disk_usage(path.parent).free < origin.size:
            raise UserError(f"data set '{name}': {origin.weight} do not fit on the disk of {path.parent.absolute()}")
        fetching.fetch(origin.url, path, checksum)
    except fetching.ChecksumError as error:
        raise UserError(f"data set '{name}': {origin.url} gave another file, or a damaged one: {error}") from None
    except OSError as error:
        raise _missing(name, source, given, f"fetching it failed ({fetching.reason(error)})") from None


def _lock_beside(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"{path}.lock"


def _missing(name: str, source: DataSource, given: Path | None, reason: str) -> UserError:
    origin = source.published
    file, checksum = Path(str(source.file)), f"sha256 {source.sha256 or 'any'}"
    if origin is not None and origin.members:
        file, checksum = file.with_name(origin.archive), origin.checksum or "any checksum"
    place = given / file if given else f"a folder that {DATA_VARIABLE} names, as {file}"
    if given and not given.is_dir():
        named = DATA_VARIABLE if os.environ.get(DATA_VARIABLE) else "data_folder"
        reason += f"; the folder of real data that {named} names, {given}, is not there"
    return UserError(
        f"data set '{name}' is missing: {reason}. Get {origin.url if origin else source.citation or 'the file'}, "
        f"{checksum}, and put it at {place}"
    )
