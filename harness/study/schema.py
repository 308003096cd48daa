"""Study: what to compare, as typed sections of a YAML file. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from harness.data.catalogue import SOURCES, DataSource
from harness.records.environment import has_gpu, usable_cores
from harness.records.spec import Constant, Device, Measure, Phase, Precision, SpeedSpec
from harness.study.training import TrainingSection
from harness.study.yaml_reading import Count, Positive, Section, Share


class Sweep(Section, frozen=True):
    """Lengths at constant tokens per batch, or at a constant batch; exactly one of the two.

    Attributes:
        lengths: Sequence lengths, in events.
        tokens: Tokens per batch; the batch is tokens / length.
        batch: Sequences per batch.
        replicates: Processes per point.
        measure: `time` (paired), `memory` (a pass of its own, in replicate 0), or both.
        models: Labels; default: the section's.
        phases: What it times; default: the section's.
        replicates_of: Labels with another number of processes per point.
    """

    lengths: list[Count]
    tokens: Count | None = None
    batch: Count | None = None
    replicates: Count = 3
    measure: Annotated[list[Measure], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["time"])
    models: list[str] | None = None
    phases: Annotated[list[Phase], msgspec.Meta(min_length=1)] | None = None
    replicates_of: dict[str, Count] = msgspec.field(default_factory=dict)

    @property
    def constant(self) -> Constant:
        """What is the same at every length."""
        return "batch" if self.batch is not None else "tokens"

    def batch_at(self, length: int) -> int:
        """Sequences per batch at a length."""
        return self.batch if self.batch is not None else max(1, (self.tokens or length) // length)

    def replicates_at(self, label: str) -> int:
        """Processes per point of a label."""
        return self.replicates_of.get(label, self.replicates)

    def most_replicates(self) -> int:
        """Processes per point of the label that has most."""
        return max([self.replicates, *self.replicates_of.values()])


class SpeedSection(Section, frozen=True):
    """Speed cells. A step is forward, loss, backward and optimiser step.

    Attributes:
        phases: What to time: `step`, `forward`, `stream` (one more event of one user, after short and
            long histories, a second a cell; for models that stream), `rest` (a step without the layers).
        budget_seconds: Most that a cell measures one phase, both sides together.
        minimum_seconds: Least a side measures.
        minimum_steps: Least number of steps a side measures.
        first: Labels whose replicates all come before the other labels' first; empty: replicate by replicate,
            all labels alike.
        catalogue_items: Items of the random catalogue.
        negatives: Shared negatives of the sampled softmax.
    """

    models: Annotated[list[str], msgspec.Meta(min_length=1)]
    sweeps: Annotated[dict[str, Sweep], msgspec.Meta(min_length=1)]
    phases: list[Phase] = msgspec.field(default_factory=lambda: ["step"])
    budget_seconds: Positive = 8.0
    minimum_seconds: Positive = 1.0
    minimum_steps: Count = 5
    timeout_seconds: Positive = 600.0
    first: list[str] = msgspec.field(default_factory=list)
    catalogue_items: Count = 10_000
    negatives: Count = 256
    learning_rate: Positive = 1e-3
    compile: bool = False

    def labels(self) -> list[str]:
        """Every label that is timed, in the order of the section and its sweeps."""
        return [*dict.fromkeys([*self.models, *(label for s in self.sweeps.values() for label in s.models or ())])]

    def method(self) -> dict[str, Any]:
        """How all cells of the section measure: the fields that stand in their specs under the same names."""
        names = set(self.__struct_fields__) & set(SpeedSpec.__struct_fields__)
        return {name: getattr(self, name) for name in names}

    def rank(self, label: str, replicate: int) -> int:
        """How early a cell runs; see `Cell.rank`."""
        return replicate + (0 if label in self.first else self.delay())

    def delay(self) -> int:
        """Ranks by which what is not in `first` comes later."""
        return max((sweep.most_replicates() for sweep in self.sweeps.values()), default=0) if self.first else 0


class ModelDefaults(Section, frozen=True):
    """Options that all models of a study share."""

    hidden_size: Count = 64
    num_layers: Count = 2
    dropout: Share = 0.2


class Study(Section, frozen=True):
    """One study file.

    Attributes:
        name: Folder under results/.
        device: `cpu`, `cuda`, or `auto`: cuda where there is a GPU.
        precision: `float32`, or `bfloat16` for autocast.
        threads: CPU threads; null: the cores this process may use.
        memory_limit_bytes: Resident memory at which a cell counts as out of memory; null: 90 %
            of the machine's.
        timing_partner: Label that every speed cell is paired with.
        variants: Label → `{model: name, option: value, …}`; a registered name needs none.
        data: Further data sets by name.
        data_folder: Where real data lies; the environment variable HYENAREC_DATA wins.
        claims: Files of workflow/claims, paths of such files, or ids of single claims to rule on; null: hyenarec.
            A claim whose challenger is another label than the timing partner pairs its opponents with that label too.
        operator: Whether to time the convolution operator by itself too, as `bench --quick` does; one more speed cell.
        preliminary: Whether it measures too little for a verdict to be quoted; table, document and page say so.
    """

    name: str
    description: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    threads: Count | None = None
    memory_limit_bytes: Count | None = None
    timing_partner: str = "hyenarec"
    model: ModelDefaults = ModelDefaults()
    variants: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    speed: SpeedSection | None = None
    training: TrainingSection | None = None
    data: dict[str, DataSource] = msgspec.field(default_factory=dict)
    data_folder: str | None = None
    claims: list[str] | None = None
    operator: bool = False
    preliminary: bool = False

    def device_here(self) -> Device:
        """The device of its cells on this machine."""
        return self.device if self.device != "auto" else "cuda" if has_gpu() else "cpu"

    def trainings_beside(self) -> int:
        """Trainings that run at a time: one a core, each with its threads, where they are not timed."""
        if self.training is None or self.training.timed:
            return 1
        return max(1, usable_cores() // (self.threads or 1))

    def sources(self) -> dict[str, DataSource]:
        """All data sets this study may name."""
        return {**SOURCES, **self.data}
