"""Complex diagonal linear recurrence as a chunked scan of matrix products.

Inside a chunk of C steps the recurrence is a product with the lower-triangular matrix of the powers
λ^{t−s}; between chunks it is the same recurrence with λ^C on a sequence C times shorter, solved the
same way. The cost is linear in the length, nothing loops over time, and since |λ| ≤ 1 no power
grows. Complex numbers are pairs of real planes, so that only real matrix products are used.

In float32 on a CPU models/ops/scans/native.cpp takes one complex multiply-add a step instead, its
state in float64, where it could be built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.ops.build.untraced import untraced
from models.ops.scans import native as native_scans

# Forward + backward of 128 states over 8 × 1,024 steps on one core: 25 ms with 16, 31 with 32, 41 with 64.
CHUNK = 16


def linear_recurrence(b: Tensor, log_modulus: Tensor, angle: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """`h_t = λ_n h_{t−1} + b_t` with `h_{−1} = 0` and `λ_n = exp(log_modulus_n + i·angle_n)`.

    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        b: `[N, 2, B, L]`, real plane first, in any memory layout. The native scan (`native_scans.takes`) is
            best served with `[B, L, N, 2]` in memory and needs a copy of any other; torch with this order.
        log_modulus: `[N]`, log |λ| ≤ 0.
        angle: `[N]`, arg λ in radians.
        chunk: Steps C per chunk, at least 2; about 8C operations a state and step. The native scan
            has no chunks.

    Returns:
        `[N, 2, B, L]` in the type of `b`, in memory as what ran likes it.

    Raises:
        ValueError: Shapes that do not fit, or a chunk below 2.
    """
    if b.dim() != 4 or b.shape[1] != 2 or b.shape[3] < 1:
        raise ValueError(f"b must be [N, 2, B, L] with L ≥ 1, got {list(b.shape)}")
    for name, vector in (("log_modulus", log_modulus), ("angle", angle)):
        if vector.shape != b.shape[:1]:
            raise ValueError(f"{name} must be [{b.shape[0]}], got {list(vector.shape)}")
    if chunk < 2:
        raise ValueError(f"chunk {chunk} must be at least 2")
    working = torch.float64 if b.dtype == torch.float64 else torch.float32
    run = _opaque_recurrence if b.device.type == "cpu" else _recurrence
    with torch.autocast(b.device.type, enabled=False):
        h = run(b.to(working), log_modulus, angle, chunk)
    return h.to(b.dtype)


def recurrence_operations(length: int, chunk: int = CHUNK) -> float:
    """Operations of the scan's products per state and sequence: 8 a step, level and chunk element."""
    if length <= chunk:
        return 8.0 * length * length
    chunks = -(-length // chunk)
    return 8.0 * chunks * chunk * (chunk + 1) + recurrence_operations(chunks, chunk)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, b: Tensor, log_modulus: Tensor, angle: Tensor, chunk: int) -> Tensor:
        ctx.native = b.numel() > 0 and native_scans.takes(b)
        if ctx.native:
            h = native_scans.complex_forward(b, log_modulus, angle)
        else:
            h = _scan(b.contiguous(), log_modulus.double(), angle.double(), chunk, reverse=False)
        ctx.save_for_backward(h, log_modulus, angle)
        ctx.chunk = chunk
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        h, log_modulus, angle = ctx.saved_tensors
        modulus, phase = log_modulus.double(), angle.double()
        # The adjoint obeys the same recurrence backwards in time with the conjugate of λ.
        if ctx.native:
            adjoint, real, imaginary = native_scans.complex_backward(h, gradient, log_modulus, angle)
        else:
            adjoint = _scan(gradient.contiguous(), modulus, -phase, ctx.chunk, reverse=True)
            later, earlier = adjoint[..., 1:], h[..., :-1]
            real = (later * earlier).sum((1, 2, 3))
            imaginary = (later[:, 0] * earlier[:, 1]).sum((1, 2)) - (later[:, 1] * earlier[:, 0]).sum((1, 2))
        # With S = λ Σ conj(adjoint_t) h_{t−1}: ∂/∂log|λ| = Re S and ∂/∂arg λ = −Im S.
        scale = modulus.exp()
        cosine, sine = scale * phase.cos(), scale * phase.sin()
        modulus_gradient = (cosine * real - sine * imaginary).to(log_modulus.dtype)
        angle_gradient = -(cosine * imaginary + sine * real).to(angle.dtype)
        return adjoint, modulus_gradient, angle_gradient, None


