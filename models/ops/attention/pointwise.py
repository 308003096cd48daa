"""Causal pointwise attention with relative biases (HSTU), in chunks of queries.

No softmax normalises the weights, so a chunk of queries is finished on its own; the backward pass
computes a chunk's weights again instead of keeping them. Memory is a chunk's rows × L and not L × L,
and chunks end at the diagonal, so that the half above it is hardly computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SECONDS_PER_STEP = 0.301
_LEAST_ROWS, _MOST_ROWS, _MOST_CHUNKS = 128, 1024, 16


def pointwise_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position_bias: Tensor,
    time_bias: Tensor | None = None,
    timestamps: Tensor | None = None,
) -> Tensor:
    """`o_i = Σ_{j≤i} SiLU(q_i·k_j + p[i − j] + w[b(t_i − t_j)]) v_j` (Zhai et al., 2024, equation 2).

    `b(Δ) = min(⌊ln(max(1, |Δ|)) / 0.301⌋, N)`. The division by n of the equation is left out: a
    norm follows. Weights are computed in the type of the inputs, gradients are summed in float32 at
    least.

    Args:
        query: `[B, H, L, E]`.
        key: `[B, H, L, E]`.
        value: `[B, H, L, E]`.
        position_bias: `[n]`, n ≥ L, p by distance.
        time_bias: `[N + 1]`, w by bucket.
        timestamps: `[B, L]` int64 seconds; without them, or without `time_bias`, w is left out.

    Returns:
        `[B, H, L, E]` in the type of `query`.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if query.dim() != 4 or query.shape != key.shape or query.shape != value.shape or query.shape[2] < 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (query, key, value))
        raise ValueError(f"query, key and value must all be [B, H, L, E] with L ≥ 1, got {shapes}")
    batch, _, length, _ = query.shape
    if position_bias.dim() != 1 or len(position_bias) < length:
        raise ValueError(f"position_bias must be [n] with n ≥ {length}, got {list(position_bias.shape)}")
    if timestamps is not None and timestamps.shape != (batch, length):
        raise ValueError(f"timestamps must be [{batch}, {length}], got {list(timestamps.shape)}")
    if timestamps is None or time_bias is None:
        time_bias = timestamps = None
    with torch.autocast(query.device.type, enabled=False):
        return _pointwise(query, key.to(query.dtype), value.to(query.dtype), position_bias, time_bias, timestamps)


def time_buckets(first: Tensor, second: Tensor, largest: int) -> Tensor:
    """`min(⌊ln(max(1, |t − t'|)) / 0.301⌋, N)` of int64 seconds, broadcast; int64."""
    steps = (first - second).abs_().clamp_(min=1).to(torch.float32).log_().div_(SECONDS_PER_STEP)
    return steps.long().clamp_(max=largest)


