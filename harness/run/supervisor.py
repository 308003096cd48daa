"""Runs one cell in child processes and turns whatever happens to them into a record.

Final: `ok`; `oom`, only with evidence; `timeout`. Not final: `killed` and `error`, written to
`<record>.failed.json` and tried again next time. Imports no torch: a cell's overhead is its
child's.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from harness.data.leaks import of_arrays
from harness.data.sources import prepare
from harness.errors import UserError
from harness.metrics import SELECTION
from harness.records import cgroup
from harness.records import device_series as series
from harness.records import schema as records
from harness.records.environment import describe, git_state, memory_bytes, processor, usable_cores
from harness.records.schema import Provenance, Record, SpeedRecord, TrainingRecord
from harness.records.source_digest import cell_digest
from harness.records.spec import SpeedSpec, TrainingSpec
from harness.run import allocator
from harness.run.watch import Bounds, Outcome, Said, run_child
from harness.run.workers import ForkServers, Fresh, Workers
from harness.study.cells import Cell
from harness.study.schema import Study

# Set in a job of a scheduler: which attempt it is, from 1.
ATTEMPT = "HYENAREC_ATTEMPT"
_SHARED_MEMORY = (
    "other places of this machine measured meanwhile, and this was a share of its memory, so it is not a result; "
    "measure the cell without them, or state memory_limit_bytes in the study"
)
# One of them is in the last lines of the traceback of a child that could not read one.
_READS_CHECKPOINTS = ("training/checkpoint.py", "torch/serialization.py", "torch/_weights_only_unpickler.py")
_JOBS_MEMORY = (
    "that was the memory that the job had asked for, not the machine's, so it is not a result; a further attempt asks "
    "for more, and `memory_limit_bytes` of the study makes a limit a result"
)


def run_cell(
    study: Study,
    cell: Cell,
    output: Path,
    *,
    log: Path | None = None,
    workers: Workers | None = None,
    deadline: float | None = None,
    said: Said | None = None,
    beside: int | None = None,
) -> Record:
    """Run one cell and write its record.

    Args:
        study: The study the cell belongs to.
        cell: The cell.
        output: Path of the record; a status that is not final goes to `<record>.failed.json`.
        log: Where to keep everything the child printed; None keeps only the last lines.
        workers: Starts the children; default: a fresh process for each.
        deadline: Monotonic clock at which the cell is given up, whatever its own time limit.
        said: Is given what the child prints, line by line; None: stderr.
        beside: Other places of this machine where cells may be measured meanwhile; None: it is not known to be shared.

    Returns:
        The record as written.

    Raises:
        OutOfTimeError: The deadline passed; nothing was written.
        UserError: The data set of a training cell is missing or malformed, or the record cannot be written; nothing was
            written.
    """
    started = datetime.datetime.now(datetime.UTC)
    begin = time.monotonic()
    # Before the child starts: what is edited or committed meanwhile is not what ran.
    commit, dirty = git_state()
    digest = cell_digest(cell.spec)
    measures = cell.spec.measure if isinstance(cell.spec, SpeedSpec) else ["training"]
    # Here, not in the child: what a cell executes then depends on no reader of data.
    source = study.sources()[cell.spec.dataset] if isinstance(cell.spec, TrainingSpec) else None
    data = None if source is None else prepare(cell.spec.where, source, study.data_folder)
    # Places share the machine's memory.
    limit = cell.spec.memory_limit_bytes or int(0.9 * memory_bytes() / (1 + (beside or 0)))
    bounds = Bounds(cell.spec.timeout_seconds, limit, deadline)
    checkpoint = output.with_suffix(".checkpoint")
    request = {
        "spec": cell.spec,
        "threads": cell.spec.threads,
        "sources": digest,
        "arrays": None if data is None else str(data.folder),
        "checkpoint": str(checkpoint),
        "memory_limit_bytes": limit if cell.spec.device == "cpu" else None,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {}
    outcome = Outcome("error", "nothing was measured", {})
    if words := _falsified(checkpoint):
        words = f"{checkpoint}: damaged checkpoint ({words}); {_put_aside(checkpoint)}, and training starts again"
        said(words) if said else print(words, file=sys.stderr, flush=True)
    for measure in measures:
        outcome = run_child(request, measure, _workers(workers, cell, measure), bounds, log, said)
        if outcome.status == "oom" and _is_of_the_job(cell, outcome):
            outcome = replace(outcome, status="killed", detail=f"{outcome.detail}; {_JOBS_MEMORY}")
        elif outcome.status == "oom" and beside and cell.spec.memory_limit_bytes is None and cell.spec.device == "cpu":
            outcome = replace(outcome, status="killed", detail=f"{outcome.detail}; {_SHARED_MEMORY}")
        if outcome.status == "error" and _ended_reading(checkpoint, outcome):
            words = f"the checkpoint could not be read; {_put_aside(checkpoint)}, and the next attempt starts again"
            outcome = replace(outcome, detail=f"{outcome.detail}\n{words}")
        fields = _merge(fields, {**outcome.fields, "flags": [*outcome.fields.get("flags", []), *outcome.flags]})
        if outcome.status != "ok":
            break
    passes = fields.pop("series", [])
    if passes:
        series.write(output, cell.label, cell.digest, passes)
    else:
        output.with_suffix(series.SUFFIX).unlink(missing_ok=True)
    provenance = Provenance(
        git_commit=commit,
        git_dirty=dirty,
        started_at=started.isoformat(timespec="seconds"),
        source_digest=digest,
        data_sha256=None if data is None else data.data_sha256,
        arrays_sha256=None if data is None else data.arrays_sha256,
        files_sha256=None if data is None else data.files_sha256,
        leaks=of_arrays(data.folder, cell.spec.split) if data and isinstance(cell.spec, TrainingSpec) else None,
        split_sha256=fields.pop("split_sha256", None),
        elapsed_seconds=round(time.monotonic() - begin, 3),
        import_seconds=fields.pop("import_seconds", None),
        beside=beside,
        processor=processor(),
    )
    if "environment" not in fields:
        fields["environment"] = describe(cell.spec.threads or usable_cores(), allocator.settings(measures[0]))
    if source is not None and _is_above(source.sentinel_ndcg10, fields):
        fields["flags"].append("above-sentinel")
    result = _record(study, cell, outcome, provenance, fields)
    try:
        records.write(result, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}); correct that and run again") from None
    if result.status in records.FINAL:
        checkpoint.unlink(missing_ok=True)
    return result


def _falsified(checkpoint: Path) -> str:
    """Which part of a checkpoint is not what was written; "" where all is.

    torch writes a zip archive, but does not look at its checksums when it reads one: a flipped bit would change the
    numbers of a training, and nobody would know. What is no archive any more the child itself refuses.
    """
    if not zipfile.is_zipfile(checkpoint):
        return ""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            name = archive.testzip()
    # Damage of its directory, whatever it looks like: another method, a password, a name that is no text.
    except Exception as error:
        return str(error) or type(error).__name__
    return "" if name is None else f"{name} has another checksum"


def _ended_reading(checkpoint: Path, outcome: Outcome) -> bool:
    """Whether reading its checkpoint ended a training: then the next attempt must not end in the same way.

    Most damage is noticed before, or there, and training starts again; some makes torch's reader fail in other ways.
    """
    return checkpoint.is_file() and any(place in (outcome.detail or "") for place in _READS_CHECKPOINTS)


def _put_aside(checkpoint: Path) -> str:
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    checkpoint.replace(aside)
    return f"it is {aside} now"


def failed_before(output: Path) -> Record | None:
    """In a further attempt of a scheduler's job: the record of an earlier one, where the cell failed by itself.

    A workflow engine tries again whatever fails. What was killed may end otherwise next time, an exception does not.

    Args:
        output: Path of the cell's record.
    """
    attempt, path = int(os.environ.get(ATTEMPT, "0")), output.with_suffix(records.FAILED_SUFFIX)
    if attempt == 1:
        # What an earlier run left would pass for this one's.
        path.unlink(missing_ok=True)
    found = records.read(path) if attempt > 1 and path.is_file() else None
    return found if found is not None and found.status == "error" else None


def _is_of_the_job(cell: Cell, outcome: Outcome) -> bool:
    """Whether a cell ran out of the memory that a scheduler gave its job, by what someone had guessed it would need."""
    given, machine = cgroup.memory_bytes(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # A GPU's memory is all there, and only the child itself can run out of it.
    of_the_host = cell.spec.device == "cpu" or not outcome.fields
    limited = ATTEMPT in os.environ and given is not None and given < 0.9 * machine
    return limited and of_the_host and cell.spec.memory_limit_bytes is None


def _is_above(sentinel: float | None, fields: dict[str, Any]) -> bool:
    """Whether the test NDCG@10 is above what a right split of the data allows."""
    test = fields.get("test")
    return sentinel is not None and test is not None and test["metrics"][SELECTION] > sentinel


def _workers(given: Workers | None, cell: Cell, measure: str) -> Workers:
    # A CPU peak counts what is imported after its baseline, and pages of library files, which a fork maps anew.
    reads_peak = cell.spec.device == "cpu" and measure != "time"
    return Fresh() if given is None or (reads_peak and isinstance(given, ForkServers)) else given


def _merge(fields: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    # The first child's environment and model facts stand: they are those of the timed pass.
    joined: dict[str, Any] = {name: [*fields.get(name, []), *more.get(name, [])] for name in ("flags", "series")}
    if "import_seconds" in more:
        joined["import_seconds"] = fields.get("import_seconds", 0.0) + more["import_seconds"]
    return {**more, **fields, **joined}


def _record(study: Study, cell: Cell, outcome: Outcome, provenance: Provenance, fields: dict[str, Any]) -> Record:
    spec = cell.spec
    common = {
        "schema_version": records.SCHEMA_VERSION,
        "status": outcome.status,
        "study": study.name,
        "label": cell.label,
        "spec_digest": cell.digest,
        "spec": spec,
        "provenance": provenance,
        "device": spec.device,
        "precision": spec.precision,
        "detail": outcome.detail,
        **fields,
    }
    if isinstance(spec, SpeedSpec):
        coordinates = {k: getattr(spec, k) for k in ("sweep", "length", "batch", "replicate")}
        return msgspec.convert(msgspec.to_builtins({**common, **coordinates, "kind": "speed"}), SpeedRecord)
    coordinates = {k: getattr(spec, k) for k in ("dataset", "length", "seed", "timed")}
    return msgspec.convert(msgspec.to_builtins({**common, **coordinates, "kind": "training"}), TrainingRecord)
