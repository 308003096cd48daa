"""The only schema of a measurement: one cell = one frozen, versioned record = one JSON file.

Field names carry units. Raw samples are kept, never only means. JSON has no NaN or Infinity: null
means not measured, and `detail` says why.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from harness.data.account import Leaks
from harness.records import read_json
from harness.records.spec import Phase, SpeedSpec, TrainingSpec

SCHEMA_VERSION = 1
# By version, what makes a record of it one of the next; a field that is only added needs a default and no version.
CONVERTERS: dict[int, read_json.Converter] = {}

Status = Literal["ok", "oom", "timeout", "diverged", "killed", "error"]
FINAL: frozenset[str] = frozenset({"ok", "oom", "timeout", "diverged"})
FAILED_SUFFIX = ".failed.json"


class _Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything written to disk."""


class ModelFacts(_Frozen, frozen=True):
    """What the report needs of a model, so that it never has to import one.

    Attributes:
        label: Name in the study (a variant such as `sasrec-math`).
        name: Registered name of the model.
        family: attention, recurrent, state_space, convolution or reference.
        causal: Whether position t depends on items ≤ t only.
        citation: Paper.
        options: Every option with its value.
        parameters: Number of trainable parameters; 0 for references.
        operations: Predicted floating-point operations of one forward pass of the cell's batch.
        bytes_moved: Predicted bytes moved by that pass.
        state: Predicted numbers kept per sequence to continue it by one event.
        backends: What really ran, by operator.
    """

    label: str
    name: str
    family: str
    causal: bool
    citation: str
    options: dict[str, Any]
    parameters: int = 0
    operations: float | None = None
    bytes_moved: float | None = None
    state: float | None = None
    backends: dict[str, str] = {}


class DeviceState(_Frozen, frozen=True):
    """An accelerator at one moment, through NVML; null where the driver does not say."""

    name: str
    uuid: str
    driver: str | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    sm_clock_hertz: float | None = None
    memory_clock_hertz: float | None = None
    temperature_celsius: float | None = None
    utilisation_percent: float | None = None
    throttle_reasons: list[str] | None = None
    other_processes: int | None = None


class Environment(_Frozen, frozen=True):
    """The machine and the software a cell ran on.

    Attributes:
        cores: Cores of the machine.
        cores_usable: Cores that affinity and group quota leave to this process.
        memory_bytes: Physical memory, or the limit of a group around this process.
        allocator: Its settings and how long idle threads look for work, as environment variables.
        libc: The C library, whose versions obey different allocator settings.
        device_before: The accelerator before the cell's first step, `device_after` after its last.
    """

    cpu: str
    cores: int
    cores_usable: int
    memory_bytes: int
    system: str
    python: str
    packages: dict[str, str]
    threads: int | None = None
    allocator: dict[str, str] = {}
    libc: str | None = None
    cuda: str | None = None
    tf32: bool | None = None
    device_before: DeviceState | None = None
    device_after: DeviceState | None = None


class Provenance(_Frozen, frozen=True):
    """Where a record comes from.

    Attributes:
        git_commit: Commit of the checkout, if there is one.
        git_dirty: Whether tracked files differed from it.
        started_at: UTC, ISO 8601.
        source_digest: sha256 over the sources that the cell executes, and only those.
        data_sha256: Checksum of the data file (or of the generator's parameters).
        arrays_sha256: Checksum of the arrays that were read from it; null in records made before it was kept.
        files_sha256: Checksums of the files of data that come split; null for others.
        leaks: What the leak check of the split found; null in records made before it was kept.
        split_sha256: Checksum of the split: which event is held out for whom.
        elapsed_seconds: Wall time of the whole cell, child start to record.
        import_seconds: Part of it that the children took to start and to import.
        beside: Other places (GPUs, sets of cores) of the machine where the same sweep may have measured meanwhile;
            null: it measured one cell at a time.
        processor: Generation and vector instructions of the processor, since a cloud gives several one name; null where
            the system does not tell them, and in records made before they were kept.
    """

    git_commit: str | None
    git_dirty: bool | None
    started_at: str
    source_digest: str
    data_sha256: str | None = None
    split_sha256: str | None = None
    elapsed_seconds: float | None = None
    import_seconds: float | None = None
    arrays_sha256: str | None = None
    files_sha256: dict[str, str] | None = None
    leaks: Leaks | None = None
    beside: int | None = None
    processor: str | None = None


class Block(_Frozen, frozen=True):
    """Some consecutive steps of one side, timed as one window.

    Attributes:
        side: `model`, or `partner` (the study's timing partner; in its own cell a second copy).
        phase: `step` (forward, loss, backward, optimiser), `forward`, `stream` (one more event), or
            `rest` (a step of the embedding, the loss and the optimiser alone, without the layers between).
        steps: Number of steps in the window.
        seconds: Length of the window.
        minor_faults: Page faults served without disk during the window; null off Linux.
        history: For `stream`: the events lie between the first history / 2 and the first `history`
            events of one user's stream.
    """

    side: Literal["model", "partner"]
    phase: Phase
    steps: int
    seconds: float
    minor_faults: int | None = None
    history: int | None = None


class Warmup(_Frozen, frozen=True):
    """What happened before the timed region, per side."""

    side: Literal["model", "partner"]
    build_seconds: float
    compile_seconds: float | None
    steps: int
    seconds: float
    stable: bool


class Timing(_Frozen, frozen=True):
    """All of a cell's timing. Blocks are in the order in which they ran (A B B A …)."""

    paired: bool
    warmups: list[Warmup]
    blocks: list[Block]


