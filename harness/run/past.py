"""What records of a machine like this one tell of times, memory and kernels. Imports no torch.

A like machine has the same processor, as many usable cores, and the same device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np

from harness.analysis.estimates.timing import step_seconds
from harness.errors import UserError
from harness.records import device_series as series
from harness.records import operator, schema
from harness.records.environment import ROOT, cpu_name, describe, processor
from harness.records.operator import OperatorRecord
from harness.records.schema import FAILED_SUFFIX, FINAL, Record, SpeedRecord
from harness.records.spec import Device, ModelSpec, TrainingSpec
from harness.study.cells import Cell

# The study that is measured beside a load: what its cells take, no idle machine takes.
_LOADED = "disturbed"
Basis = Literal["its record", "records", "calibration", "assumed", "unknown"]


@dataclass(frozen=True)
class Anchor:
    """What one point of one model took here: seconds of a training step of a speed cell, and peak memory.

    Attributes:
        fixed_bytes: What of the peak does not depend on the batch: the process itself, weights, optimiser.
    """

    batch: int
    length: int
    seconds: float | None
    peak_bytes: int | None
    fixed_bytes: int
    basis: Basis


# What tells two models apart whatever their labels: registered name and options.
Identity = tuple[str, str]


def identity(model: ModelSpec) -> Identity:
    """Registered name and options of a model."""
    return model.name, msgspec.json.encode(model.options, order="sorted").decode()


@dataclass(frozen=True)
class Learning:
    """What a position of a training took: one of `length` events in batches of `batch`, over a catalogue of `items`."""

    model: ModelSpec
    batch: int
    length: int
    items: int
    threads: int | None
    seconds: float


@dataclass
class Known:
    """Records of a machine like this one.

    Attributes:
        elapsed: Seconds of cells by kind and digest of the spec.
        anchors: Step times and peaks by model.
        epochs: Seconds an epoch of training by model, data set, length and batch size.
        learnings: What positions of trainings took.
        references: Seconds of references by name.
        peaks: Peak memory of training cells by model and length.
        backends: What ran, by cell, by model and length, and by model alone; each by operator.
        operator_seconds: What the operator bench took.
        elsewhere: As `elapsed`, of machines unlike this one; what cells take beside each other hardly depends on it.
    """

    elapsed: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    anchors: dict[Identity, list[Anchor]] = field(default_factory=lambda: defaultdict(list))
    epochs: dict[tuple[Identity, str, int | None, int | None], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    learnings: list[Learning] = field(default_factory=list)
    references: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[tuple[Identity, int | None], list[int]] = field(default_factory=lambda: defaultdict(list))
    backends: dict[Any, dict[str, dict[str, None]]] = field(default_factory=dict)
    operator_seconds: float | None = None
    elsewhere: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Record, basis: Basis = "records") -> None:
        """Learn from a record that was made here or on a machine like this."""
        spec, elapsed = record.spec, record.provenance.elapsed_seconds
        key = identity(spec.model)
        _count(record, self.elapsed)
        if record.status != "ok":
            return
        if record.model is not None:
            for narrow in (record.spec_digest, (_kind(record), key, record.length), key):
                for name, backend in record.model.backends.items():
                    self.backends.setdefault(narrow, {}).setdefault(name, {})[backend] = None
        memory = record.memory
        peak = None if memory is None else memory.peak_bytes + memory.baseline_bytes
        fixed = 0 if memory is None else memory.tiny_peak_bytes + memory.baseline_bytes
        if isinstance(record, SpeedRecord):
            for model, side in ((record.spec.model, "model"), (record.spec.partner, "partner")):
                steps = step_seconds(record, cast("Any", side), "step")
                seconds = float(np.median(steps)) if steps.size else None
                own = peak if side == "model" else None
                if seconds is not None or own is not None:
                    anchor = Anchor(record.batch, record.length, seconds, own, fixed, basis)
                    self.anchors[identity(model)].append(anchor)
        elif record.length is None:
            if elapsed is not None:
                self.references[spec.model.name].append(elapsed)
        else:
            training = cast("TrainingSpec", spec)
            if record.epochs and elapsed is not None:
                where = (key, record.dataset, record.length, training.batch_size)
                self.epochs[where].append(elapsed / len(record.epochs))
                seconds, tokens = (sum(getattr(e, n) for e in record.epochs) for n in ("train_seconds", "tokens"))
                if record.num_items and tokens and training.batch_size:
                    own, threads = seconds / tokens, record.environment.threads
                    learning = Learning(spec.model, training.batch_size, record.length, record.num_items, threads, own)
                    self.learnings.append(learning)
            if peak is not None:
                self.peaks[key, record.length].append(peak)

    def ran(self, cell: Cell) -> dict[str, list[str]]:
        """What a cell's model ran on in the nearest records that there are; empty without any."""
        key = identity(cell.spec.model)
        for where in (cell.digest, (cell.kind, key, cell.spec.length), key):
            if where in self.backends:
                return {name: list(found) for name, found in self.backends[where].items()}
        return {}


def _count(record: Record, elapsed: dict[tuple[str, str], list[float]]) -> None:
    if record.status in FINAL and record.provenance.elapsed_seconds is not None:
        elapsed[_kind(record), record.spec_digest].append(record.provenance.elapsed_seconds)


def _kind(record: Record) -> str:
    return "speed" if isinstance(record, SpeedRecord) else "training"


def known(device: Device, folders: Iterable[Path], *, anywhere: bool = False) -> Known:
    """What records of a machine like this one tell.

    Args:
        device: Of the cells.
        folders: Folders of records; one that is not there counts as empty.
        anywhere: Whether those of any machine count.
    """
    own, found = describe(None, {}), Known()
    here = cpu_name(own, processor()), own.cores_usable
    gpu = _gpu_name() if device == "cuda" and not anywhere else None
    for folder in folders:
        for path in _files(folder):
            try:
                record = schema.read(path)
            except UserError:
                # A file that cannot be read tells nothing here; `verify` names it.
                continue
            if record.device != device or record.study == _LOADED:
                continue
            if anywhere or _like(record, here, gpu):
                found.add(record)
            elif record.status == "ok":
                _count(record, found.elsewhere)
        path = folder / operator.FILE_NAME
        if path.is_file():
            try:
                bench = operator.read(path)
            except UserError:
                continue
            if bench.settings.device == device and (anywhere or _like(bench, here, gpu)):
                found.operator_seconds = bench.provenance.elapsed_seconds
    return found


def folders(records: Path) -> list[Path]:
    """Where records of a like machine may lie: a study's own folder, then those that come with the project."""
    return [records, *sorted(path.parent for path in (ROOT / "results" / "reference").glob("*/study.json"))]


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*/*/*.json")):
        if not path.name.startswith(".") and not path.name.endswith((FAILED_SUFFIX, series.SUFFIX)):
            yield path


def _like(one: Record | OperatorRecord, here: tuple[str, int], gpu: str | None) -> bool:
    own = one.environment
    device = own.device_before or own.device_after
    same = (cpu_name(own, one.provenance.processor), own.cores_usable) == here
    return same if gpu is None and device is None else device is not None and device.name == gpu


def _gpu_name() -> str | None:
    from harness.measure.device import nvml

    with nvml.open_library() as library:
        if library is None:
            return None
        library.survey()
        device = next((d for uuid in library.uuids() if (d := library.device(uuid)) is not None), None)
        return None if device is None else device.state(0).name