# torch leaves `apply` untyped.
_recurrence: Callable[..., Tensor] = _Recurrence.apply
_opaque_recurrence: Callable[..., Tensor] = untraced(_Recurrence.apply)


def _scan(b: Tensor, log_modulus: Tensor, angle: Tensor, chunk: int, *, reverse: bool) -> Tensor:
    """The recurrence over the last dimension, forwards or backwards in time; parameters float64."""
    states, _, batch, length = b.shape
    if length <= chunk:
        table = _powers(_lags(length, reverse, b.device), log_modulus, angle, b.dtype)
        return _combine(_multiply(b.reshape(states, -1, length), table), b.shape)
    chunks = -(-length // chunk)
    padded = functional.pad(b, (0, chunks * chunk - length)) if length % chunk else b
    table = _powers(_lags(chunk, reverse, b.device), log_modulus, angle, b.dtype)
    products = _multiply(padded.reshape(states, -1, chunk), table)
    blocks = products.view(states, 2, batch, chunks, 2, chunk)
    edge = 0 if reverse else chunk - 1
    ends = _combine(blocks[..., edge].reshape(states, -1, 2), (states, 2, batch, chunks))
    carry = _scan(ends, chunk * log_modulus, chunk * angle, chunk, reverse=reverse)
    incoming = functional.pad(carry[..., 1:], (0, 1)) if reverse else functional.pad(carry[..., :-1], (1, 0))
    steps = torch.arange(1, chunk + 1, device=b.device)
    decay = _powers((steps.flip(0) if reverse else steps)[None], log_modulus, angle, b.dtype)
    products.baddbmm_(incoming.reshape(states, -1, 1), decay.view(states, 1, -1))
    return _combine(products, (states, 2, batch, chunks * chunk))[..., :length]


def _lags(length: int, reverse: bool, device: torch.device) -> Tensor:
    """`[L, L]` number of steps from source (row) to target (column), negative where it has no effect."""
    steps = torch.arange(length, device=device)
    return steps[:, None] - steps if reverse else steps - steps[:, None]


def _powers(lags: Tensor, log_modulus: Tensor, angle: Tensor, dtype: torch.dtype) -> Tensor:
    """`[N, R, 2, C]` real and imaginary planes of λ^lag, zero for negative lags, of `[R, C]` lags."""
    modulus = torch.where(lags >= 0, torch.exp(log_modulus[:, None, None] * lags.clamp(min=0)), 0.0)
    phase = angle[:, None, None] * lags
    return torch.stack((modulus * phase.cos(), modulus * phase.sin()), dim=2).to(dtype)


def _multiply(rows: Tensor, table: Tensor) -> Tensor:
    """`[N, R, C]` rows of either plane times `[N, C, 2, C]`: both planes' products, `[N, R, 2C]`."""
    return torch.bmm(rows, table.reshape(table.shape[0], table.shape[1], -1))


def _combine(products: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Complex from real products: `re·re − im·im` and `re·im + im·re`, as `[N, 2, B, L]`."""
    states = products.shape[0]
    pieces = products.view(states, 2, -1, 2, products.shape[2] // 2)
    real = pieces[:, 0, :, 0] - pieces[:, 1, :, 1]
    imaginary = pieces[:, 0, :, 1] + pieces[:, 1, :, 0]
    return torch.stack((real, imaginary), dim=1).view(shape)
