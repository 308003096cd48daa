"""What decides a cell's result: typed, with one encoding and one digest. Imports no torch.

A cell's key is the digest of its spec, so hours of measurement depend on it. One rule keeps keys alive
when a spec grows: *a field without a default is always encoded, a field with one only while it differs
from it.* The fields of the first version have no default. A field added later takes one that means "as
before"; then no older cell gets another key, and an older record reads as before. The same holds for the
options of a model, see `models.options.Added`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any, Literal

import msgspec

Phase = Literal["step", "forward", "stream", "rest"]
Measure = Literal["time", "memory"]
Constant = Literal["tokens", "batch"]
Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
Optimiser = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of a spec's parts."""


class ModelSpec(_Part, frozen=True, kw_only=True):
    """A model as the study names it.

    Attributes:
        label: Name in the study, such as `sasrec-math`.
        name: Registered name.
        options: Its options by name; one that was added later stands here only where it differs from
            its default.
    """

    label: str
    name: str
    options: dict[str, Any]


class SourceSpec(_Part, frozen=True, kw_only=True):
    """Where a data set comes from, as `harness.data.catalogue.DataSource` has it."""

    format: str
    file: str | None
    sha256: str | None


class LossSpec(_Part, frozen=True, kw_only=True):
    """A loss with its options filled in; null: the loss has no such option.

    Attributes:
        name: `declared` (the one that the model's objective names), or a loss of the harness.
        normalise: Whether scores are cosines.
        temperature: Scores are divided by it.
        negatives: Sampled items.
        calibration: t of gBCE.
    """

    name: str
    normalise: bool | None = None
    temperature: float | None = None
    negatives: int | None = None
    calibration: float | None = None


class Published(_Part, frozen=True, kw_only=True):
    """Where the times of a cell come from that was not measured here.

    Attributes:
        source: Publication.
        assumed_error: Half the width of the assumed 95 % interval, as a share of the time.
    """

    source: str
    assumed_error: float


class _CellSpec(_Part, frozen=True, kw_only=True, tag_field="kind"):
    """What both kinds of cell have.

    Attributes:
        device: `cpu` or `cuda`.
        precision: `float32`, or `bfloat16` for autocast.
        threads: CPU threads; null: the cores that the process may use.
        timeout_seconds: Time after which a cell is given up.
        memory_limit_bytes: Resident memory at which a cell counts as out of memory; null: 90 % of the
            machine's.
    """

    device: Device
    precision: Precision
    threads: int | None
    timeout_seconds: float
    model: ModelSpec
    memory_limit_bytes: int | None = None

    def digest(self) -> str:
        """First 8 hex digits of the sha256 of the spec as JSON, its keys sorted."""
        canonical = json.dumps(_encoded(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class SpeedSpec(_CellSpec, frozen=True, kw_only=True, tag="speed"):
    """A speed cell: a model and its partner at one length. See the study's `SpeedSection` and `Sweep`.

    Attributes:
        partner: Model that it is timed against.
        constant: What the sweep holds constant over the lengths.
        length: Events a sequence.
        batch: Sequences a step.
        published: Set where the times were published, not measured.
    """

    partner: ModelSpec
    sweep: str
    constant: Constant
    length: int
    batch: int
    replicate: int
    measure: list[Measure]
    phases: list[Phase]
    budget_seconds: float
    minimum_seconds: float
    minimum_steps: int
    catalogue_items: int
    negatives: int
    learning_rate: float
    compile: bool
    published: Published | None = None

    @property
    def where(self) -> str:
        """What the cell is a point of besides its length: the sweep."""
        return self.sweep

    @property
    def number(self) -> int:
        """Which of several equal cells this is: the replicate."""
        return self.replicate


class TrainingSpec(_CellSpec, frozen=True, kw_only=True, tag="training"):
    """A training cell; see the study's `TrainingSection`.

    Attributes:
        dataset: Name of the data set.
        split: Rule by which events are held out, an entry of `harness.data.splits.SPLITS`.
        seen_items: What ranking does with the items that a user has had.
        timed: Whether it runs alone, so that its times count.
        length: Longest history in events; null for references, which see all of it, and for which
            nothing that follows is set.
        objective: Whose targets are predicted: those that the model declares.
        weight_decay, schedule, warmup_steps, gradient_clip: As in the study's `TrainingSection`.
    """

    dataset: str
    source: SourceSpec
    split: str
    seen_items: Literal["filtered"]
    timed: bool
    length: int | None
    seed: int
    objective: Literal["declared"] | None = None
    optimiser: Optimiser | None = None
    loss: LossSpec | None = None
    epochs: int | None = None
    patience: int | None = None
    evaluate_every: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    compile: bool | None = None
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    gradient_clip: float | None = None

    @property
    def where(self) -> str:
        """What the cell is a point of besides its length: the data set."""
        return self.dataset

    @property
    def number(self) -> int:
        """Which of several equal cells this is: the seed."""
        return self.seed


CellSpec = SpeedSpec | TrainingSpec


def _encoded(value: Any) -> Any:
    """A part of a spec as JSON has it, by the rule above."""
    if not isinstance(value, _Part):
        return msgspec.to_builtins(value)
    kept = {} if value.__struct_config__.tag is None else {"kind": value.__struct_config__.tag}
    for field in _fields(type(value)):
        # Not left to msgspec, which omits what *is* the default, not what equals it.
        found = getattr(value, field.name)
        if field.required or found != _default(field):
            kept[field.encode_name] = _encoded(found)
    return kept


@cache
def _fields(part: type[_Part]) -> tuple[msgspec.structs.FieldInfo, ...]:
    # Evaluates every annotation of the class, and a study has thousands of cells.
    return msgspec.structs.fields(part)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
