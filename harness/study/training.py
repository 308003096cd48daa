"""The training part of a study: grid, budget, and the one loss of all its models. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec

from harness.errors import UserError, unknown
from harness.study.yaml_reading import Count, Positive, Section, Seed

LossName = Literal["declared", "cross-entropy", "sampled-softmax", "bce", "gbce"]

_LOSS_DEFAULTS: dict[str, dict[str, Any]] = {
    "declared": {},
    "cross-entropy": {"normalise": False, "temperature": None},
    "sampled-softmax": {"normalise": False, "temperature": None, "negatives": 256},
    "bce": {"normalise": False, "temperature": None, "negatives": 1},
    "gbce": {"normalise": False, "temperature": None, "negatives": 256, "calibration": 0.75},
}
LOSSES = tuple(name for name in _LOSS_DEFAULTS if name != "declared")
# Cosines lie in [-1, 1], too flat for a softmax; 0.05 is what HSTU's published training divides by.
_COSINE_TEMPERATURE = 0.05


class Budget(Section, frozen=True):
    """What one model may train for where it differs from the section's; null: the section's.

    Loss, data, batches and optimiser stay those of all models.
    """

    epochs: Count | None = None
    patience: Count | None = None
    evaluate_every: Count | None = None


class TrainingSection(Section, frozen=True):
    """Training cells.

    Attributes:
        lengths: Longest history a model sees, in events.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        evaluate_every: Epochs between evaluations.
        budgets: Label → epochs, patience or evaluate_every of its own: masked items and single
            targets give fewer targets an epoch than the next item does.
        loss: Loss of all models, whatever their objective names; `declared`: the one that each
            model's objective names, with that loss's defaults.
        negatives: Sampled items: shared by the batch in `sampled-softmax` (default 256), drawn for
            every position in `bce` (1) and `gbce` (256).
        normalise: Scores are cosines of hidden state and item instead of dot products, in the loss
            and in the ranking.
        temperature: Scores are divided by it; default 0.05 for cosines, else 1.
        calibration: t of gBCE, from 0 (plain BCE) to 1 (calibrated as with all negatives).
        compile: Compile every model with torch.compile, as `speed.compile` does.
        timed: False runs cells side by side and bars them from every time figure.
    """

    models: Annotated[list[str], msgspec.Meta(min_length=1)]
    datasets: Annotated[list[str], msgspec.Meta(min_length=1)]
    lengths: list[Count]
    references: list[str] = msgspec.field(default_factory=lambda: ["popularity", "markov", "decayed-markov"])
    seeds: Annotated[list[Seed], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: [0])
    epochs: Count = 100
    patience: Count = 10
    evaluate_every: Count = 1
    budgets: dict[str, Budget] = msgspec.field(default_factory=dict)
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    loss: LossName = "cross-entropy"
    negatives: int | None = None
    normalise: bool | None = None
    temperature: float | None = None
    calibration: float | None = None
    compile: bool = False
    timed: bool = True
    timeout_seconds: Positive = 7200.0

    def loss_spec(self) -> dict[str, Any]:
        """`{"name", …}` with every option of the loss filled in, as a cell's spec records it.

        Raises:
            UserError: An option that this loss does not take, or one out of its range.
        """
        given = {key: getattr(self, key) for key in ("negatives", "normalise", "temperature", "calibration")}
        return loss_spec(self.loss, {key: value for key, value in given.items() if value is not None})

    def budget_spec(self, label: str) -> dict[str, Any]:
        """Epochs, patience, batches, learning rate and compilation of a label's cells."""
        own = self.budgets.get(label, Budget())
        shared = {"batch_size": self.batch_size, "learning_rate": self.learning_rate, "compile": self.compile}
        for field in ("epochs", "patience", "evaluate_every"):
            value = getattr(own, field)
            shared[field] = getattr(self, field) if value is None else value
        return shared

    def check(self) -> None:
        """Check what the types do not.

        Raises:
            UserError: A loss option, number or label that cannot be meant.
        """
        self.loss_spec()
        for label in self.budgets:
            if label not in self.models:
                raise unknown("model in training.budgets", label, self.models)


def loss_spec(name: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """A loss with every option filled in; see `TrainingSection` for their meaning.

    Args:
        name: A `LossName`.
        given: Options that differ from the loss's defaults.

    Raises:
        UserError: An unknown loss, an option that it does not take, or one out of its range.
    """
    if name not in _LOSS_DEFAULTS:
        raise unknown("loss", name, _LOSS_DEFAULTS)
    defaults, given = _LOSS_DEFAULTS[name], given or {}
    for key in given:
        if key not in defaults:
            raise _unused(key, name, defaults)
    spec = {"name": name, **defaults, **given}
    if "temperature" in spec and spec["temperature"] is None:
        spec["temperature"] = _COSINE_TEMPERATURE if spec["normalise"] else 1.0
    if "temperature" in spec and not spec["temperature"] > 0:
        raise UserError(f"training.temperature {spec['temperature']} must be above 0; 1 leaves scores as they are")
    if spec.get("negatives", 1) < 1:
        raise UserError(f"training.negatives {spec['negatives']} must be a whole number of at least 1")
    if not 0 <= spec.get("calibration", 0) <= 1:
        raise UserError(f"training.calibration {spec['calibration']} must be from 0 (plain BCE) to 1")
    return spec


def _unused(key: str, name: str, legal: Collection[str]) -> UserError:
    takers = [loss for loss, options in _LOSS_DEFAULTS.items() if key in options]
    return UserError(
        f"training.{key} has no effect under loss '{name}', which takes {', '.join(legal) or 'no option'}; "
        f"leave it out, or choose one of: {', '.join(takers)}"
    )
