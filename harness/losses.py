"""Losses over hidden states and a tied item table, owned by the harness: models share them.

The table has row 0 for padding and, in models that mask, one row more than V + 1; neither is ever
a candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Large enough for fast matrix products, small enough to stay near the cache and off the peak.
_LOGITS_PER_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 25}
_LEAST_POSITIONS_PER_CHUNK = 64

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int, chunk: int | None = None
) -> Tensor:
    """Mean cross-entropy over the whole catalogue, without N × V numbers in memory.

    Because the loss is the last thing computed, its gradient is known in the forward pass:
    softmax minus one-hot, chunk by chunk, so that no logits are kept for the backward pass.
    Computed in float32 at least, also under autocast.

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
    loss: Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, num_items, rows)  # type: ignore[no-untyped-call]
    return loss


def sampled_softmax(hidden: Tensor, weight: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Mean cross-entropy of the target against negatives that all positions share.

    A negative that happens to be the target is masked for that position. Negatives are taken as
    uniform, so no correction for their frequency applies.

    Args:
        hidden: `[N, D]` hidden states of real positions only.
        weight: `[R, D]` item table.
        targets: `[N]` int64 rows of the table.
        negatives: `[K]` int64 rows of the table.

    Returns:
        The scalar loss.

    Raises:
        ValueError: No positions, or shapes that do not fit.
    """
    _check(hidden, weight, targets, weight.shape[0] - 1)
    positive = (hidden * weight[targets]).sum(dim=-1, keepdim=True)
    negative = hidden @ weight[negatives].T
    negative = negative.masked_fill(targets[:, None] == negatives, -torch.inf)
    logits = torch.cat([positive, negative.to(positive.dtype)], dim=1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


LOSSES: dict[str, Loss] = {"cross-entropy": chunked_cross_entropy}


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass; see `chunked_cross_entropy`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int, chunk: int) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
            items = weight.detach()[1 : num_items + 1].to(dtype)
            states = hidden.detach().to(dtype)
            states_gradient = torch.empty_like(states)
            weight_gradient = torch.zeros(weight.shape, dtype=dtype, device=weight.device)
            items_gradient = weight_gradient[1 : num_items + 1]
            total = torch.zeros((), dtype=dtype, device=hidden.device)
            share = 1.0 / len(states)
            for start in range(0, len(states), chunk):
                part = states[start : start + chunk]
                index = (targets[start : start + chunk] - 1)[:, None]
                logits = part @ items.T
                normaliser = logits.logsumexp(dim=1, keepdim=True)
                total += (normaliser - logits.gather(1, index)).sum()
                logits -= normaliser
                gradient = logits.exp_()
                gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1.0))
                gradient *= share
                torch.mm(gradient, items, out=states_gradient[start : start + chunk])
                items_gradient.addmm_(gradient.T, part)
        ctx.save_for_backward(states_gradient.to(hidden.dtype), weight_gradient.to(weight.dtype))
        return total * share

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        states_gradient, weight_gradient = ctx.saved_tensors
        return states_gradient * gradient, weight_gradient * gradient, None, None, None


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, num_items: int) -> None:
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or not len(targets):
        raise ValueError(f"hidden must be [N, D] and targets [N] with N ≥ 1, not {hidden.shape} and {targets.shape}")
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[1] or weight.shape[0] <= num_items:
        raise ValueError(f"weight must be [R > {num_items}, {hidden.shape[1]}], not {weight.shape}")
