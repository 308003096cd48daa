"""Losses over hidden states and a tied item table, owned by the harness: models share them.

The table has row 0 for padding and, in models that mask, one row more than V + 1; neither is ever
a candidate. No loss but the full cross-entropy computes N × V numbers, and that one never holds
them at once. A loss is the last thing computed, so where that saves memory its gradient is found in
the forward pass, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.records.spec import LossSpec
from harness.study.loss import filled

# Large enough for fast matrix products, small enough to stay near the cache and off the peak.
_LOGITS_PER_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 25}
_LEAST_POSITIONS_PER_CHUNK = 64
# Where either way took as long: one thread, D = 64, K = 256 and 128.
_DENSE_ROWS_PER_CANDIDATE = 24


@dataclass(frozen=True)
class Scoring:
    """How an item is scored, alike in the loss and in the ranking.

    ⟨h, e⟩ / temperature, with both sides divided by their Euclidean norm where `normalise` is set.

    Attributes:
        normalise: Cosines instead of dot products.
        temperature: Above 0. A common factor of all scores: it changes the loss, never a ranking.
    """

    normalise: bool = False
    temperature: float = 1.0

    def states(self, hidden: Tensor) -> Tensor:
        """Hidden states `[N, D]` as they enter the product; float32 at least where they change."""
        if self.normalise:
            hidden = functional.normalize(_precise(hidden), dim=-1)
        return hidden if self.temperature == 1.0 else _precise(hidden) / self.temperature

    def table(self, weight: Tensor) -> Tensor:
        """The item table `[R, D]` as it enters the product; a zero row stays zero."""
        return functional.normalize(_precise(weight), dim=-1) if self.normalise else weight


@dataclass(frozen=True)
class Criterion:
    """A loss with its options: what the training loop calls.

    Attributes:
        name: `cross-entropy`, `sampled-softmax`, `bce` or `gbce`.
        negatives: Sampled items K: of the whole batch under `sampled-softmax`, of every position
            under `bce` and `gbce`; none under `cross-entropy`.
        calibration: t of gBCE; 0 is plain BCE.
        scoring: How an item is scored.
    """

    name: str
    negatives: int = 0
    calibration: float = 0.0
    scoring: Scoring = field(default_factory=Scoring)

    @classmethod
    def of(cls, spec: LossSpec, declared: str) -> Criterion:
        """The loss in a cell's spec.

        Args:
            spec: The loss that the cell names.
            declared: Loss that the model's objective names: the one meant by `declared`.
        """
        chosen = filled(declared) if spec.name == "declared" else spec
        return cls(
            name=chosen.name,
            negatives=chosen.negatives or 0,
            calibration=chosen.calibration or 0.0,
            scoring=Scoring(bool(chosen.normalise), chosen.temperature or 1.0),
        )

    def __call__(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int, generator: torch.Generator
    ) -> Tensor:
        """The mean loss over the targets, in float32 at least, also under autocast.

        Args:
            hidden: `[N, D]` hidden states of the positions with a target.
            weight: `[R, D]` item table, R > V.
            targets: `[N]` int64, 1 … V.
            num_items: Catalogue size V.
            generator: Draws the negatives; on the device of `hidden`.

        Returns:
            The scalar loss. It can be differentiated once.

        Raises:
            ValueError: No positions, shapes that do not fit, or no item to be a negative.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            states, table = self.scoring.states(hidden), self.scoring.table(weight)
            return LOSSES[self.name](self, states, table, targets, num_items, generator)


def _cross_entropy(
    criterion: Criterion,
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    num_items: int,
    generator: torch.Generator,
) -> Tensor:
    return chunked_cross_entropy(states, table, targets, num_items)


def _sampled_softmax(
    criterion: Criterion,
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    num_items: int,
    generator: torch.Generator,
) -> Tensor:
    shape = (criterion.negatives,)
    shared = torch.randint(1, num_items + 1, shape, generator=generator, device=states.device)
    return sampled_softmax(_precise(states), _precise(table), targets, shared)


def _binary_cross_entropy(
    criterion: Criterion,
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    num_items: int,
    generator: torch.Generator,
) -> Tensor:
    drawn = other_items(targets, criterion.negatives, num_items, generator)
    power = gbce_power(criterion.negatives, num_items, criterion.calibration)
    return binary_cross_entropy(states, table, targets, drawn, power)


