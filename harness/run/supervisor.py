"""Runs one cell in child processes and turns whatever happens to them into a record.

Final: `ok`; `oom`, only with evidence; `timeout`. Not final: `killed` and `error`, written to
`<record>.failed.json` and tried again next time. Imports no torch: a cell's overhead is its
child's.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.data.sources import prepare
from harness.metrics import SELECTION
from harness.records import cgroup
from harness.records import device_series as series
from harness.records import schema as records
from harness.records.environment import describe, git_state, memory_bytes, usable_cores
from harness.records.schema import Provenance, Record, SpeedRecord, TrainingRecord
from harness.records.source_digest import cell_digest
from harness.run.workers import Child, ForkServers, Fresh, Workers
from harness.study.cells import Cell
from harness.study.schema import Study

# glibc hands large freed blocks back to the system, and a model with large temporaries then times
# page faults. Timing children keep their blocks; the memory pass must not, to read a true peak.
# Older versions of glibc ignore a threshold above 32 MiB (mallopt(3)); that no block is mapped by itself, they
# all obey. Where the heap cannot grow, malloc still falls back to a mapping.
KEEP_BLOCKS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
RETURN_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536"}

_POLL_SECONDS = 0.25
_DETAIL_LINES = 12


class OutOfTimeError(Exception):
    """A cell was ended because its caller's time was over. It has no record; a checkpoint of it is kept."""


@dataclass(frozen=True)
class Outcome:
    """How one child ended."""

    status: records.Status
    detail: str | None
    fields: dict[str, Any]


def run_cell(
    study: Study,
    cell: Cell,
    output: Path,
    *,
    log: Path | None = None,
    workers: Workers | None = None,
    deadline: float | None = None,
) -> Record:
    """Run one cell and write its record.

    Args:
        study: The study the cell belongs to.
        cell: The cell.
        output: Path of the record; a status that is not final goes to `<record>.failed.json`.
        log: Where to keep everything the child printed; None keeps only the last lines.
        workers: Starts the children; default: a fresh process for each.
        deadline: Monotonic clock at which the cell is given up, whatever its own time limit.

    Returns:
        The record as written.

    Raises:
        OutOfTimeError: The deadline passed; nothing was written.
        UserError: The data set of a training cell is missing or malformed; nothing was written.
    """
    started = datetime.datetime.now(datetime.UTC)
    begin = time.monotonic()
    # Before the child starts: what is edited or committed meanwhile is not what ran.
    commit, dirty = git_state()
    digest = cell_digest(cell.spec)
    measures = cell.spec["measure"] if cell.kind == "speed" else ["training"]
    # Here, not in the child: what a cell executes then depends on no reader of data.
    source = study.sources()[cell.spec["dataset"]] if cell.kind == "training" else None
    data = None if source is None else prepare(cell.spec["dataset"], source, study.data_folder)
    inputs = {"sources": digest, "arrays": None if data is None else str(data.folder)}
    output.parent.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {}
    outcome = Outcome("error", "nothing was measured", {})
    for measure in measures:
        outcome = _run_child(cell, measure, inputs, output, log, _workers(workers, cell, measure), deadline)
        fields = _merge(fields, outcome.fields)
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
        split_sha256=fields.pop("split_sha256", None),
        elapsed_seconds=round(time.monotonic() - begin, 3),
        import_seconds=fields.pop("import_seconds", None),
    )
    fields.setdefault("environment", describe(cell.spec["threads"] or usable_cores(), _allocator(measures[0])))
    if source is not None and _is_above(source.sentinel_ndcg10, fields):
        fields["flags"].append("above-sentinel")
    result = _record(study, cell, outcome, provenance, fields)
    records.write(result, output)
    if result.status in records.FINAL:
        _checkpoint(output).unlink(missing_ok=True)
    return result


def _is_above(sentinel: float | None, fields: dict[str, Any]) -> bool:
    """Whether the test NDCG@10 is above what a right split of the data allows."""
    test = fields.get("test")
    return sentinel is not None and test is not None and test["metrics"][SELECTION] > sentinel


def _allocator(measure: str) -> dict[str, str]:
    return RETURN_BLOCKS if measure == "memory" else KEEP_BLOCKS


def _workers(given: Workers | None, cell: Cell, measure: str) -> Workers:
    # A CPU peak counts what is imported after its baseline, and pages of library files, which a fork maps anew.
    reads_peak = cell.spec["device"] == "cpu" and measure != "time"
    return Fresh() if given is None or (reads_peak and isinstance(given, ForkServers)) else given


