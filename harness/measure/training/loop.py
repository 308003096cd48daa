"""The one training loop: Adam or AdamW, whole epochs, early stopping on validation NDCG@10."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from harness.data.batches import OBJECTIVES, Batch, TrainingSequences
from harness.data.splits import Split
from harness.errors import UserError, unknown
from harness.measure import runtime
from harness.measure.losses import LOSSES, Criterion, Scoring
from harness.measure.peak_memory import Peak
from harness.measure.training import checkpoint
from harness.measure.training.ranking import NotFiniteError, rank_model
from harness.metrics import SELECTION
from harness.records.schema import Epoch
from harness.records.spec import LossSpec, TrainingSpec
from models.base import Objective, SequenceModel


@dataclass(frozen=True)
class Settings:
    """How a model is trained; the fields are those of a training cell's spec.

    Attributes:
        loss: What `harness.study.loss.loss_spec` gives.
        compile: Whether torch.compile is applied to the model, in training and ranking alike.
    """

    length: int
    epochs: int
    patience: int
    evaluate_every: int
    batch_size: int
    learning_rate: float
    seed: int
    precision: str
    loss: LossSpec
    compile: bool
    optimiser: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    gradient_clip: float | None = None

    @classmethod
    def of(cls, spec: TrainingSpec) -> Settings:
        """The settings in the spec of a model that is trained, not of a reference."""
        return msgspec.convert(spec, cls, from_attributes=True)


@dataclass(frozen=True)
class Store:
    """Where a run's checkpoint lies and what it must match.

    Attributes:
        path: The checkpoint.
        identity: Spec and split.
        sources: Digest of the code.
        machine: CPU, threads and versions, to tell whether a run continued elsewhere.
    """

    path: Path
    identity: str
    sources: str
    machine: str


@dataclass
class Outcome:
    """How far a run is; all of it is in the checkpoint.

    Attributes:
        epochs: What happened, epoch by epoch.
        best_epoch: Epoch with the best validation NDCG@10.
        best_weights: Its weights, on the CPU; empty where training diverged before any evaluation.
        validation: Its validation metrics.
        misses: Evaluations since, all without a better NDCG@10.
        resumed: How often the run continued from a checkpoint.
        moved: Whether it then continued on another machine or other versions.
        diverged: Whether the loss or the scores became NaN or infinite, which ended the run.
        peak_bytes: Peak memory of the first epoch in this process, above the baseline.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    misses: int = 0
    resumed: int = 0
    moved: bool = False
    diverged: bool = False
    peak_bytes: int | None = None

    def finished(self, settings: Settings) -> bool:
        """Whether no epoch is left to run."""
        return self.diverged or self.stopped_early(settings) or len(self.epochs) >= settings.epochs

    def stopped_early(self, settings: Settings) -> bool:
        """Whether patience ran out."""
        return self.misses >= settings.patience