# A cell's source digest covers the entry of its own loss alone.
LOSSES: dict[str, Callable[[Criterion, Tensor, Tensor, Tensor, int, torch.Generator], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "sampled-softmax": _sampled_softmax,
    "bce": _binary_cross_entropy,
    "gbce": _binary_cross_entropy,
}


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int, chunk: int | None = None
) -> Tensor:
    """Mean cross-entropy over the whole catalogue, without N × V numbers in memory.

    Its gradient, softmax minus one-hot, is accumulated chunk by chunk in the forward pass, so that
    no logits are kept for the backward pass. Computed in float32 at least, also under autocast.

    Args:
        hidden: `[N, D]` hidden states of real positions only.
        weight: `[R, D]` item table, R > V; rows 1 … V are the candidates.
        targets: `[N]` int64, 1 … V.
        num_items: Catalogue size V.
        chunk: Positions per chunk; default: by size of the logits.

    Returns:
        The scalar loss. It can be differentiated once.

    Raises:
        ValueError: No positions, or shapes that do not fit.
    """
    _check(hidden, weight, targets, num_items)
    rows = chunk or max(_LEAST_POSITIONS_PER_CHUNK, _LOGITS_PER_CHUNK[hidden.device.type] // num_items)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        states, table = _common(hidden, weight)
        items = table[1 : num_items + 1]
        states_gradient, weight_gradient = torch.empty_like(states), torch.zeros_like(table)
        items_gradient = weight_gradient[1 : num_items + 1]
        total = states.new_zeros(())
        share = 1.0 / len(states)
        for start in range(0, len(states), rows):
            part, index = states[start : start + rows], targets[start : start + rows]
            own = table[index]
            logits = part @ items.T
            weights, scale, normaliser = _softmax(logits)
            total += (normaliser - (part * own).sum(dim=1)).sum()
            # Softmax less one-hot, never written out: rows are scaled, and targets taken off, behind the products.
            scale = scale[:, None] * share
            torch.mm(weights, items, out=states_gradient[start : start + rows]).mul_(scale).sub_(own, alpha=share)
            items_gradient.addmm_(weights.T, part * scale)
            weight_gradient.index_add_(0, index, part, alpha=-share)
    return _with_gradients(hidden, weight, total * share, states_gradient, weight_gradient)


def _softmax(logits: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of e^(logits − their largest), in place; what makes them a softmax; and the logarithm of the denominator.

    Args:
        logits: `[N, V]`; overwritten.
        other: `[N]` one more logit a row, which counts in the denominator.
    """
    largest = logits.amax(dim=1)
    if other is not None:
        largest = torch.maximum(largest, other)
    weights = logits.sub_(largest[:, None]).exp_()
    total = weights.sum(dim=1)
    if other is not None:
        total += (other - largest).exp_()
    return weights, total.reciprocal(), largest + total.log()


def sampled_softmax(
    hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor, chunk: int | None = None
) -> Tensor:
    """Mean cross-entropy of the target against negatives that all positions share.

    A negative that happens to be the target is masked for that position. Negatives are taken as
    uniform, so no correction for their frequency applies. Computed in float32 at least, also under
    autocast.

    Args:
        hidden: `[N, D]` hidden states of real positions only.
        weight: `[R, D]` item table.
        targets: `[N]` int64 rows of the table.
        negatives: `[K]` int64 rows of the table.
        chunk: Positions per chunk; default: by size of the logits.

    Returns:
        The scalar loss. It can be differentiated once.

    Raises:
        ValueError: No positions, or shapes that do not fit.
    """
    _check(hidden, weight, targets, weight.shape[0] - 1)
    rows = chunk or max(_LEAST_POSITIONS_PER_CHUNK, _LOGITS_PER_CHUNK[hidden.device.type] // (len(negatives) + 1))
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        states, table = _common(hidden, weight)
        states_gradient, weight_gradient = torch.empty_like(states), torch.zeros_like(table)
        shared, shared_gradient = table[negatives], torch.zeros_like(table[negatives])
        total = states.new_zeros(())
        share = 1.0 / len(states)
        for start in range(0, len(states), rows):
            part, index = states[start : start + rows], targets[start : start + rows]
            own = table[index]
            positive = (part * own).sum(dim=1)
            logits = part @ shared.T
            logits.masked_fill_(index[:, None] == negatives, -torch.inf)
            weights, scale, normaliser = _softmax(logits, positive)
            total += (normaliser - positive).sum()
            scale = scale[:, None] * share
            pull = ((positive - normaliser).exp_() - 1)[:, None] * share
            torch.mm(weights, shared, out=states_gradient[start : start + rows]).mul_(scale).addcmul_(own, pull)
            shared_gradient.addmm_(weights.T, part * scale)
            weight_gradient.index_add_(0, index, part * pull)
        weight_gradient.index_add_(0, negatives, shared_gradient)
    return _with_gradients(hidden, weight, total * share, states_gradient, weight_gradient)


def binary_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    negatives: Tensor,
    power: float = 1.0,
    chunk: int | None = None,
) -> Tensor:
    """Mean binary cross-entropy of every target and its own negatives.

        −1/(K + 1) · [β log σ(s⁺) + Σ_k log(1 − σ(s⁻_k))],    mean over the positions

    With β = 1 this is BCE; with β < 1 it is the generalised BCE of gSASRec (Petrov and Macdonald,
    RecSys 2023), whose log σ(s⁺)^β is taken as β log σ(s⁺), which needs no double precision. The
    N × K scored rows, or the N × R scores of a table that is not much larger, exist a chunk at a
    time. Computed in float32 at least, also under autocast.

    Args:
        hidden: `[N, D]` hidden states of real positions only.
        weight: `[R, D]` item table.
        targets: `[N]` int64 rows of the table.
        negatives: `[N, K]` int64 rows of the table, none of them its position's target.
        power: β, from `gbce_power`.
        chunk: Positions per chunk; default: by size of the gathered rows.

    Returns:
        The scalar loss. It can be differentiated once.

    Raises:
        ValueError: No positions, or shapes that do not fit.
    """
    _check(hidden, weight, targets, weight.shape[0] - 1)
    if negatives.ndim != 2 or len(negatives) != len(targets) or not negatives.shape[1]:
        raise ValueError(f"negatives must be [{len(targets)}, K] with K ≥ 1, not {negatives.shape}")
    candidates = torch.cat([targets[:, None], negatives], dim=1)
    count, width = candidates.shape[1], hidden.shape[1]
    # Scores of the whole table, three fast products, cost less than so many gathered and scattered rows.
    dense = len(weight) <= _DENSE_ROWS_PER_CANDIDATE * count
    rows = chunk or max(1, _LOGITS_PER_CHUNK[hidden.device.type] // (len(weight) if dense else count * width))
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        states, table = _common(hidden, weight)
        states_gradient, weight_gradient = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        share = 1.0 / candidates.numel()
        for start in range(0, len(states), rows):
            part, index = states[start : start + rows], candidates[start : start + rows]
            if dense:
                logits = (part @ table.T).gather(1, index)
            else:
                items = table[index]
                logits = torch.bmm(items, part[:, :, None]).squeeze(2)
            total += power * functional.softplus(-logits[:, 0]).sum() + functional.softplus(logits[:, 1:]).sum()
            gradient = logits.sigmoid()
            gradient[:, 0] = power * (gradient[:, 0] - 1)
            gradient *= share
            if dense:
                scores = part.new_zeros(len(part), len(table)).scatter_add_(1, index, gradient)
                torch.mm(scores, table, out=states_gradient[start : start + rows])
                weight_gradient.addmm_(scores.T, part)
                continue
            states_gradient[start : start + rows] = torch.bmm(gradient[:, None, :], items).squeeze(1)
            outer = gradient[:, :, None] * part[:, None, :]
            weight_gradient.index_add_(0, index.flatten(), outer.flatten(0, 1))
    return _with_gradients(hidden, weight, total * share, states_gradient, weight_gradient)


def gbce_power(negatives: int, num_items: int, calibration: float) -> float:
    """β = α (t (1 − 1/α) + 1/α) with α = K / (V − 1) (Petrov and Macdonald, gSASRec, RecSys 2023).

    Args:
        negatives: Negatives per position K.
        num_items: Catalogue size V.
        calibration: t: 0 gives 1, plain BCE; 1 gives the sampling rate α, which undoes the
            overconfidence that sampling brings.
    """
    rate = min(1.0, negatives / max(1, num_items - 1))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def other_items(targets: Tensor, count: int, num_items: int, generator: torch.Generator) -> Tensor:
    """`[N, count]` items drawn uniformly, with replacement, from all but each position's target.

    Raises:
        ValueError: A catalogue of one item.
    """
    if num_items < 2:
        raise ValueError("a catalogue of one item has no negatives; use loss 'cross-entropy'")
    drawn = torch.randint(1, num_items, (len(targets), count), generator=generator, device=targets.device)
    return drawn + (drawn >= targets[:, None])


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients were found with it."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, loss: Tensor, hidden_gradient: Tensor, weight_gradient: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * gradient, weight_gradient * gradient, None, None, None


def _with_gradients(
    hidden: Tensor, weight: Tensor, loss: Tensor, hidden_gradient: Tensor, weight_gradient: Tensor
) -> Tensor:
    connected: Tensor = _KnownGradients.apply(  # type: ignore[no-untyped-call]
        hidden, weight, loss, hidden_gradient.to(hidden.dtype), weight_gradient.to(weight.dtype)
    )
    return connected


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _common(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    return hidden.to(dtype), weight.to(dtype)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int) -> None:
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or not len(targets):
        raise ValueError(f"hidden must be [N, D] and targets [N] with N ≥ 1, not {hidden.shape} and {targets.shape}")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[1] or weight.shape[0] <= num_items:
        raise ValueError(f"weight must be [R > {num_items}, {hidden.shape[1]}], not {weight.shape}")
