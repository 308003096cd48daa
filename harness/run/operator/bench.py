"""The convolution operator by itself: runs the bench's children and makes one record of them. Imports no torch."""

from __future__ import annotations

import datetime
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from harness.errors import UserError
from harness.records.environment import describe, git_state, memory_bytes, processor
from harness.records.operator import FILE_NAME, OPERATOR_SCHEMA, SOURCES, Measure, OperatorRecord, Settings
from harness.records.schema import Provenance
from harness.records.source_digest import source_digest
from harness.run import allocator
from harness.run.watch import Bounds, Outcome, Said, run_child
from harness.run.workers import Fresh
from harness.study.schema import Study

MEASURES: tuple[Measure, ...] = get_args(Measure)
# Positions a batch. On a GPU, where smaller calls are launch time: four layers of the `gpu` studies.
ELEMENTS = {"cpu": 65_536, "cuda": 262_144}
_TIMEOUT_SECONDS, _QUICK_TIMEOUT_SECONDS = 3600.0, 600.0


@dataclass(frozen=True)
class OperatorCell:
    """The bench as a study asks for it, in one queue with the study's cells; named as these are.

    Attributes:
        settings: What to measure.
    """

    settings: Settings
    kind: Literal["speed"] = "speed"
    label: str = "operator"
    key: str = "operator"
    path: str = FILE_NAME


def operator_cells(study: Study) -> list[OperatorCell]:
    """The bench of a study with `operator: true`, else none."""
    if not study.operator:
        return []
    device = study.device_here()
    return [OperatorCell(settings(quick=True, elements=ELEMENTS[device], device=device))]


def settings(
    *, quick: bool = False, elements: int | None = None, threads: int = 1, device: Literal["cpu", "cuda"] = "cpu"
) -> Settings:
    """Settings of a run.

    Args:
        quick: One kernel order, channel-major, forward and backward only: under a minute.
        elements: Positions per batch, a power of two, 64 … 2²⁴; None: 65,536.
        threads: CPU threads.
        device: `cpu` or `cuda`.

    Raises:
        UserError: A value outside its range.
    """
    elements = Settings().elements if elements is None else elements
    if not 64 <= elements <= 2**24 or elements.bit_count() != 1:
        raise UserError(
            f"--elements must be a power of two from 64 to {2**24}, so that every length divides it, got {elements}"
        )
    if threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")
    full = Settings(elements=elements, threads=threads, device=device, timeout_seconds=_TIMEOUT_SECONDS)
    if not quick:
        return full
    return msgspec.structs.replace(
        full,
        kernel_orders=[16],
        layouts=["channel_major"],
        passes=["forward_backward"],
        rounds=7,
        group_seconds=1.5,
        dense_limit=256,
        attention_seconds=0.7,
        error_lengths=[64, 256, 1024, 4096, 16_384, 65_536],
        memory_lengths=[4096],
        timeout_seconds=_QUICK_TIMEOUT_SECONDS,
    )


def bench(
    wanted: Settings, *, log: Path | None = None, deadline: float | None = None, said: Said | None = None
) -> OperatorRecord:
    """Measure times, peaks and errors, each in a child process of its own; the first that fails ends the bench.

    Args:
        wanted: What to measure.
        log: Where to keep everything the children print; None keeps only the last lines.
        deadline: Monotonic clock at which the bench is given up, whatever its own time limits.
        said: Is given what the children print, line by line; None: stderr.

    Raises:
        OutOfTimeError: The deadline passed.
    """
    started = datetime.datetime.now(datetime.UTC)
    begin = time.monotonic()
    # Before the children start: what is edited meanwhile is not what ran.
    commit, dirty = git_state()
    digest = source_digest(SOURCES)
    limit = int(0.9 * memory_bytes())
    request = {"settings": wanted, "memory_limit_bytes": limit if wanted.device == "cpu" else None}
    fields: dict[str, Any] = {"omitted": []}
    outcome = Outcome("ok", None, {})
    workers = Fresh("harness.run.operator.child")
    seconds = math.inf if wanted.timeout_seconds is None else wanted.timeout_seconds
    for measure in MEASURES:
        outcome = run_child(request, measure, workers, Bounds(seconds, limit, deadline), log, said)
        omitted = [o for o in outcome.fields.get("omitted", []) if o not in fields["omitted"]]
        # The timing child's environment stands for all.
        fields = {**outcome.fields, **fields, "omitted": fields["omitted"] + omitted}
        if outcome.status != "ok":
            break
    fields.setdefault("environment", describe(wanted.threads, allocator.settings(MEASURES[0])))
    provenance = Provenance(
        git_commit=commit,
        git_dirty=dirty,
        started_at=started.isoformat(timespec="seconds"),
        source_digest=digest,
        elapsed_seconds=round(time.monotonic() - begin, 3),
        processor=processor(),
    )
    whole = {
        "schema_version": OPERATOR_SCHEMA,
        "status": outcome.status,
        "detail": None if outcome.detail is None else f"{measure} pass: {outcome.detail}",
        "settings": wanted,
        "provenance": provenance,
        **fields,
    }
    return msgspec.convert(msgspec.to_builtins(whole), OperatorRecord)
