"""All missing cells of a study without a workflow engine, most informative first, in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.data.sources import prepare
from harness.records import schema as records
from harness.run.supervisor import OutOfTimeError, run_cell
from harness.run.workers import ForkError, ForkServers, Fresh, Workers, can_fork
from harness.study.cells import Cell
from harness.study.manifest import FILE_NAME, Manifest, manifest
from harness.study.schema import Study

# So many failures without a single success have one cause, which time on a lent machine must not be spent on.
_HOPELESS = 5

Run = Callable[[Study, Cell, Path], records.Record]


@dataclass
class Progress:
    """What a sweep did.

    Attributes:
        measured: Cells that now have a record.
        failed: Cells that ended without a final status; they are tried again next time.
        left: Cells that no longer fitted the time, or were given up when it was over.
    """

    measured: list[Cell] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)
    left: list[Cell] = field(default_factory=list)

    @property
    def hopeless(self) -> bool:
        """Whether the first cells all failed and the others were not begun."""
        return len(self.failed) >= _HOPELESS and not self.measured


def write_manifest(study: Study, folder: Path) -> Manifest:
    """Write `study.json`, which makes a folder of records explain itself."""
    result = manifest(study)
    content = records.encode(result)
    path = folder / FILE_NAME
    if not path.is_file() or path.read_bytes() != content:
        records.write_atomic(path, content)
    return result


def order(cells: Iterable[Cell]) -> list[Cell]:
    """Most informative first: one replicate of everything before the next, shuffled inside.

    A study may put some labels before the others; see `Cell.rank`. Short histories train before long ones.
    """

    def place(cell: Cell) -> tuple[int, bool, int, int]:
        # No claim rests on how training time grows with the length, so that order may follow the cost.
        length = cell.spec["length"] or 0 if cell.kind == "training" else 0
        return cell.rank, cell.kind != "speed", length, cell.shuffle

    return sorted(cells, key=place)


def sweep(
    study: Study,
    folder: Path,
    *,
    minutes: float | None = None,
    kind: str | None = None,
    workers: Literal["fork", "fresh"] | None = None,
    run: Run | None = None,
) -> Progress:
    """Run all cells of a study that have no record yet.

    Args:
        study: What to measure.
        folder: The study's folder of records.
        minutes: Time for the whole sweep. A speed cell that would probably not end in it is not begun; what has not
            ended by then is given up, and a training cell goes on from its checkpoint next time.
        kind: `speed` or `training` to run only those.
        workers: How cells start: forked from a process that has imported torch, or each by itself. Default: forked
            where that works.
        run: Runs one cell (tests replace it).

    Raises:
        ForkError: `workers` is `fork`, and that does not work here.
        UserError: A data set is missing; nothing was measured.
    """
    begin = time.monotonic()
    deadline = None if minutes is None else begin + 60 * minutes
    cells = order(write_manifest(study, folder).cells)
    todo = [c for c in cells if (kind is None or c.kind == kind) and not (folder / c.path).is_file()]
    # Once and beforehand: each cell would ask for it again, and fetch what cannot be fetched.
    for dataset in sorted({c.spec["dataset"] for c in todo if c.kind == "training"}):
        prepare(dataset, study.sources()[dataset], study.data_folder)
    progress = Progress()
    longest: dict[str, float] = {}
    rank = None
    with ForkServers() as servers:
        chosen: Workers = servers if workers == "fork" or (workers is None and can_fork()) else Fresh()
        for place, cell in enumerate(todo, 1):
            elapsed = time.monotonic() - begin
            needed = longest.get(cell.label, 0.0) if cell.kind == "speed" else 0.0
            if progress.hopeless or (minutes is not None and elapsed + needed > 60 * minutes):
                progress.left.append(cell)
                continue
            print(f"[{place}/{len(todo)}, {elapsed / 60:.1f} min] {cell.kind} {cell.key}", file=sys.stderr, flush=True)
            if cell.rank != rank:
                # Children of one server share its memory layout, which replicates must not.
                servers.close()
                rank = cell.rank
            started = time.monotonic()
            try:
                try:
                    result = _run(run, study, cell, folder, chosen, deadline)
                except ForkError as error:
                    if workers == "fork":
                        raise
                    print(f"warning: {error}; so it is done now", file=sys.stderr, flush=True)
                    chosen = Fresh()
                    result = _run(run, study, cell, folder, chosen, deadline)
            except OutOfTimeError:
                progress.left.append(cell)
                continue
            if cell.kind == "speed":
                longest[cell.label] = max(longest.get(cell.label, 0.0), time.monotonic() - started)
            (progress.measured if result.status in records.FINAL else progress.failed).append(cell)
            if result.status != "ok":
                print(f"  {result.status}: {result.detail}", file=sys.stderr, flush=True)
    if progress.hopeless:
        print(
            f"error: the first {len(progress.failed)} cells failed and none was measured; the others were not begun",
            file=sys.stderr,
        )
    return progress


def _run(
    run: Run | None, study: Study, cell: Cell, folder: Path, workers: Workers, deadline: float | None
) -> records.Record:
    if run is not None:
        return run(study, cell, folder / cell.path)
    return run_cell(study, cell, folder / cell.path, workers=workers, deadline=deadline)
