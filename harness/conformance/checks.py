"""The conformance suite: what every registered model promises, checked by running it.

`check(name)` is used by the tests, for all registered names, and by the command `check`.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.conformance.learning_task import LEARNING_ACCURACY, LEARNING_DIGITS, LEARNING_LENGTH, LEARNING_STEPS, learn
from harness.conformance.operation_counts import counted_operations
from harness.data.interactions import StoredInteractions
from harness.errors import UserError, unknown
from harness.measure.training.loop import checked_objective
from models import registry
from models.base import Scorer, SequenceModel, StreamingModel
from models.streaming import State, select, stack

NUM_ITEMS = 50
MAX_LENGTH = 48
# Longer than any chunk or tile of an operator in this repository, and a multiple of none: the last one is partial.
LONG_LENGTH = 300
# Inside a chunk of 16, 64 or 128 events, at its first event, and one event to either side.
_SHORT_CUTS = (1, 7, 16, MAX_LENGTH // 2, MAX_LENGTH - 1)
_LONG_CUTS = (1, 15, 63, 64, 65, 100, 128, 171, 255, 256, LONG_LENGTH - 1)
COST_LENGTHS = (128, 512)
COST_TOLERANCE = 0.25
SLOPE_TOLERANCE = 0.15


@dataclass(frozen=True)
class Finding:
    """One promise and whether it was kept.

    Attributes:
        test: Name of the promise.
        passed: Whether the model keeps it.
        detail: The figures that decide it.
    """

    test: str
    passed: bool
    detail: str


Result = tuple[bool, str]


def check(name: str, options: dict[str, Any] | None = None, leave_out: Collection[str] = ()) -> list[Finding]:
    """Run every check that applies to a registered model or reference.

    Args:
        name: Registered name.
        options: Options of the model's config, over its defaults.
        leave_out: Checks not to run, such as `learns`, which takes seconds where the others take none.

    Returns:
        One finding per promise; a check that raises is a failed one and says what was raised.

    Raises:
        UserError: No such name, no such option, or a value that it cannot have.
    """
    if name not in registry.names():
        raise unknown("model", name, registry.names())
    options = options or {}
    legal = {} if registry.entries()[name].reference else registry.options(name)
    for option in options:
        if option not in legal:
            raise unknown(f"option of {name}", option, legal)
    values = {key: option.default for key, option in legal.items()} | options
    for key, rules in legal.items():
        if words := rules.problem(values[key], values):
            raise UserError(f"{key} of {name} is {values[key]!r}; {words}")
    return check_class(registry.load(name), options, leave_out)


def check_class(
    kind: type[SequenceModel] | type[Scorer], options: dict[str, Any] | None = None, leave_out: Collection[str] = ()
) -> list[Finding]:
    """`check` for a class, registered under a name or not; options are taken as they are."""
    if issubclass(kind, Scorer):
        return [_run(test, partial(run, kind)) for test, run in _REFERENCE_CHECKS.items()]
    subject = _Subject(kind, options or {})
    checks = _MODEL_CHECKS | (_STREAMING_CHECKS if issubclass(kind, StreamingModel) else {})
    return [_run(test, partial(run, subject)) for test, run in checks.items() if test not in leave_out]


@dataclass(frozen=True)
class _Subject:
    """A model class with options; every check builds its own."""

    kind: type[SequenceModel]
    options: dict[str, Any]

    def build(self, max_length: int = MAX_LENGTH, seed: int = 0, **options: Any) -> SequenceModel:
        """A fresh model in evaluation mode; these options hold over the subject's own."""
        torch.manual_seed(seed)
        chosen = {"num_items": NUM_ITEMS, "max_length": max_length, **self.options, **options}
        model = self.kind(self.kind.CONFIG(**chosen))
        return model.eval()


def _run(test: str, run: Callable[[], Result]) -> Finding:
    try:
        return Finding(test, *run())
    except Exception as error:
        return Finding(test, False, f"{type(error).__name__}: {error}")


