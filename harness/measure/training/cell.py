"""One training cell: data, model or reference, training, ranking, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch

from harness.data import interactions, splits
from harness.data.splits import Split
from harness.errors import UserError
from harness.measure import runtime
from harness.measure.guard import Guard
from harness.measure.losses import Criterion
from harness.measure.neighbours import Neighbours
from harness.measure.peak_memory import Peak
from harness.measure.training import loop, references
from harness.measure.training.ranking import rank_model, rank_scorer
from harness.metrics import SELECTION
from harness.records.schema import Environment, Epoch, MemoryUse, Ranking
from harness.records.spec import TrainingSpec
from models import registry
from models.base import SequenceModel

# One published table averages a run that stopped at 1.28 times popularity's NDCG@10.
COLLAPSE_FACTOR = 1.5
_DIVERGED = "training diverged before any evaluation: loss or scores are not finite; lower the learning rate"


def run(
    spec: TrainingSpec,
    arrays: Path,
    checkpoint: Path,
    sources: str,
    environment: Environment,
    observer: loop.Observer | None = None,
) -> dict[str, Any]:
    """Train (or fit) and rank.

    Args:
        spec: Resolved spec of a training cell.
        arrays: Folder of the prepared data set.
        checkpoint: Where the run continues from and keeps its state.
        sources: Digest of the code; a checkpoint of other code is not continued.
        environment: Machine and software; completed here with what only torch knows.
        observer: Who is told while a model trains; default: nobody.

    Returns:
        The fields of a `TrainingRecord` that a run decides, and `split_sha256` of its provenance.
        Ranks are kept for the test events only. Flags: `collapsed` (best validation NDCG@10 at most
        1.5 times that of ranking by popularity), `still-improving` (the best epoch is the last one
        allowed), `diverged`, `resumed-elsewhere`. A run whose loss or scores were not finite before
        any evaluation succeeded has no ranking, and the status `diverged`: with the same seed it
        would diverge again.

    Raises:
        UserError: No user can be ranked, or a checkpoint of another run.
    """
    device = runtime.prepare(spec.device, spec.threads)
    peak = Peak(device)
    stored, _ = interactions.load(arrays)
    split = splits.SPLITS[spec.split](stored)
    if not len(split.users):
        raise UserError(f"data set '{spec.dataset}': no user has {splits.LEAST_EVENTS} events, so none can be ranked")
    reference = registry.entries()[spec.model.name].reference
    with Guard() as guard:
        fields = (
            _run_reference(spec, split)
            if reference
            else _run_model(spec, split, checkpoint, sources, environment, peak, guard, observer)
        )
        guard.check("fitting and ranking" if reference else "training and ranking")
    return {
        **fields,
        "flags": [*fields["flags"], *guard.flags],
        "environment": runtime.complete(environment, device),
        "num_users": stored.num_users,
        "num_items": stored.num_items,
        "num_events": stored.num_events,
        "split_sha256": split.sha256,
    }


def _run_reference(spec: TrainingSpec, split: Split) -> dict[str, Any]:
    scorer, seconds = references.fit(spec.model.name, split)
    validation = rank_scorer(scorer, split, "validation")
    return {
        "model": references.facts(spec.model, scorer),
        "training_seconds": seconds,
        "validation": msgspec.structs.replace(validation, ranks=[], users=None),
        "test": rank_scorer(scorer, split, "test"),
        "flags": [],
    }


def _run_model(
    spec: TrainingSpec,
    split: Split,
    checkpoint: Path,
    sources: str,
    environment: Environment,
    peak: Peak,
    guard: Guard,
    observer: loop.Observer | None,
) -> dict[str, Any]:
    settings = loop.Settings.of(spec)
    device = peak.device
    model = runtime.build_model(
        spec.model,
        num_items=split.interactions.num_items,
        max_length=settings.length,
        seed=settings.seed,
        device=device,
        guard=guard,
    )
    store = loop.Store(
        path=checkpoint,
        identity=f"{spec.digest()}-{split.sha256[:8]}",
        sources=sources,
        machine=f"{environment.cpu}; {torch.get_num_threads()} threads; torch {torch.__version__}",
    )
    neighbours = Neighbours()
    outcome = loop.train(model, split, settings, device, store, peak, observer)
    # Where times count, and of this process alone: what ran before an interruption is not known.
    waits = neighbours.flags() if spec.timed else []
    seconds = sum(epoch.train_seconds for epoch in outcome.epochs)
    fields = {
        "model": runtime.facts(spec.model, model, settings.batch_size, settings.length),
        "epochs": outcome.epochs,
        "training_seconds": seconds,
        "tokens_per_second": sum(epoch.tokens for epoch in outcome.epochs) / seconds if outcome.epochs else None,
        "padding": _padding(outcome.epochs),
        "memory": _memory(model, outcome, peak),
        "resumed": outcome.resumed,
    }
    if not outcome.best_weights:
        flags = ["diverged", *(["resumed-elsewhere"] if outcome.moved else []), *waits]
        return {**fields, "status": "diverged", "detail": _DIVERGED, "flags": flags}
    test = rank_model(
        model,
        split,
        "test",
        length=settings.length,
        device=device,
        precision=settings.precision,
        scoring=Criterion.of(settings.loss, model.objective().loss).scoring,
    )
    floor = COLLAPSE_FACTOR * references.popularity(split, "validation").metrics[SELECTION]
    raised = {
        "collapsed": outcome.validation[SELECTION] <= floor,
        "still-improving": outcome.best_epoch == settings.epochs,
        "diverged": outcome.diverged,
        "resumed-elsewhere": outcome.moved,
    }
    return {
        **fields,
        "best_epoch": outcome.best_epoch,
        "stopped_early": outcome.stopped_early(settings),
        "validation": Ranking(metrics=outcome.validation, ranks=[]),
        "test": test,
        "flags": [*(flag for flag, holds in raised.items() if holds), *waits],
    }


def _padding(epochs: list[Epoch]) -> float | None:
    # Epochs of a checkpoint hold it too; all have the same.
    positions = sum(epoch.positions or 0 for epoch in epochs)
    return 1 - sum(epoch.tokens for epoch in epochs) / positions if positions else None


def _memory(model: SequenceModel, outcome: loop.Outcome, peak: Peak) -> MemoryUse | None:
    if outcome.peak_bytes is None or peak.method is None:
        return None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return MemoryUse(
        method=f"{peak.method}, first epoch of the process; tiny peak: weights, gradients and two moments, counted",
        baseline_bytes=peak.baseline_bytes,
        tiny_peak_bytes=4 * weights,
        peak_bytes=outcome.peak_bytes,
        steps=outcome.epochs[0].steps if outcome.epochs else 0,
    )