def weights_computed(length: int) -> int:
    """Weights a head and sequence: the lower triangle, and what the chunks on the diagonal add to it."""
    return sum((end - start) * end for start, end in _chunks(length))


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 query of each chunk: few kernels at any length, bounded memory."""
    rows = min(max(_LEAST_ROWS, -(-length // _MOST_CHUNKS)), _MOST_ROWS)
    for start in range(0, length, rows):
        yield start, min(start + rows, length)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        position_bias: Tensor,
        time_bias: Tensor | None,
        timestamps: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, position_bias, time_bias, timestamps)
        q, k, v = (tensor.flatten(0, 1) for tensor in (query, key, value))
        parts = []
        for start, end in _chunks(query.shape[2]):
            scores, _ = _scores(q, k, position_bias, time_bias, timestamps, start, end)
            weights = _below_diagonal(functional.silu(scores, inplace=True), start)
            parts.append(torch.bmm(weights, v[:, :end]))
        return torch.cat(parts, dim=1).view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, None]:
        query, key, value, position_bias, time_bias, timestamps = ctx.saved_tensors
        batch, heads, length, _ = query.shape
        working = torch.promote_types(query.dtype, torch.float32)
        q, k, v, g = (tensor.flatten(0, 1) for tensor in (query, key, value, gradient))
        k_gradient, v_gradient = torch.zeros_like(k, dtype=working), torch.zeros_like(v, dtype=working)
        p_gradient = torch.zeros_like(position_bias, dtype=working)
        w_gradient = None if time_bias is None else torch.zeros_like(time_bias, dtype=working)
        q_parts = []
        for start, end in _chunks(length):
            scores, buckets = _scores(q, k, position_bias, time_bias, timestamps, start, end)
            rows = g[:, start:end]
            slope = torch.ops.aten.silu_backward(torch.bmm(rows, v[:, :end].transpose(1, 2)), scores)
            slope = _below_diagonal(slope, start)
            weights = _below_diagonal(functional.silu(scores, inplace=True), start)
            v_gradient[:, :end] += torch.bmm(weights.transpose(1, 2), rows)
            k_gradient[:, :end] += torch.bmm(slope.transpose(1, 2), q[:, start:end])
            q_parts.append(torch.bmm(slope, k[:, :end]))
            p_gradient[:end] += _by_distance(slope.sum(0, dtype=working))
            if w_gradient is not None and buckets is not None:
                by_pair = slope.view(batch, heads, end - start, end).sum(1, dtype=working)
                w_gradient += _by_bucket(by_pair, buckets, len(w_gradient))
        return (
            torch.cat(q_parts, dim=1).view(query.shape),
            k_gradient.to(key.dtype).view(key.shape),
            v_gradient.to(value.dtype).view(value.shape),
            p_gradient.to(position_bias.dtype),
            None if w_gradient is None or time_bias is None else w_gradient.to(time_bias.dtype),
            None,
        )


# torch leaves `apply` untyped.
_pointwise: Callable[..., Tensor] = _Pointwise.apply


def _scores(
    q: Tensor,
    k: Tensor,
    position_bias: Tensor,
    time_bias: Tensor | None,
    timestamps: Tensor | None,
    start: int,
    end: int,
) -> tuple[Tensor, Tensor | None]:
    """`[BH, R, end]` scores of the queries start … end − 1, and their `[B, R, end]` time buckets."""
    scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
    # Windows of the table, read backwards: row i holds p[i], p[i − 1], …; what lies above the diagonal is masked.
    windows = functional.pad(position_bias[:end].to(q.dtype), (end - start - 1, 0)).unfold(0, end, 1)
    bias = windows.flip(1)
    if time_bias is None or timestamps is None:
        return scores.add_(bias), None
    buckets = time_buckets(timestamps[:, start:end, None], timestamps[:, None, :end], len(time_bias) - 1)
    bias = bias + time_bias.to(q.dtype)[buckets]
    scores.view(len(timestamps), -1, end - start, end).add_(bias[:, None])
    return scores, buckets


def _below_diagonal(matrix: Tensor, start: int) -> Tensor:
    """Zero in place what queries from `start` on see of their future."""
    matrix[:, :, start:].tril_()
    return matrix


def _by_distance(pairs: Tensor) -> Tensor:
    """Sums along the diagonals of `[R, end]`, whose last column is the last row's own position: `[end]`.

    Each row of the mirrored matrix is shifted one to the right of the row above, by padding rows
    and reading them with one column less; then the diagonals are columns.
    """
    rows, end = pairs.shape
    padded = functional.pad(pairs.flip(1), (0, rows)).flatten()
    return padded[: rows * (end + rows - 1)].view(rows, end + rows - 1).sum(0)[rows - 1 :]


def _by_bucket(pairs: Tensor, buckets: Tensor, size: int) -> Tensor:
    """Sums of `[B, R, end]` by bucket, `[size]`; row by row first, so that few additions collide on a GPU."""
    sums = torch.zeros(*pairs.shape[:2], size, dtype=pairs.dtype, device=pairs.device)
    return sums.scatter_add_(2, buckets, pairs).sum((0, 1))
