"""The schema of analysis.json: everything the report and `verify` say, and nothing they compute.

Field names carry units. Intervals are 95 % and written `[lower, upper]`; null means that the records
do not give one (fewer than three processes, one seed, an open end), never zero. Lists are sorted by the
study's order of labels, then by length, so that identical records give identical bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from harness.analysis.rows import (
    Censored,
    Challenge,
    ControlPoint,
    Crossover,
    EnergyPoint,
    Exponent,
    Fit,
    Interval,
    Law,
    LocalSlope,
    MemoryPoint,
    NoiseFloor,
    OpenInterval,
    OperatorBench,
    Row,
    ScalingLaw,
    SpeedupPoint,
    StreamPoint,
    TimePoint,
    Trend,
)
from harness.data.account import Leaks
from harness.study.claim import Verdict
from harness.study.schema import Study

__all__ = [
    "ANALYSIS_VERSION",
    "AccuracyDifference",
    "AccuracyRow",
    "Analysis",
    "CellStatus",
    "Censored",
    "Challenge",
    "ClaimResult",
    "ClaimVerdict",
    "Comparison",
    "Completeness",
    "ControlPoint",
    "Crossover",
    "EnergyPoint",
    "Exponent",
    "FailedCell",
    "Fit",
    "Interval",
    "Law",
    "LearningPoint",
    "LocalSlope",
    "Machine",
    "MemoryPoint",
    "Metric",
    "ModelRow",
    "NoiseFloor",
    "OpenInterval",
    "OperatorBench",
    "Problems",
    "RecordRow",
    "RefusedFile",
    "Row",
    "ScalingLaw",
    "SpeedupPoint",
    "StreamPoint",
    "TimePoint",
    "TimeToQuality",
    "Trend",
    "Versions",
]

ANALYSIS_VERSION = 3

CellStatus = Literal["ok", "oom", "timeout", "diverged", "killed", "error", "refused", "missing"]
Comparison = Literal["better", "worse", "undecided"]


class Machine(Row, frozen=True):
    """One machine that records of this folder come from.

    Attributes:
        name: The accelerator where there is one, else the processor.
        accelerator: Name of the GPU, null on a CPU.
        threads: Threads the harness pinned; several values if records differ.
        allocator: Settings of the C library's allocator in timing children.
        records: Number of counted records from this machine.
    """

    name: str
    cpu: str
    cores: int
    cores_usable: int
    memory_bytes: int
    system: str
    accelerator: str | None
    accelerator_memory_bytes: int | None
    driver: str | None
    power_limit_watts: float | None
    threads: list[int]
    allocator: dict[str, str]
    tf32: bool | None
    records: int


class Versions(Row, frozen=True):
    """Software and provenance of the counted records; a list with two entries is a mixture.

    Attributes:
        packages: Package → versions.
        started_first: UTC start of the earliest record, ISO 8601.
        elapsed_seconds: Sum of the cells' wall times.
    """

    harness: str
    record_schema: int
    python: list[str]
    packages: dict[str, list[str]]
    cuda: list[str]
    git_commits: list[str]
    git_dirty_records: int
    started_first: str | None
    started_last: str | None
    elapsed_seconds: float


class ModelRow(Row, frozen=True):
    """What is known of one label.

    Attributes:
        label: Name in the study.
        name: Registered name of the model.
        family: attention, recurrent, state_space, convolution or reference.
        parameters: Trainable parameters per measured length, smallest and largest.
        backends: Operator → what really ran, over all records (several where it changed with length).
        is_partner: Whether it is the study's timing partner.
    """

    label: str
    name: str
    family: str
    causal: bool
    citation: str
    options: dict[str, Any]
    parameters: tuple[int, int] | None
    backends: dict[str, list[str]]
    is_partner: bool


class Metric(Row, frozen=True):
    """One ranking metric, mean over seeds, with the interval that `method` names."""

    mean: float
    interval: Interval | None
    per_seed: list[float]


class AccuracyRow(Row, frozen=True):
    """One label on one data set at one length.

    Attributes:
        length: Longest history; null for references, which see all of it.
        seeds: Seeds averaged (collapsed ones left out, listed in `collapsed_seeds`).
        metrics: Those of harness/metrics.py, such as `hr@1`, in its order.
        interval_method: How the intervals came about: `seeds and users`, `users only (one seed)`, or
            `t over seeds` where a record has no ranks per user.
        training_seconds: Mean over seeds, evaluation excluded; null where cells ran side by side.
        is_reference: Untrained.
        below_best_reference: A trained model below the best untrained reference on NDCG@10.
        flags: Flags of any seed.
        leaks: What the leak check of the split found; null in records made before it was kept.
    """

    dataset: str
    split_sha256: str | None
    label: str
    name: str
    family: str
    length: int | None
    seeds: list[int]
    collapsed_seeds: list[int]
    users: int
    metrics: dict[str, Metric]
    interval_method: str
    parameters: int
    training_seconds: float | None
    seconds_per_epoch: float | None
    tokens_per_second: float | None
    best_epoch: list[int]
    epochs: list[int]
    validation_ndcg10: float | None
    flags: list[str]
    is_reference: bool
    is_partner: bool
    below_best_reference: bool
    leaks: Leaks | None = None


class LearningPoint(Row, frozen=True):
    """One evaluated epoch of one run, for accuracy against training time.

    Attributes:
        train_seconds: Training time so far, evaluation excluded; null where cells ran side by side.
    """

    dataset: str
    label: str
    length: int | None
    seed: int
    epoch: int
    train_seconds: float | None
    loss: float
    validation_ndcg10: float


class TimeToQuality(Row, frozen=True):
    """Training time until validation NDCG@10 reaches a target; null = not reached (censored).

    Attributes:
        target: 95 % of the best model's mean of the seeds' best validation NDCG@10.
        seconds: Per seed.
        trained_seconds: Per seed the training time up to its last evaluation: where the target was not
            reached, it takes longer than that.
    """

    dataset: str
    label: str
    length: int | None
    target: float
    seconds: list[float | None]
    trained_seconds: list[float] = msgspec.field(default_factory=list)


class AccuracyDifference(Row, frozen=True):
    """Test NDCG@10 of the timing partner less that of `label`, same data, split, length, seeds.

    Attributes:
        relative: difference / mean of `label`.
        interval: 95 % of the difference; `relative_interval` of the relative one.
        method: As in AccuracyRow.
        p_better: One-sided p-value against "not better"; `p_worse` against "not worse".
        verdict: `better`, `worse` (before Holm's correction) or `undecided`, always so with one seed.
    """

    dataset: str
    split_sha256: str | None
    partner: str
    label: str
    family: str
    length: int | None
    seeds: int
    users: int
    difference: float
    interval: Interval | None
    relative: float | None
    relative_interval: Interval | None
    method: str
    p_better: float | None
    p_worse: float | None
    verdict: Comparison


class ClaimVerdict(Row, frozen=True):
    """The ruling on a claim, overall or for one of its variants.

    Attributes:
        id: Claim.
        variant: Label or data set it is about; "" for a claim's overall ruling.
        statistic: The decisive number; null where nothing was measured.
        measured: The statistic with its interval and its unit, in words.
        allowed: What it is held against, in words.
        window: Lengths that the ruling covers.
        evidence: Paths of the records used, below the study's folder.
        detail: One plain sentence with the numbers.
        missing: What is missing, each a record path or a sentence.
        sample_size: When the interval is too wide to decide: processes or seeds that would
            decide, if the estimate and spread stay as they are; null where no number would.
        sample_unit: `processes` or `seeds`.
    """

    id: str
    variant: str
    verdict: Verdict
    statistic: float | None = None
    interval: OpenInterval | None = None
    threshold: float | None = None
    margin: float | None = None
    measured: str = ""
    allowed: str = ""
    window: tuple[int, int] | None = None
    evidence: list[str] = msgspec.field(default_factory=list)
    detail: str = ""
    missing: list[str] = msgspec.field(default_factory=list)
    sample_size: int | None = None
    sample_unit: str = ""


class ClaimResult(Row, frozen=True):
    """A claim as published, with its overall verdict and those of its variants.

    Attributes:
        rule: Rule that decided it.
        card: Digest of the card's fields that decide.
        challenger: Label that the sentence praises.
        statistic: What was computed, in words; `records` the records it needs.
        marks_speedup: Whether its threshold is a speed-up, to be drawn into its figure.
        setting: Where and how the published figure was measured; null where the card does not say.
        differs: What is otherwise here; null likewise.
    """

    id: str
    rule: str
    card: str
    challenger: str
    sentence: str
    source: str
    statistic: str
    records: str
    marks_speedup: bool
    overall: ClaimVerdict
    variants: list[ClaimVerdict]
    setting: str | None = None
    differs: str | None = None


class RecordRow(Row, frozen=True):
    """One cell of the study.

    Attributes:
        coordinates: Readable point, such as `constant-tokens-L1024-r0`.
        where: Sweep, or data set.
        number: Replicate, or seed.
        stale: Whether the sources changed since; null where that cannot be told here.
        step_seconds: Median of the model's side; null for training cells.
        partner_step_seconds: Median of the partner's side.
        ndcg10: Test NDCG@10; null for speed cells.
    """

    kind: Literal["speed", "training"]
    label: str
    coordinates: str
    where: str
    length: int | None
    number: int
    status: CellStatus
    flags: list[str]
    stale: bool | None
    step_seconds: float | None
    partner_step_seconds: float | None
    net_bytes: int | None
    ndcg10: float | None
    detail: str
    path: str


class FailedCell(Row, frozen=True):
    """A `.failed.json`: tried, not final, tried again next time."""

    path: str
    label: str
    status: str
    detail: str


class RefusedFile(Row, frozen=True):
    """A file that could not be counted, with one clear message."""

    path: str
    message: str


class Problems(Row, frozen=True):
    """What is wrong with this folder of records.

    Attributes:
        orphans: Records that no cell of the study asks for.
        stale: Paths of records made from other sources than those here.
        threats: Threats to validity found in these very records, one sentence each.
        other_split: Records of another split than most of their data set; compared among themselves only.
    """

    failed: list[FailedCell]
    refused: list[RefusedFile]
    orphans: list[str]
    stale: list[str]
    threats: list[str]
    other_split: list[RefusedFile] = msgspec.field(default_factory=list)


class Completeness(Row, frozen=True):
    """How many cells of the study have which status; censored: out of memory or time."""

    cells: int
    ok: int
    censored: int
    failed: int
    missing: int
    diverged: int = 0


class Analysis(Row, frozen=True):
    """All of analysis.json; `operator` is what the folder's operator.json gives, where it holds one."""

    version: int
    study: Study
    machines: list[Machine]
    versions: Versions
    completeness: Completeness
    claims: list[ClaimResult]
    models: list[ModelRow]
    times: list[TimePoint]
    speedups: list[SpeedupPoint]
    controls: list[ControlPoint]
    noise_floors: list[NoiseFloor]
    crossovers: list[Crossover]
    trends: list[Trend]
    laws: list[ScalingLaw]
    exponents: list[Exponent]
    local_slopes: list[LocalSlope]
    memory: list[MemoryPoint]
    energy: list[EnergyPoint]
    censored: list[Censored]
    accuracy: list[AccuracyRow]
    accuracy_differences: list[AccuracyDifference]
    learning: list[LearningPoint]
    times_to_quality: list[TimeToQuality]
    records: list[RecordRow]
    problems: Problems
    operator: OperatorBench | None = None
    streams: list[StreamPoint] = msgspec.field(default_factory=list)
