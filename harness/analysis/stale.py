"""Records made from other sources than those here: listed, and removed on request."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.analysis.load import Folder, load
from harness.errors import UserError
from harness.records import device_series as series
from harness.records import operator, source_digest
from harness.records.schema import read
from harness.study.cells import Cell

_ASIDE = ".stale"


def stale(folder: Folder) -> list[str]:
    """Paths of counted records whose sources changed since; not those where that cannot be told."""
    return [c.path for c in folder.counted if c.stale]


def stale_operator(folder: Path) -> list[str]:
    """Name of the folder's operator.json if its sources changed since; empty if not, or where none can be read."""
    return [operator.FILE_NAME] if _is_stale_operator(folder / operator.FILE_NAME) else []


def untold(folder: Folder) -> list[str]:
    """Paths of counted records of models that are not installed here."""
    return [c.path for c in folder.counted if c.record is not None and c.stale is None]


def remove_stale(path: Path) -> list[str]:
    """Remove the stale records of a folder, and their time series; nothing else.

    Each is renamed aside first and read once more there: a sweep that runs meanwhile may just have
    written a fresh one under its name, which then goes back. Interrupted, it leaves the others as they were.

    Returns:
        Paths removed, below the folder.

    Raises:
        UserError: The folder has no readable study.json.
    """
    _restore(path)
    folder = load(path)
    cells = {c.path: c.cell for c in folder.counted}
    removed = [name for name in stale(folder) if _remove(path / name, functools.partial(_is_stale, cell=cells[name]))]
    return removed + [name for name in stale_operator(path) if _remove(path / name, _is_stale_operator)]


def _restore(path: Path) -> None:
    """Put back what an interrupted removal left aside, unless a newer record has its name."""
    for aside in (*path.glob(f"*/*/.*{_ASIDE}"), *path.glob(f".{operator.FILE_NAME}{_ASIDE}")):
        record = aside.with_name(aside.name[1 : -len(_ASIDE)])
        with contextlib.suppress(FileExistsError):
            os.link(aside, record)
        aside.unlink()


def _remove(record: Path, is_stale: Callable[[Path], bool]) -> bool:
    aside = record.with_name(f".{record.name}{_ASIDE}")
    try:
        record.replace(aside)
    except FileNotFoundError:
        return False
    if not is_stale(aside):
        # A link never overwrites: should there be a still newer record, that one stays.
        with contextlib.suppress(FileExistsError):
            os.link(aside, record)
        aside.unlink()
        return False
    if not record.exists():
        record.with_suffix(series.SUFFIX).unlink(missing_ok=True)
    aside.unlink()
    return True


def _is_stale(path: Path, cell: Cell) -> bool:
    try:
        found = read(path)
    except UserError:
        return False
    return found.provenance.source_digest != source_digest.cell_digest(cell.spec)


def is_stale_operator(record: operator.OperatorRecord) -> bool:
    """Whether the operator bench's sources changed since."""
    return record.provenance.source_digest != source_digest.source_digest(operator.SOURCES)


def _is_stale_operator(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return is_stale_operator(operator.read(path))
    except UserError:
        return False


def listing(path: Path, names: Sequence[str], unknown: Sequence[str], *, removed: bool) -> str:
    """What a person reads: one path a line, and a last line that says what was done or how to."""
    lines = [f"{'removed' if removed else 'stale  '} {name}" for name in names]
    lines += [f"unknown {name}" for name in unknown]
    count = f"{len(names)} stale record{'' if len(names) == 1 else 's'}"
    if removed:
        lines.append(f"{path}: {count} removed; the next run measures their cells again")
    elif names:
        lines.append(f"{path}: {count}, none removed; --remove-stale removes them")
    else:
        lines.append(f"{path}: no stale record")
    if unknown:
        lines.append(f"{len(unknown)} of models not installed here cannot be told, and stay")
    return "\n".join(lines)
