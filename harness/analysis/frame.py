"""A folder of records as one tidy pandas frame: a row a cell, block, epoch or ruling. docs/frame.md names columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from harness import metrics
from harness.analysis.analyse import analyse
from harness.analysis.estimates.accuracy import stated
from harness.analysis.estimates.speedup import process_log_ratio
from harness.analysis.estimates.timing import step_seconds
from harness.analysis.load import Counted, Folder
from harness.analysis.load import load as load_folder
from harness.errors import unknown
from harness.records.environment import cpu_name
from harness.records.schema import Block, Epoch, Record, SpeedRecord, TrainingRecord
from harness.records.spec import Phase, SpeedSpec

_PHASES = [phase for phase in get_args(Phase) if phase != "stream"]
# Numbers that may be missing, which plain columns of pandas would turn into floats or objects.
_WHOLE = (
    *("length", "batch", "tokens", "replicate", "seed", "parameters", "best_epoch", "epochs", "history"),
    *("from_length", "to_length", "sample_size"),
)
_TYPES = {**dict.fromkeys(_WHOLE, "Int64"), "causal": "boolean", "stale": "boolean", "timed": "boolean"}

Rows = Iterator[dict[str, Any]]


def load(folder: Path, table: str = "cells") -> pd.DataFrame:
    """See `harness.load`."""
    if table not in TABLES:
        raise unknown("table", table, TABLES)
    rows, columns = TABLES[table]
    found = pd.DataFrame(list(rows(folder)), columns=columns)
    return found.astype({name: kind for name, kind in _TYPES.items() if name in found})


def _cells(path: Path) -> Rows:
    folder = load_folder(path)
    for counted in folder.counted:
        record, facts = counted.record, counted.record.model if counted.record is not None else None
        yield {
            **_where(folder, counted),
            "family": facts.family if facts is not None else None,
            "causal": facts.causal if facts is not None else None,
            "parameters": facts.parameters if facts is not None else None,
            "status": counted.status,
            "detail": counted.detail or "",
            "stale": counted.stale,
            "device": counted.cell.spec.device,
            "precision": counted.cell.spec.precision,
            **(_circumstances(record) if record is not None else {}),
            **(_speed(record) if isinstance(record, SpeedRecord) else {}),
            **(_training(record) if isinstance(record, TrainingRecord) else {}),
        }


def _where(folder: Folder, counted: Counted) -> dict[str, Any]:
    """What tells a cell from the others; in every table, so that tables can be merged on `path`."""
    spec = counted.cell.spec
    found: dict[str, Any] = {
        "study": folder.manifest.study.name,
        "kind": counted.cell.kind,
        "label": counted.cell.label,
        "model": spec.model.name,
        "length": spec.length,
        "path": counted.path,
    }
    if isinstance(spec, SpeedSpec):
        tokens = spec.batch * spec.length
        partner = {"partner": spec.partner.label, "sweep": spec.sweep}
        return {**found, **partner, "batch": spec.batch, "tokens": tokens, "replicate": spec.replicate}
    return {**found, "dataset": spec.dataset, "seed": spec.seed}


def _circumstances(record: Record) -> dict[str, Any]:
    machine, origin = record.environment, record.provenance
    device = machine.device_before or machine.device_after
    memory = record.memory
    return {
        "flags": "; ".join(record.flags),
        "machine": device.name if device is not None else cpu_name(machine, origin.processor),
        "threads": machine.threads,
        "python": machine.python,
        "torch": machine.packages.get("torch"),
        "git_commit": origin.git_commit,
        "started_at": origin.started_at,
        "elapsed_seconds": origin.elapsed_seconds,
        "peak_bytes": memory.peak_bytes if memory is not None else None,
        "net_bytes": memory.peak_bytes - memory.tiny_peak_bytes if memory is not None else None,
    }


def _speed(record: SpeedRecord) -> dict[str, Any]:
    medians = {
        (side, phase): float(np.median(seconds)) if (seconds := step_seconds(record, side, phase)).size else None
        for side in ("model", "partner")
        for phase in _PHASES
    }
    step, ratio = medians["model", "step"], process_log_ratio(record)
    tokens = record.batch * record.length
    return {
        "step_seconds": step,
        "forward_seconds": medians["model", "forward"],
        "rest_seconds": medians["model", "rest"],
        "partner_step_seconds": medians["partner", "step"],
        "token_seconds": step / tokens if step is not None else None,
        "tokens_per_second": tokens / step if step is not None else None,
        "speedup": math.exp(ratio) if ratio is not None else None,
        "joules_per_step": record.energy.energy_joules / record.energy.steps if record.energy is not None else None,
    }


def _training(record: TrainingRecord) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timed": record.timed,
        "training_seconds": record.training_seconds,
        "tokens_per_second": record.tokens_per_second,
        "epochs": len(record.epochs),
        "best_epoch": record.best_epoch,
    }
    if record.test is not None:
        found |= {name: stated(record.test, name) for name in metrics.names()}
    return found


def _samples(path: Path) -> Rows:
    folder = load_folder(path)
    for counted, record in folder.speed():
        for place, block in enumerate(record.timing.blocks if record.timing is not None else []):
            yield {
                **_where(folder, counted),
                "paired": record.timing is not None and record.timing.paired,
                "block": place,
                **{name: getattr(block, name) for name in Block.__struct_fields__},
                "seconds_per_step": block.seconds / block.steps,
            }


def _epochs(path: Path) -> Rows:
    folder = load_folder(path)
    for counted, record in folder.training():
        for epoch in record.epochs:
            yield {
                **_where(folder, counted),
                "timed": record.timed,
                **{name: getattr(epoch, name) for name in Epoch.__struct_fields__},
            }


def _verdicts(path: Path) -> Rows:
    analysis = analyse(path)
    for claim in analysis.claims:
        for ruling in (claim.overall, *claim.variants):
            yield {
                "study": analysis.study.name,
                "claim": ruling.id,
                **{name: getattr(ruling, name) for name in _RULING},
                "lower": ruling.interval[0] if ruling.interval is not None else None,
                "upper": ruling.interval[1] if ruling.interval is not None else None,
                "from_length": ruling.window[0] if ruling.window is not None else None,
                "to_length": ruling.window[1] if ruling.window is not None else None,
                "sentence": claim.sentence,
            }


_RULING = (
    "variant",
    "verdict",
    "measured",
    "allowed",
    "statistic",
    "threshold",
    "sample_size",
    "sample_unit",
    "detail",
)
_CELL = ["study", "kind", "label", "model", "length"]
_SPEED_CELL = [*_CELL, "partner", "sweep", "batch", "tokens", "replicate"]
_TRAINING_CELL = [*_CELL, "dataset", "seed"]

# Table → what gives its rows, and its columns.
TABLES: dict[str, tuple[Callable[[Path], Rows], list[str]]] = {
    "cells": (
        _cells,
        [
            *dict.fromkeys([*_SPEED_CELL, *_TRAINING_CELL]),
            *("family", "causal", "parameters", "status", "detail", "flags", "stale"),
            *("step_seconds", "forward_seconds", "rest_seconds", "partner_step_seconds", "token_seconds"),
            *("tokens_per_second", "speedup", "joules_per_step", "peak_bytes", "net_bytes"),
            *("timed", "training_seconds", "epochs", "best_epoch", *metrics.names()),
            *("machine", "device", "precision", "threads", "python", "torch"),
            *("git_commit", "started_at", "elapsed_seconds", "path"),
        ],
    ),
    "samples": (
        _samples,
        [*_SPEED_CELL, "paired", "block", *Block.__struct_fields__, "seconds_per_step", "path"],
    ),
    "epochs": (_epochs, [*_TRAINING_CELL, "timed", *Epoch.__struct_fields__, "path"]),
    "verdicts": (_verdicts, ["study", "claim", *_RULING, "lower", "upper", "from_length", "to_length", "sentence"]),
}