class MemoryUse(_Frozen, frozen=True):
    """Peak memory from a pass of its own, with only one model alive.

    Attributes:
        method: How the numbers were read.
        baseline_bytes: Before the model was built, after imports.
        tiny_peak_bytes: Peak over training steps on one short sequence: what does not depend on
            the batch (weights, optimiser state, catalogue).
        peak_bytes: Peak over training steps on the cell's batch. Both peaks have the baseline
            subtracted.
        reserved_bytes: Peak held by the allocator (GPU).
        device_peak_bytes: The device's own view, sampled, less its view before our context (GPU).
        steps: Training steps the peak was taken over.
    """

    method: str
    baseline_bytes: int
    tiny_peak_bytes: int
    peak_bytes: int
    steps: int
    reserved_bytes: int | None = None
    device_peak_bytes: int | None = None


class Energy(_Frozen, frozen=True):
    """Energy of the whole board while the model's side steps, over at least a second (GPU).

    Two readings of the driver's total-energy counter, idle power included.
    """

    seconds: float
    steps: int
    energy_joules: float


class _CellRecord(_Frozen, frozen=True, kw_only=True):
    """What every record holds.

    Attributes:
        schema_version: Version of this schema.
        status: How the cell ended.
        study: Name of the study.
        label: Model as the study names it.
        spec_digest: Digest of `spec`.
        device: `cpu` or `cuda`.
        precision: `float32`, or `bfloat16` for autocast.
        flags: What a reader must know about these numbers.
        detail: Why a number is missing, or how the cell failed.
    """

    schema_version: int
    status: Status
    study: str
    label: str
    spec_digest: str
    environment: Environment
    provenance: Provenance
    device: str
    precision: str
    model: ModelFacts | None = None
    memory: MemoryUse | None = None
    flags: list[str] = []
    detail: str | None = None


class SpeedRecord(_CellRecord, frozen=True, kw_only=True, tag="speed", tag_field="kind"):
    """One speed cell: a model and the timing partner, alternately, at one length.

    Attributes:
        spec: Everything that decides the result.
        energy_detail: Why there is no energy, or what was mended to get it (GPU).
    """

    spec: SpeedSpec
    sweep: str
    length: int
    batch: int
    replicate: int
    partner: ModelFacts | None = None
    timing: Timing | None = None
    energy: Energy | None = None
    energy_detail: str | None = None


class Epoch(_Frozen, frozen=True):
    """One pass over the training sequences; time excludes evaluation.

    Attributes:
        tokens: Real events that were trained on.
        positions: Those and the padding beside them.
    """

    epoch: int
    train_seconds: float
    evaluation_seconds: float
    steps: int
    tokens: int
    loss: float
    validation_ndcg10: float | None
    positions: int | None = None


class Ranking(_Frozen, frozen=True):
    """Full-catalogue ranking of every held-out event.

    Attributes:
        metrics: `ndcg@10`, by which epochs are chosen; some records hold more. All others follow from the ranks.
        ranks: Per held-out event in split order: 1 + number of items scored higher + half the ties.
        users: Whose each event is; null: one event of every ranked user.
    """

    metrics: dict[str, float]
    ranks: list[float]
    users: list[int] | None = None


class TrainingRecord(_CellRecord, frozen=True, kw_only=True, tag="training", tag_field="kind"):
    """One training cell: a model trained (or a reference fitted) on one data set with one seed.

    Attributes:
        spec: Everything that decides the result.
        length: Longest history the model sees; null for references, which see all of it.
        best_epoch: Epoch whose weights were tested, chosen on validation NDCG@10.
        training_seconds: Sum over epochs, without evaluation.
        tokens_per_second: Real (non-padding) training positions per second of training.
        padding: Share of the positions of all batches that were padding.
        timed: Whether the cell ran alone; false bars it from every time figure.
        resumed: How often it continued from a checkpoint.
    """

    spec: TrainingSpec
    dataset: str
    length: int | None
    seed: int
    timed: bool
    num_users: int | None = None
    num_items: int | None = None
    num_events: int | None = None
    epochs: list[Epoch] = []
    best_epoch: int | None = None
    stopped_early: bool | None = None
    training_seconds: float | None = None
    tokens_per_second: float | None = None
    validation: Ranking | None = None
    test: Ranking | None = None
    resumed: int = 0
    padding: float | None = None


Record = SpeedRecord | TrainingRecord


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file aside, flush it to disk and rename it: never half a file under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def encode(value: Any) -> bytes:
    """JSON, indented, keys in field order, one newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=1) + b"\n"


class Ended(Protocol):
    """What has a status: a record of a cell, or of the operator bench."""

    @property
    def status(self) -> Status:
        """How it ended."""


def write(record: Ended, path: Path) -> Path:
    """Write a record atomically; one that is not final goes to `<record>.failed.json`.

    Returns:
        The path really written.
    """
    failed = path.with_suffix(FAILED_SUFFIX)
    if record.status not in FINAL:
        write_atomic(failed, encode(record))
        return failed
    write_atomic(path, encode(record))
    failed.unlink(missing_ok=True)
    return path


def read(path: Path) -> Record:
    """Read one record.

    Raises:
        UserError: The file is not complete JSON, of another schema version, or does not fit the schema.
    """
    record: Record = read_json.read(
        path,
        Record,
        "record",
        "delete it and its cell is measured again",
        version=SCHEMA_VERSION,
        converters=CONVERTERS,
    )
    return record
