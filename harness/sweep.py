"""All missing cells of a study without a workflow engine, most informative first, in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness import record as records
from harness.manifest import FILE_NAME, Manifest, manifest
from harness.study import Cell, Study
from harness.supervisor import run_cell


@dataclass
class Progress:
    """What a sweep did.

    Attributes:
        measured: Cells that now have a record.
        failed: Cells that ended without a final status; they are tried again next time.
        left: Cells that no longer fitted the time.
    """

    measured: list[Cell] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)
    left: list[Cell] = field(default_factory=list)


def write_manifest(study: Study, folder: Path) -> Manifest:
    """Write `study.json`, which makes a folder of records explain itself."""
    result = manifest(study)
    content = records.encode(result)
    path = folder / FILE_NAME
    if not path.is_file() or path.read_bytes() != content:
        records.write_atomic(path, content)
    return result


def order(cells: Iterable[Cell]) -> list[Cell]:
    """Most informative first: one replicate of everything before the next, shuffled inside."""
    return sorted(cells, key=lambda cell: (cell.rank, cell.kind != "speed", cell.shuffle))


def sweep(
    study: Study,
    folder: Path,
    *,
    minutes: float | None = None,
    kind: str | None = None,
    run: Callable[[Study, Cell, Path], records.Record] = run_cell,
) -> Progress:
    """Run all cells of a study that have no record yet.

    Args:
        study: What to measure.
        folder: The study's folder of records.
        minutes: Time for the whole sweep; a cell that would probably not end in it is not begun.
        kind: `speed` or `training` to run only those.
        run: Runs one cell (tests replace it).
    """
    begin = time.monotonic()
    cells = order(write_manifest(study, folder).cells)
    todo = [c for c in cells if (kind is None or c.kind == kind) and not (folder / c.path).is_file()]
    progress = Progress()
    longest: dict[str, float] = {}
    for place, cell in enumerate(todo, 1):
        elapsed = time.monotonic() - begin
        if minutes is not None and elapsed + longest.get(cell.kind, 0.0) > 60 * minutes:
            progress.left.append(cell)
            continue
        print(f"[{place}/{len(todo)}, {elapsed / 60:.1f} min] {cell.kind} {cell.key}", file=sys.stderr, flush=True)
        started = time.monotonic()
        result = run(study, cell, folder / cell.path)
        longest[cell.kind] = max(longest.get(cell.kind, 0.0), time.monotonic() - started)
        (progress.measured if result.status in records.FINAL else progress.failed).append(cell)
        if result.status != "ok":
            print(f"  {result.status}: {result.detail}", file=sys.stderr, flush=True)
    return progress
