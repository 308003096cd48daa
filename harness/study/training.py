"""The training part of a study: grid, budget, and the one loss of all its models. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from harness.errors import UserError, unknown
from harness.records.spec import LossSpec, Optimiser, Schedule, TrainingSpec
from harness.study.loss import LossName, loss_spec
from harness.study.yaml_reading import Count, Positive, Section, Seed


class Budget(Section, frozen=True):
    """What one model may train for, and what tuning found for it; null: as the section has it.

    Loss, data, batches and optimiser stay those of all models.
    """

    epochs: Count | None = None
    patience: Count | None = None
    evaluate_every: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] | None = None
    seeds: Annotated[list[Seed], msgspec.Meta(min_length=1)] | None = None

    def of_each_training(self) -> dict[str, Any]:
        """What is set here of how each training goes; seeds say how many of them there are."""
        return {
            name: value for name, value in msgspec.structs.asdict(self).items() if name != "seeds" and value is not None
        }


class TrainingSection(Section, frozen=True):
    """Training cells.

    Attributes:
        lengths: Longest history a model sees, in events.
        references: Untrained ones, fitted once a data set; the default is those of seconds. `ease` takes minutes
            on 12,000 items, and `most-recent` is for data with repeats.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        evaluate_every: Epochs between evaluations.
        budgets: Label → epochs, patience or evaluate_every of its own: masked items and single
            targets give fewer targets an epoch than the next item does. And the learning_rate and
            weight_decay that tuning found for it; what tuning found of a model's options is a variant. And
            seeds, where the pair that a claim is about deserves more of them: models are compared over
            the seeds that both have.
        optimiser: Adam, or AdamW with `weight_decay`.
        weight_decay: Of AdamW, on matrices alone: not on norms and biases.
        schedule: Of the learning rate after the warm-up: `constant`, or `cosine` down to 0 over all epochs allowed.
        warmup_steps: Steps over which the learning rate rises linearly to `learning_rate`.
        gradient_clip: Largest Euclidean norm of all gradients together; null: none is cut.
        loss: Loss of all models, whatever their objective names; `declared`: the one that each
            model's objective names, with that loss's defaults.
        negatives: Sampled items: shared by the batch in `sampled-softmax` (default 256), drawn for
            every position in `bce` (1) and `gbce` (256).
        normalise: Scores are cosines of hidden state and item instead of dot products, in the loss
            and in the ranking.
        temperature: Scores are divided by it; default 0.05 for cosines, else 1.
        calibration: t of gBCE, from 0 (plain BCE) to 1 (calibrated as with all negatives).
        compile: Compile every model with torch.compile, as `speed.compile` does.
        split: `leave-one-out`: a user's last event is test, the one before it validation. `global-temporal`: what comes
            after a moment that is the same for all users; the data need times. `given`: as the `files` of the data sets
            say (docs/method.md).
        timed: False runs cells side by side and bars them from every time figure.
    """

    models: Annotated[list[str], msgspec.Meta(min_length=1)]
    datasets: Annotated[list[str], msgspec.Meta(min_length=1)]
    lengths: list[Count]
    references: list[str] = msgspec.field(
        default_factory=lambda: ["popularity", "markov", "decayed-markov", "item-knn"]
    )
    seeds: Annotated[list[Seed], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0])
    epochs: Count = 100
    patience: Count = 10
    evaluate_every: Count = 1
    budgets: dict[str, Budget] = msgspec.field(default_factory=dict)
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    optimiser: Optimiser = "adam"
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    schedule: Schedule = "constant"
    warmup_steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    gradient_clip: Positive | None = None
    loss: LossName = "cross-entropy"
    negatives: int | None = None
    normalise: bool | None = None
    temperature: float | None = None
    calibration: float | None = None
    compile: bool = False
    split: Literal["leave-one-out", "global-temporal", "given"] = "leave-one-out"
    timed: bool = True
    timeout_seconds: Positive = 7200.0

    def loss_spec(self) -> LossSpec:
        """The loss with every option of it filled in, as a cell's spec records it.

        Raises:
            UserError: An option that this loss does not take, or one out of its range.
        """
        given = {key: getattr(self, key) for key in ("negatives", "normalise", "temperature", "calibration")}
        return loss_spec(self.loss, {key: value for key, value in given.items() if value is not None})

    def method(self, label: str) -> dict[str, Any]:
        """How a label is trained: the fields that stand in its cells' specs under the same names, with its budget."""
        names = set(self.__struct_fields__) & set(TrainingSpec.__struct_fields__)
        budget = self.budgets.get(label, Budget()).of_each_training()
        return {**{name: getattr(self, name) for name in names}, **budget, "loss": self.loss_spec()}

    def seeds_of(self, label: str) -> list[int]:
        """The seeds that a label is trained with: its budget's, else those of all."""
        own = self.budgets.get(label, Budget()).seeds
        return self.seeds if own is None else own

    def check(self) -> None:
        """Check what the types do not.

        Raises:
            UserError: A loss option, number or label that cannot be meant.
        """
        self.loss_spec()
        places = {"training": self.weight_decay} | {
            f"training.budgets.{label}": budget.weight_decay for label, budget in self.budgets.items()
        }
        for place, weight_decay in places.items():
            if weight_decay and self.optimiser == "adam":
                raise UserError(
                    f"{place}.weight_decay is {weight_decay}, which optimiser 'adam' does not have; "
                    "write `optimiser: adamw`, or leave weight_decay out"
                )
        for label in self.budgets:
            if label not in self.models:
                raise unknown("model in training.budgets", label, self.models)