class Observer:
    """Follows a training and changes nothing of it. Every method may be overridden; all do nothing."""

    def resumed(self, epochs: int, checkpoint: Path) -> None:
        """A run goes on after `epochs` epochs from a checkpoint."""

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step of `steps` was taken; called within the time of the epoch, so it must be quick."""

    def epoch(self, model: SequenceModel, outcome: Outcome, settings: Settings) -> None:
        """An epoch and its evaluation are over, and the checkpoint is not yet written.

        The generators of torch and the model's mode are put back after it.
        """

    def diverged(self, epoch: int, reason: str) -> None:
        """Training ends in this epoch, since something is not finite."""


def train(
    model: SequenceModel,
    split: Split,
    settings: Settings,
    device: torch.device,
    store: Store,
    peak: Peak,
    observer: Observer | None = None,
) -> Outcome:
    """Train until the epochs or the patience run out, from the checkpoint if there is one.

    An epoch is every sequence once. Its time includes cutting batches and moving them, not
    evaluation, and the clock is read after the device is done. On a CPU an interrupted and
    continued run gives the same weights and metrics, bit for bit, as an uninterrupted one.

    Args:
        model: Freshly built under the seed, on the device; holds the best epoch's weights after.
        split: Data.
        settings: How to train.
        device: Where.
        store: The checkpoint, written after every epoch.
        peak: Its baseline was taken before the model was built.
        observer: Who is told; default: nobody.

    Raises:
        UserError: No user has two training events, the model's objective cannot be trained on, or
            the checkpoint of another run.
    """
    observer = observer or Observer()
    objective = checked_objective(model)
    criterion = Criterion.of(settings.loss, objective.loss)
    sequences = TrainingSequences(split, settings.length, settings.batch_size, settings.seed, objective.batch)
    if not len(sequences):
        raise UserError("no user has two training events besides the held-out ones, so there is nothing to train on")
    optimiser = _optimiser(model, settings)
    generator = torch.Generator(device)
    step = _stepper(model, optimiser, criterion, generator, split.interactions.num_items, settings)
    if settings.compile:
        # In place: the module stays itself, and with it item_embedding, cost() and the checkpoint.
        model.compile()
    outcome = _resume(model, optimiser, device, store)
    if outcome.resumed:
        observer.resumed(len(outcome.epochs), store.path)
    model.train()
    peak.reset()
    while not outcome.finished(settings):
        epoch = len(outcome.epochs) + 1
        # Like the batches, the negatives of an epoch depend on seed and epoch alone.
        generator.manual_seed(_generator_seed(settings.seed, epoch))
        problem = _train_epoch(step, sequences, settings, device, outcome, observer)
        if outcome.peak_bytes is None:
            outcome.peak_bytes = peak.read()
        problem = problem or _evaluate(model, criterion.scoring, split, settings, device, outcome)
        if problem is not None:
            outcome.diverged = True
            observer.diverged(epoch, problem)
            break
        with torch.random.fork_rng([] if device.type == "cpu" else [device]):
            observer.epoch(model, outcome, settings)
        model.train()
        _save(model, optimiser, device, store, outcome)
    if outcome.best_weights:
        model.load_state_dict(outcome.best_weights)
    return outcome


def _optimiser(model: SequenceModel, settings: Settings) -> torch.optim.Optimizer:
    """Adam, or AdamW, whose decay leaves out norms, biases and all else that is no matrix."""
    if settings.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Learning rate of a step: a linear rise over the first `warmup_steps`, then constant or half a cosine down to 0.

    Args:
        settings: Its `learning_rate` is the highest; `schedule` is `constant` or `cosine`.
        step: Counted from 0 over the whole run.
        steps: Steps of all epochs allowed; those that early stopping saves count too.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


# A batch and the learning rate to the mean loss.
Step = Callable[[Batch, float], Tensor]


def checked_objective(model: SequenceModel) -> Objective:
    """The model's objective, held against what the harness can train.

    Raises:
        UserError: An unknown loss or batch, masked items without a row for the mask, or a model
            that sees the next item trained to predict it.
    """
    objective = model.objective()
    if objective.loss not in LOSSES:
        raise unknown("loss of an objective", objective.loss, LOSSES)
    if objective.batch not in OBJECTIVES:
        raise unknown("batch of an objective", objective.batch, OBJECTIVES)
    rows, needed = model.item_embedding.num_embeddings, model.config.num_items + 2
    if objective.batch == "masked-item" and rows < needed:
        raise UserError(
            f"{model.NAME}: objective 'masked-item' needs {needed} rows in item_embedding (padding, "
            f"{model.config.num_items} items, mask), not {rows}"
        )
    if objective.batch == "next-item" and not model.CAUSAL:
        raise UserError(
            f"{model.NAME} is declared non-causal, so under objective 'next-item' it sees its targets; "
            "return Objective(batch='masked-item') or Objective(batch='last-item') from objective()"
        )
    return objective


def _generator_seed(seed: int, epoch: int) -> int:
    # A third word keeps it apart from the generator of the batches.
    return int(np.random.SeedSequence([seed, epoch, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _stepper(
    model: SequenceModel,
    optimiser: torch.optim.Optimizer,
    criterion: Criterion,
    generator: torch.Generator,
    num_items: int,
    settings: Settings,
) -> Step:
    device = generator.device

    def step(batch: Batch, rate: float) -> Tensor:
        items, positions, targets = (
            torch.from_numpy(part).to(device) for part in (batch.items, batch.positions, batch.targets)
        )
        times = None if batch.timestamps is None else torch.from_numpy(batch.timestamps).to(device)
        with runtime.autocast(device, settings.precision):
            hidden = model(items, times).flatten(0, 1)
            if len(positions) < len(hidden):
                hidden = hidden.index_select(0, positions)
            loss = criterion(hidden, model.item_embedding.weight, targets, num_items, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward(torch.full_like(loss, batch.weight))  # type: ignore[no-untyped-call]
        if settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        return loss.detach()

    return step


def _train_epoch(
    step: Step,
    sequences: TrainingSequences,
    settings: Settings,
    device: torch.device,
    outcome: Outcome,
    observer: Observer,
) -> str | None:
    """One epoch, added to the outcome; else what is not finite."""
    number, steps = len(outcome.epochs) + 1, sequences.steps
    total = torch.zeros((), dtype=torch.float64, device=device)
    tokens = positions = targets = 0
    runtime.synchronise(device)
    start = time.perf_counter()
    for done, batch in enumerate(sequences.epoch(number)):
        rate = learning_rate(settings, (number - 1) * steps + done, settings.epochs * steps)
        total += step(batch, rate).double() * len(batch.targets)
        tokens, positions, targets = tokens + batch.tokens, positions + batch.items.size, targets + len(batch.targets)
        observer.step(number, done + 1, steps)
    runtime.synchronise(device)
    seconds = time.perf_counter() - start
    loss = float(total) / targets
    if not math.isfinite(loss):
        return "the loss is not finite"
    outcome.epochs.append(
        Epoch(
            epoch=number,
            train_seconds=seconds,
            evaluation_seconds=0.0,
            steps=steps,
            tokens=tokens,
            positions=positions,
            loss=loss,
            validation_ndcg10=None,
        )
    )
    return None


def _evaluate(
    model: SequenceModel, scoring: Scoring, split: Split, settings: Settings, device: torch.device, outcome: Outcome
) -> str | None:
    """The validation of the last epoch, where it is due, added to the outcome; else what is not finite."""
    epoch = outcome.epochs[-1]
    if epoch.epoch % settings.evaluate_every and epoch.epoch != settings.epochs:
        return None
    start = time.perf_counter()
    try:
        ranking = rank_model(
            model,
            split,
            "validation",
            length=settings.length,
            device=device,
            precision=settings.precision,
            scoring=scoring,
        )
    except NotFiniteError as error:
        return str(error)
    ndcg10 = ranking.metrics[SELECTION]
    outcome.misses += 1
    if not outcome.best_epoch or ndcg10 > outcome.validation[SELECTION]:
        outcome.best_epoch, outcome.validation, outcome.misses = epoch.epoch, ranking.metrics, 0
        outcome.best_weights = checkpoint.weights(model)
    outcome.epochs[-1] = msgspec.structs.replace(
        epoch, evaluation_seconds=time.perf_counter() - start, validation_ndcg10=ndcg10
    )
    return None


def _save(
    model: SequenceModel, optimiser: torch.optim.Optimizer, device: torch.device, store: Store, outcome: Outcome
) -> None:
    state = {
        "model": checkpoint.weights(model),
        "optimiser": optimiser.state_dict(),
        "random": checkpoint.random_state(device),
        "machine": store.machine,
        "epochs": [msgspec.structs.asdict(epoch) for epoch in outcome.epochs],
        "best_epoch": outcome.best_epoch,
        "best_weights": outcome.best_weights,
        "validation": outcome.validation,
        "misses": outcome.misses,
        "resumed": outcome.resumed,
        "moved": outcome.moved,
    }
    checkpoint.save(store.path, store.identity, store.sources, state)


def _resume(model: SequenceModel, optimiser: torch.optim.Optimizer, device: torch.device, store: Store) -> Outcome:
    state = checkpoint.load(store.path, store.identity, store.sources)
    if state is None:
        return Outcome()
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    checkpoint.restore_random_state(state["random"], device)
    return Outcome(
        epochs=[Epoch(**epoch) for epoch in state["epochs"]],
        best_epoch=state["best_epoch"],
        best_weights=state["best_weights"],
        validation=state["validation"],
        misses=state["misses"],
        resumed=state["resumed"] + 1,
        moved=state["moved"] or state["machine"] != store.machine,
    )