def _items(batch: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(1, NUM_ITEMS + 1, (batch, length), generator=torch.Generator().manual_seed(seed))


def _times(items: Tensor) -> Tensor:
    """Timestamps of a batch, seconds to months apart, zero where there is padding."""
    gaps = torch.randint(0, 22, items.shape, generator=torch.Generator().manual_seed(4)).float().mul(0.69).exp()
    return (1_000_000_000 + gaps.long().cumsum(1)) * (items != 0)


def _largest(difference: Tensor) -> float:
    return float(difference.detach().abs().max()) if difference.numel() else 0.0


def _close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> Result:
    gap = _largest(a - b)
    return gap <= tolerance, f"largest difference {gap:.1e}, tolerance {tolerance:.2g}"


def _shape(subject: _Subject) -> Result:
    model, items = subject.build(), _items(3, 20)
    hidden = model(items)
    rows = model.item_embedding.num_embeddings
    expected = (3, 20, model.config.hidden_size)
    fine = hidden.shape == expected and hidden.dtype == torch.float32 and rows in {NUM_ITEMS + 1, NUM_ITEMS + 2}
    return fine, f"{list(hidden.shape)} {hidden.dtype}, {rows} embedding rows"


def _padding_row(subject: _Subject) -> Result:
    embedding = subject.build().item_embedding
    largest = _largest(embedding.weight[0])
    return embedding.padding_idx == 0 and largest == 0.0, f"padding_idx {embedding.padding_idx}, row 0 up to {largest}"


def _autocast(subject: _Subject) -> Result:
    model, items = subject.build(), _items(3, 20)
    exact = model(items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model(items)
    hidden.float().square().sum().backward()
    finite = all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    near, detail = _close(hidden.float(), exact, 0.15)
    fine = near and finite and hidden.dtype in {torch.float32, torch.bfloat16}
    return fine, f"{hidden.dtype}, {detail}, gradients {'finite' if finite else 'not finite'}"


def _causality(subject: _Subject) -> Result:
    """The past must not move when future items and times change; a model declared non-causal must show it does.

    With times and without, in evaluation and in training (without dropout): each may take a path of its own.
    """
    moved: dict[str, float] = {}
    largest = math.inf
    for cuts, length in ((_SHORT_CUTS, MAX_LENGTH), (_LONG_CUTS, LONG_LENGTH)):
        model = subject.build(length, dropout=0.0)
        # A row for each cut, so that one pass sees them all.
        items, other = _items(len(cuts), length), _items(len(cuts), length, seed=2)
        past = torch.arange(length) < torch.tensor(cuts)[:, None]
        times = _times(items)
        changed, later = torch.where(past, items, other), times + 86_400 * ~past
        for training, timed in itertools.product((False, True), (True, False)):
            model.train(training)
            outputs = []
            for batch, clock in ((items, times), (changed, later)):
                torch.manual_seed(5)
                outputs.append(model(batch, clock if timed else None))
            largest = min(largest, _largest(outputs[0]))
            where = f"{'training' if training else 'evaluation'}, {'with' if timed else 'without'} times"
            gap = _largest((outputs[0] - outputs[1]) * past[..., None])
            moved[f"length {length}, {where}"] = math.inf if math.isnan(gap) else gap
    where, worst = max(moved.items(), key=lambda pair: pair[1])
    # Small states move little.
    tolerance = 1e-4 * min(1.0, largest)
    kept = worst <= tolerance if subject.kind.CAUSAL else tolerance < worst < math.inf
    declared = "causal" if subject.kind.CAUSAL else "non-causal"
    return kept, f"declared {declared}; changing the future moves the past by {worst:.1e} ({where})"


def _padding(subject: _Subject) -> Result:
    """Zeros on the right change no real position and no gradient."""
    return _each({length: _padded(subject, length) for length in (MAX_LENGTH, LONG_LENGTH)})


def _padded(subject: _Subject, max_length: int) -> Result:
    model, length = subject.build(max_length), max_length // 2 + 1
    items = _ragged(4, length)
    padded, times = torch.nn.functional.pad(items, (0, max_length - length)), _times(items)
    real = (items != 0)[..., None]
    targets = torch.randn(*items.shape, model.config.hidden_size, generator=torch.Generator().manual_seed(3))
    outcomes = []
    for batch in (items, padded):
        model.zero_grad()
        hidden = model(batch, torch.nn.functional.pad(times, (0, batch.shape[1] - length)))[:, :length] * real
        (hidden * targets).sum().backward()
        gradients = [_gradient(p) for p in model.parameters()]
        outcomes.append((hidden.detach(), gradients))
    (hidden, gradients), (hidden_padded, gradients_padded) = outcomes
    moved = _largest(hidden - hidden_padded)
    scale = max(_largest(g) for g in gradients)
    gap = max(_largest(a - b) for a, b in zip(gradients, gradients_padded, strict=True)) / max(scale, 1e-12)
    fine = moved <= 1e-4 and gap <= 1e-4
    return fine, f"hidden states move by {moved:.1e}, gradients by {gap:.1e} of the largest"


def _ragged(batch: int, length: int) -> Tensor:
    """Histories of which the second ends half way and the third with a whole chunk."""
    items = _items(batch, length)
    items[1, length // 2 :] = 0
    items[2, 64 if length > 64 else 16 :] = 0
    return items


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def _batch_independence(subject: _Subject) -> Result:
    lengths = {30: MAX_LENGTH, LONG_LENGTH - 1: LONG_LENGTH}
    return _each({length: _alone(subject, length, longest) for length, longest in lengths.items()})


def _alone(subject: _Subject, length: int, max_length: int) -> Result:
    model, items = subject.build(max_length), _ragged(5, length)
    times = _times(items)
    together = model(items, times)
    alone = torch.cat([model(row[None], time[None]) for row, time in zip(items, times, strict=True)])
    real = (items != 0)[..., None]
    return _close(together * real, alone * real)


def _each(found: dict[int, Result]) -> Result:
    """What was found at several lengths, as one."""
    details = [f"length {length}: {detail}" for length, (_, detail) in found.items()]
    return all(fine for fine, _ in found.values()), "; ".join(details)


def _gradients(subject: _Subject) -> Result:
    batches = {MAX_LENGTH: 8, LONG_LENGTH: 2}
    return _each({length: _reached(subject, length, batch) for length, batch in batches.items()})


def _reached(subject: _Subject, length: int, batch: int) -> Result:
    model = subject.build(length).train()
    items = _items(batch, length)
    hidden = model(items, _times(items))
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.requires_grad and not bool(_gradient(p).any())]
    broken = [n for n, p in model.named_parameters() if not bool(torch.isfinite(_gradient(p)).all())]
    detail = f"without gradient: {', '.join(dead) or 'none'}; not finite: {', '.join(broken) or 'none'}"
    return not dead and not broken, detail


def _extremes(subject: _Subject) -> Result:
    models = {length: subject.build(length) for length in (MAX_LENGTH, LONG_LENGTH)}
    batches = {"length 1": (models[MAX_LENGTH], _items(2, 1))}
    for length, model in models.items():
        blank = _items(3, length // 2 - 4)
        blank[1] = 0
        batches[f"length {length}"] = model, _items(2, length)
        batches[f"all-padding row of {blank.shape[1]}"] = model, blank
    bad = []
    for what, (model, items) in batches.items():
        model.zero_grad()
        hidden = model(items)
        hidden.square().sum().backward()
        tensors = [hidden, *(_gradient(p) for p in model.parameters())]
        if not all(bool(torch.isfinite(t).all()) for t in tensors):
            bad.append(what)
    return not bad, f"not finite at: {', '.join(bad) or 'none'} of {', '.join(batches)}"


def _determinism(subject: _Subject) -> Result:
    items = _items(4, 30)
    runs = []
    for _ in range(2):
        model = subject.build().train()
        torch.manual_seed(5)
        runs.append(model(items).detach())
    return _close(runs[0], runs[1], 0.0)


def _round_trip(subject: _Subject) -> Result:
    model = subject.build()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = subject.build(seed=1)
    other.load_state_dict(torch.load(file, weights_only=True))
    items = _items(3, 20)
    return _close(other(items), model(items), 0.0)


def _untouched(subject: _Subject) -> Result:
    """A forward pass changes neither its input nor, in evaluation, the weights and buffers."""
    model, items = subject.build(), _items(3, 20)
    before, weights = items.clone(), copy.deepcopy(model.state_dict())
    model(items)
    changed = [n for n, value in model.state_dict().items() if not torch.equal(value, weights[n])]
    same = torch.equal(items, before)
    return (
        same and not changed,
        f"input {'kept' if same else 'changed'}; weights changed: {', '.join(changed) or 'none'}",
    )


def _streaming(subject: _Subject) -> Result:
    """One by one gives what the full pass gives, also after a prefill, a save and load, and a regrouping of users."""
    # Cut inside the first chunk, then inside the third.
    return _each({length: _streamed(subject, length, length // 2 - 1) for length in (MAX_LENGTH, LONG_LENGTH)})


def _streamed(subject: _Subject, length: int, cut: int) -> Result:
    model, items = subject.build(length), _items(3, length)
    if not isinstance(model, StreamingModel):
        raise TypeError(f"{type(model).__name__} is not a StreamingModel")
    full = model(items)
    state = model.stream(3)
    stepped = [model.step(items[:, t], state) for t in range(cut)]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    prefilled, ahead = model.prefill(items[:, :cut])
    order = [2, 0, 1]
    regrouped = stack([select(ahead, [2]), select(ahead, [0, 1])])
    gaps = {
        "stepping": _largest(torch.stack(stepped, 1) - full[:, :cut]),
        "prefill": _largest(prefilled - full[:, :cut]),
        "after save and load": _largest(_continued(model, items[:, cut:], loaded) - full[:, cut:]),
        "after prefill and regrouping": _largest(_continued(model, items[order, cut:], regrouped) - full[order, cut:]),
        "after stepping": _largest(_continued(model, items[:, cut:], state) - full[:, cut:]),
    }
    scale = max(_largest(full), 1e-12)
    detail = ", ".join(f"{what} off by {gap / scale:.1e}" for what, gap in gaps.items())
    return all(gap <= 1e-4 * scale for gap in gaps.values()), f"{detail} of the largest, tolerance 0.0001"


def _continued(model: StreamingModel, items: Tensor, state: State) -> Tensor:
    return torch.stack([model.step(items[:, t], state) for t in range(items.shape[1])], 1)


def _cost(subject: _Subject) -> Result:
    """Declared against counted operations at two lengths, and the growth between them."""
    declared, counted = [], []
    for length in COST_LENGTHS:
        model = subject.build(max_length=length)
        declared.append(model.cost(2, length).operations)
        counted.append(counted_operations(model, _items(2, length)))
    ratios = [d / c if c else math.inf for d, c in zip(declared, counted, strict=True)]
    if math.inf in ratios:
        return False, "no operation was counted"
    span = math.log(COST_LENGTHS[1] / COST_LENGTHS[0])
    slopes = [math.log(values[1] / values[0]) / span for values in (declared, counted)]
    fine = all(abs(r - 1) <= COST_TOLERANCE for r in ratios) and abs(slopes[0] - slopes[1]) <= SLOPE_TOLERANCE
    detail = ", ".join(f"L={n}: declared/counted {r:.2f}" for n, r in zip(COST_LENGTHS, ratios, strict=True))
    return fine, f"{detail}; slope declared {slopes[0]:.2f}, counted {slopes[1]:.2f}"


def _cost_positive(subject: _Subject) -> Result:
    cost = subject.build().cost(2, MAX_LENGTH)
    values = (cost.operations, cost.bytes_moved, cost.state)
    return all(math.isfinite(v) and v > 0 for v in values), "operations {:.3g}, bytes {:.3g}, state {:.3g}".format(
        *values
    )


def _objective(subject: _Subject) -> Result:
    """The harness knows the objective, and the model can be trained on it."""
    objective = checked_objective(subject.build())
    return True, f"{objective.batch} under {objective.loss} unless the study says otherwise"


def _learns(subject: _Subject) -> Result:
    """Under its own objective and loss a model finds what first-order counts cannot."""
    model = subject.build(LEARNING_LENGTH, num_items=LEARNING_DIGITS**2, dropout=0.0)
    objective = checked_objective(model)
    accuracy, steps = learn(model)
    detail = f"HR@1 {accuracy:.2f} after {steps} steps of {objective.batch} under {objective.loss}"
    return accuracy >= LEARNING_ACCURACY, f"{detail}, {LEARNING_ACCURACY} wanted within {LEARNING_STEPS}"


_MODEL_CHECKS: dict[str, Callable[[_Subject], Result]] = {
    "shape": _shape,
    "objective": _objective,
    "padding-row": _padding_row,
    "bfloat16-autocast": _autocast,
    "causality": _causality,
    "right-padding": _padding,
    "batch-independence": _batch_independence,
    "gradients": _gradients,
    "extremes": _extremes,
    "determinism": _determinism,
    "state-dict": _round_trip,
    "no-side-effects": _untouched,
    "cost": _cost,
    "cost-finite": _cost_positive,
    "learns": _learns,
}
_STREAMING_CHECKS: dict[str, Callable[[_Subject], Result]] = {"streaming": _streaming}


def _fitted(kind: type[Scorer]) -> Scorer:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 20, size=60)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    events = random.integers(1, NUM_ITEMS - 5, size=int(offsets[-1])).astype(np.int32)
    scorer = kind()
    scorer.fit(StoredInteractions(events, offsets, NUM_ITEMS))
    return scorer


def _histories() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Five histories, from one event to fifteen; the last item of one was never seen in training."""
    lengths = np.array([1, 3, 15, 7, 11], dtype=np.int64)
    items = np.random.default_rng(1).integers(1, NUM_ITEMS + 1, size=(5, 15))
    items[1, 2] = NUM_ITEMS
    items[np.arange(15) >= lengths[:, None]] = 0
    return items, lengths


def _reference_shape(kind: type[Scorer]) -> Result:
    scores = _fitted(kind).scores(*_histories())
    return scores.shape == (5, NUM_ITEMS) and scores.dtype == np.float64, f"{list(scores.shape)} {scores.dtype}"


def _reference_finite(kind: type[Scorer]) -> Result:
    scores = _fitted(kind).scores(*_histories())
    return bool(np.isfinite(scores).all()) and float(np.ptp(scores)) > 0, f"{scores.min():.3g} … {scores.max():.3g}"


def _reference_independence(kind: type[Scorer]) -> Result:
    scorer, (items, lengths) = _fitted(kind), _histories()
    alone = np.concatenate([scorer.scores(items[[i]], lengths[[i]]) for i in range(len(items))])
    gap = float(np.abs(alone - scorer.scores(items, lengths)).max())
    return gap <= 1e-12, f"largest difference {gap:.1e}"


def _reference_padding(kind: type[Scorer]) -> Result:
    scorer, (items, lengths) = _fitted(kind), _histories()
    padded = np.pad(items, ((0, 0), (0, 6)))
    gap = float(np.abs(scorer.scores(padded, lengths) - scorer.scores(items, lengths)).max())
    return gap == 0.0, f"largest difference {gap:.1e}"


_REFERENCE_CHECKS: dict[str, Callable[[type[Scorer]], Result]] = {
    "shape": _reference_shape,
    "finite": _reference_finite,
    "batch-independence": _reference_independence,
    "right-padding": _reference_padding,
}