def _checkpoint(output: Path) -> Path:
    return output.with_suffix(".checkpoint")


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
        "device": spec["device"],
        "precision": spec["precision"],
        "detail": outcome.detail,
        **fields,
    }
    if cell.kind == "speed":
        coordinates = {k: spec[k] for k in ("sweep", "length", "batch", "replicate")}
        return msgspec.convert(msgspec.to_builtins({**common, **coordinates, "kind": "speed"}), SpeedRecord)
    coordinates = {k: spec[k] for k in ("dataset", "length", "seed", "timed")}
    return msgspec.convert(msgspec.to_builtins({**common, **coordinates, "kind": "training"}), TrainingRecord)


def _run_child(
    cell: Cell,
    measure: str,
    inputs: dict[str, str | None],
    output: Path,
    log: Path | None,
    workers: Workers,
    deadline: float | None,
) -> Outcome:
    limit = cell.spec.get("memory_limit_bytes") or int(0.9 * memory_bytes())
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        result = Path(folder) / "result.json"
        request = Path(folder) / "request.json"
        request.write_bytes(
            msgspec.json.encode(
                {
                    "spec": cell.spec,
                    "measure": measure,
                    **inputs,
                    "result": str(result),
                    "checkpoint": str(_checkpoint(output)),
                    "parent": os.getpid(),
                    "started": time.monotonic(),
                    "memory_limit_bytes": limit if cell.spec["device"] == "cpu" else None,
                }
            )
        )
        child = workers.start(request, {**clean_environment(), **_allocator(measure)})
        assert child.stdout is not None
        tail: deque[str] = deque(maxlen=_DETAIL_LINES)
        reader = threading.Thread(target=_pump, args=(child.stdout, tail, log), daemon=True)
        reader.start()
        kills_before = cgroup.oom_kills()
        try:
            verdict = _watch(child, cell.spec["timeout_seconds"], limit, deadline)
        finally:
            child.kill()
            code = child.wait()
        reader.join(timeout=5)
        if verdict is not None:
            return verdict
        return _judge(code, result, tail, cgroup.oom_kills() - kills_before)


def _watch(child: Child, timeout_seconds: float, limit: int, deadline: float | None) -> Outcome | None:
    """Wait for the child; end it at its time limit, its memory limit, or its caller's deadline."""
    ends = time.monotonic() + timeout_seconds
    while True:
        try:
            child.wait(timeout=_POLL_SECONDS)
            return None
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        if now > ends:
            return Outcome("timeout", f"still running after {timeout_seconds:g} s", {})
        if deadline is not None and now > deadline:
            raise OutOfTimeError
        resident = _resident_bytes(child.pid)
        if resident > limit:
            return Outcome("oom", f"resident memory {resident} bytes above the limit of {limit}", {})


def _judge(code: int, result: Path, tail: deque[str], oom_kills: int) -> Outcome:
    if code == 0 and result.is_file():
        value = msgspec.json.decode(result.read_bytes())
        return Outcome(value["status"], value["detail"], value["fields"])
    last = "\n".join(tail).strip()
    if code < 0:
        name = signal.Signals(-code).name
        if oom_kills > 0:
            return Outcome("oom", f"killed by {name}; the cgroup counted {oom_kills} out-of-memory kill(s)", {})
        return Outcome("killed", f"killed by {name}. {last}".strip(), {})
    return Outcome("error", last or f"the child ended with status {code} and left no result", {})


def _pump(stream: IO[str], tail: deque[str], log: Path | None) -> None:
    """Show the child's lines as they come, keep the last ones, and log all."""
    writer: Callable[[str], object] | None = None
    handle = None
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = log.open("a", encoding="utf-8", buffering=1)
        writer = handle.write
    shown = True
    try:
        for line in stream:
            tail.append(line.rstrip("\n"))
            # A closed terminal or a full disk must not stop the child, whose pipe would fill: it would
            # look like a cell that takes too long.
            try:
                if shown:
                    print(line, end="", file=sys.stderr, flush=True)
                if writer is not None:
                    writer(line)
            except OSError as error:
                tail.append(f"(output no longer shown or logged: {error})")
                shown, writer = False, None
    finally:
        stream.close()
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.close()


def clean_environment() -> dict[str, str]:
    """This process's environment without what would silently change a measurement."""
    # Allocator settings and thread counts of the caller would silently become part of the
    # experiment; the harness sets its own.
    dropped = ("MALLOC_", "OMP_", "MKL_NUM_", "OPENBLAS_NUM_", "GOMP_", "KMP_")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)}


def _resident_bytes(pid: int) -> int:
    try:
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except (OSError, ValueError):
        return 0
    # Without the pages of files, torch's libraries above all: the kernel drops them when it must.
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
