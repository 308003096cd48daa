"""A folder of records: what counts, what does not, and why. One bad file never hides the others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.results import CellStatus, FailedCell, RefusedFile
from harness.errors import UserError
from harness.metrics import SELECTION, gains
from harness.records import device_series as series
from harness.records import source_digest
from harness.records.schema import FAILED_SUFFIX, FINAL, Record, SpeedRecord, TrainingRecord, read
from harness.records.source_digest import Executed
from harness.study.cells import Cell
from harness.study.manifest import Manifest, read_manifest

_METRIC_TOLERANCE = 1e-6
# Beyond what any clock resolves and any time limit allows.
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1e-9, 1e9


@dataclass(frozen=True)
class Counted:
    """One cell of the study with what its folder holds for it.

    Attributes:
        record: The cell's record, if there is a good one.
        status: Of the record; else of the failed attempt; else `refused` or `missing`.
        detail: Why there is no result, or null.
        stale: Whether its sources changed since; None where that cannot be told here.
    """

    cell: Cell
    record: Record | None
    status: CellStatus
    detail: str | None
    stale: bool | None

    @property
    def path(self) -> str:
        """Path of the record below the folder."""
        return self.cell.path


@dataclass(frozen=True)
class Folder:
    """A study with all its records. Only records that a cell asks for are in `counted`."""

    manifest: Manifest
    counted: list[Counted]
    failed: list[FailedCell]
    refused: list[RefusedFile]
    orphans: list[str]

    def speed(self) -> Iterator[tuple[Counted, SpeedRecord]]:
        """Counted speed records."""
        for counted in self.counted:
            if isinstance(counted.record, SpeedRecord):
                yield counted, counted.record

    def training(self) -> Iterator[tuple[Counted, TrainingRecord]]:
        """Counted training records."""
        for counted in self.counted:
            if isinstance(counted.record, TrainingRecord):
                yield counted, counted.record

    def labels(self) -> list[str]:
        """Labels in the order of the study: the timing partner, the others, the references."""
        found = dict.fromkeys([self.manifest.study.timing_partner])
        trained = [c for c in self.manifest.cells if c.kind == "speed" or c.spec.length is not None]
        found.update(dict.fromkeys(c.label for c in [*trained, *self.manifest.cells]))
        present = {c.label for c in self.manifest.cells}
        return [label for label in found if label in present]


def load(folder: Path) -> Folder:
    """Read study.json and every record below `folder`.

    Raises:
        UserError: The folder has no readable study.json.
    """
    manifest = read_manifest(folder)
    places = {cell.path: cell for cell in manifest.cells}
    identities: dict[tuple[str, str, str], str] = {(c.kind, c.label, c.digest): c.path for c in manifest.cells}
    digests: dict[Executed, str | None] = {}
    refused: list[RefusedFile] = []
    failed: list[FailedCell] = []
    failures: dict[str, Record] = {}
    records: dict[str, Record] = {}
    orphans: list[str] = []
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            record = _read(path)
            if name.endswith(FAILED_SUFFIX):
                failed.append(
                    FailedCell(path=name, label=record.label, status=record.status, detail=record.detail or "")
                )
                failures[name.removesuffix(FAILED_SUFFIX) + ".json"] = record
            elif record.status not in FINAL:
                raise UserError(f"status '{record.status}' is not a result; delete the file to measure the cell again")
            elif name in places:
                _check(record, places[name])
                records[name] = record
            else:
                kind = "speed" if isinstance(record, SpeedRecord) else "training"
                twin = identities.get((kind, record.label, record.spec_digest))
                if twin is not None:
                    raise UserError(
                        f"a second record of the cell {twin}; only that path counts, delete this file"
                        if (folder / twin).exists()
                        else f"the record of a cell that has none at its own path; move it to {twin}"
                    )
                orphans.append(name)
        except UserError as error:
            refused.append(RefusedFile(path=name, message=str(error).removeprefix(f"{path}: ")))
    for name, message in _copies(records).items():
        refused.append(RefusedFile(path=name, message=message))
        del records[name]
    messages = {r.path: r.message for r in refused}
    counted = []
    for cell in manifest.cells:
        record_of_cell = records.get(cell.path)
        failure = failures.get(cell.path)
        status: CellStatus = "missing"
        detail: str | None = None
        if record_of_cell is not None:
            status, detail = record_of_cell.status, record_of_cell.detail
        elif cell.path in messages:
            status, detail = "refused", messages[cell.path]
        elif failure is not None:
            status, detail = failure.status, failure.detail
        stale = None if record_of_cell is None else _stale(cell, record_of_cell, digests)
        counted.append(Counted(cell, record_of_cell, status, detail, stale))
    return Folder(manifest, counted, failed, refused, orphans)


def _copies(records: Mapping[str, Record]) -> dict[str, str]:
    """Records whose samples are those of another, to the last digit: path → message. No two measurements give that.

    Which of them was measured cannot be told, so none counts.
    """
    found: dict[object, list[str]] = {}
    for name, record in records.items():
        samples = _samples(record)
        if samples:
            found.setdefault(samples, []).append(name)
    return {
        name: f"its samples are those of {next(other for other in names if other != name)}, to the last digit: "
        "one is a copy; delete both, and their cells are measured again"
        for names in found.values()
        if len(names) > 1
        for name in names
    }


def _samples(record: Record) -> tuple[float, ...]:
    """Seconds that were read off a clock; nothing for what was not timed here."""
    if isinstance(record, TrainingRecord):
        return tuple(epoch.train_seconds for epoch in record.epochs)
    if record.timing is None or record.spec.published is not None:
        return ()
    return tuple(block.seconds for block in record.timing.blocks)


def _read(path: Path) -> Record:
    """Read one record; of a number that is none, the message says which.

    Raises:
        UserError: As `record.read`.
    """
    try:
        return read(path)
    except UserError:
        # JSON has no NaN: to its decoder such a file is broken at some byte, which tells a reader nothing.
        place = _not_finite(path)
        if place is None:
            raise
        raise UserError(f"{place}, which no measurement gives; delete it and its cell is measured again") from None


def _not_finite(path: Path) -> str | None:
    """The first number of a file that is not finite, by its place; None where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    # Depth first, in the order of the file.
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return f"{place.removeprefix('.') or 'the record'} is {value}"
        if isinstance(value, dict):
            waiting += [(f"{place}.{key}", item) for key, item in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{place}[{number}]", item) for number, item in reversed(list(enumerate(value)))]
    return None


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for kind in ("speed", "training"):
        found += [
            p
            for p in (folder / kind).rglob("*.json")
            if not p.name.startswith(".") and not p.name.endswith(series.SUFFIX)
        ]
    return sorted(found)


def _stale(cell: Cell, record: Record, digests: dict[Executed, str | None]) -> bool | None:
    # Of a folder's many cells a few differ in what they execute; each look-up asks for all sources' dates again.
    executed = Executed.of(cell.spec)
    if executed not in digests:
        try:
            digests[executed] = source_digest.cell_digest(cell.spec)
        except KeyError:
            # A plugin that is not installed here: its sources cannot be compared.
            digests[executed] = None
    current = digests[executed]
    return None if current is None else current != record.provenance.source_digest


def _check(record: Record, cell: Cell) -> None:
    """Refuse a record that is not this cell's, or that no measurement can have written."""
    kind = "speed" if isinstance(record, SpeedRecord) else "training"
    if (kind, record.label, record.spec_digest) != (cell.kind, cell.label, cell.digest):
        raise UserError(
            f"holds the {kind} record {record.label} with spec {record.spec_digest}, not the {cell.kind} record "
            f"{cell.label} with spec {cell.digest} that its name says; delete it and the cell is measured again"
        )
    if isinstance(record, SpeedRecord):
        _check_speed(record, cell)
    else:
        _check_training(record)


def _check_speed(record: SpeedRecord, cell: Cell) -> None:
    for field in ("sweep", "length", "batch", "replicate"):
        found, asked = getattr(record, field), getattr(cell.spec, field)
        if found != asked:
            raise UserError(f"{field} is {found}, its cell says {asked}; delete the file")
    if record.energy is not None and not (record.energy.steps > 0 and record.energy.seconds > 0):
        raise UserError("energy of no steps, or of no time; delete the file")
    if record.status == "ok" and record.timing is None and record.memory is None and not record.flags:
        raise UserError("status ok, but neither timing nor memory nor a flag that says why; delete the file")
    if record.timing is not None:
        for number, block in enumerate(record.timing.blocks):
            if not (block.steps > 0 and _SHORTEST_SECONDS < block.seconds < _LONGEST_SECONDS):
                raise UserError(
                    f"block {number} has {block.steps} steps in {block.seconds} s; no clock gives that; delete the file"
                )


def _check_training(record: TrainingRecord) -> None:
    if record.status != "ok":
        return
    if record.test is None:
        raise UserError("status ok, but no test ranking; delete the file")
    if any(not (rank >= 1 and math.isfinite(rank)) for rank in record.test.ranks):
        raise UserError("a rank below 1, which no ranking gives; delete the file")
    if SELECTION not in record.test.metrics:
        raise UserError(f"the test ranking has no {SELECTION}; delete the file")
    if not record.test.ranks:
        return
    if record.test.users is not None and len(record.test.users) != len(record.test.ranks):
        raise UserError(
            f"{len(record.test.ranks)} ranks, but {len(record.test.users)} users to whom they belong; delete the file"
        )
    stated, found = record.test.metrics[SELECTION], float(gains(SELECTION, np.array(record.test.ranks)).mean())
    if abs(found - stated) > _METRIC_TOLERANCE:
        raise UserError(f"{SELECTION} is {stated:.6f}, but its ranks give {found:.6f}; delete the file")
