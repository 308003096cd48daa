"""Real diagonal recurrence with a factor of its own at every step, as a chunked scan.

`h_t = a_t h_{t−1} + b_t` elementwise. Time is cut into chunks of C steps, all advanced together:

1. from a zero state, C multiply-adds give every chunk's end and C products its whole decay;
2. the ends obey the same recurrence on a sequence C times shorter, solved the same way;
3. from the true state before it, C multiply-adds give every chunk's states.

That is two multiply-adds and a product a step, and 1/C of that for every further level, whatever
the length, in about 3C log_C L vector operations. The factors differ between channels and steps, so
a matrix product inside a chunk would need C numbers a step where this reads one; and as only factors
in [0, 1] are ever multiplied, nothing grows and no logarithm is taken. A length that C does not
divide ends in fewer than C plain steps instead of padding.

In float32 on a CPU models/ops/scans/native.cpp takes one multiply-add a step instead, where it could
be built.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.build import accelerated
from models.ops.build.untraced import untraced
from models.ops.scans import native as native_scans

CHUNK = 8
# Up to this length C + C + C vector operations and the carries are no fewer than the steps themselves.
DIRECT = 32

_FUSED_MODULE = "fla.ops.hgrn"


def diagonal_scan(a: Tensor, b: Tensor) -> Tensor:
    """`h_t = a_t h_{t−1} + b_t` with `h_{−1} = 0`.

    Computed in float32 (float64 for float64 inputs), also under autocast. The backward pass is the
    same scan backwards in time, `λ_t = ∂h_t + a_{t+1} λ_{t+1}`; kept for it are a and h.

    Args:
        a: `[B, L, ...]` in [0, 1]; beyond 1 the states may grow without bound.
        b: `[B, L, ...]`, the shape of `a`.

    Returns:
        `[B, L, ...]` in the type of `b`.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if a.dim() < 2 or a.shape != b.shape or a.shape[1] < 1:
        raise ValueError(f"a and b must both be [B, L ≥ 1, ...], got {list(a.shape)} and {list(b.shape)}")
    working = torch.float64 if b.dtype == torch.float64 else torch.float32
    with torch.autocast(b.device.type, enabled=False):
        h = _diagonal_scan(a.to(working), b.to(working))
    return h.to(b.dtype)


def fused_diagonal_scan(log_a: Tensor, b: Tensor) -> Tensor:
    """`diagonal_scan` by the GPU kernel of flash-linear-attention; see `fused_is_available`.

    The kernel, `chunk_hgrn`, is HGRN's recurrence (Qin et al., NeurIPS 2023, equation 3). It wants
    logarithms, which also spares the gate that is all but closed its underflow.

    Args:
        log_a: `[B, L, N]`, log a_t ≤ 0.
        b: `[B, L, N]`.

    Returns:
        `[B, L, N]` in the type of `b`, computed in float32, also under autocast.
    """
    module = importlib.import_module(_FUSED_MODULE)
    with torch.autocast(b.device.type, enabled=False):
        h: Tensor = module.chunk_hgrn(b.float(), log_a.float())[0]
    return h.to(b.dtype)


def fused_is_available(device: torch.device) -> bool:
    """Whether flash-linear-attention is installed and the device is one that its kernel runs on."""
    return device.type == "cuda" and accelerated.is_usable(_FUSED_MODULE)


def scan_operations(length: int) -> float:
    """Operations of `scan` per channel and sequence, a multiply-add counting two."""
    chunks = length // CHUNK
    if length <= DIRECT:
        return 2.0 * length
    return chunks * (2.0 * CHUNK + 3.0 * (CHUNK - 1)) + scan_operations(chunks) + 2.0 * (length % CHUNK)


def scan(a: Tensor, b: Tensor, state: Tensor, out: Tensor, *, reverse: bool = False) -> None:
    """`h_t = a_t h_{t−1} + b_t` over dimension 1, from a given state, without autograd.

    Args:
        a: `[B, L, ...]`.
        b: `[B, L, ...]`.
        state: `[B, ...]`, what comes before the first step (`reverse`: after the last).
        out: `[B, L, ...]`, where h is written; may be `b`.
        reverse: From the last step to the first, `h_t = a_t h_{t+1} + b_t`.
    """
    length = b.shape[1]
    chunks = length // CHUNK
    rest = range(length)
    if length > DIRECT:
        body = chunks * CHUNK
        rest = range(length - body) if reverse else range(body, length)
        factors, inputs, states = (
            x.narrow(1, length - body if reverse else 0, body).view(-1, chunks, CHUNK, *x.shape[2:]).unbind(2)
            for x in (a, b, out)
        )
        order = range(CHUNK - 1, -1, -1) if reverse else range(CHUNK)
        ends, decay = inputs[order[0]].clone(), factors[order[0]].clone()
        for i in order[1:]:
            torch.addcmul(inputs[i], factors[i], ends, out=ends)
            decay.mul_(factors[i])
        scan(decay, ends, state, ends, reverse=reverse)
        before = state[:, None]
        incoming = torch.cat((ends[:, 1:], before) if reverse else (before, ends[:, :-1]), dim=1)
        for i in order:
            incoming = torch.addcmul(inputs[i], factors[i], incoming, out=states[i])
        state = ends[:, 0 if reverse else -1]
    for t in reversed(rest) if reverse else rest:
        state = torch.addcmul(b[:, t], a[:, t], state, out=out[:, t])


class _DiagonalScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.native = b.numel() > 0 and native_scans.takes(b)
        if ctx.native:
            h = native_scans.real_forward(a, b)
        else:
            h = torch.empty_like(b)
            h[:, 0] = b[:, 0]
            scan(a[:, 1:], b[:, 1:], h[:, 0], h[:, 1:])
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        if ctx.native:
            return native_scans.real_backward(a, h, gradient)
        adjoint, a_gradient = torch.empty_like(h), torch.empty_like(a)
        adjoint[:, -1] = gradient[:, -1]
        scan(a[:, 1:], gradient[:, :-1], adjoint[:, -1], adjoint[:, :-1], reverse=True)
        a_gradient[:, 0] = 0
        torch.mul(adjoint[:, 1:], h[:, :-1], out=a_gradient[:, 1:])
        return a_gradient, adjoint


# It may be native; traced, its few hundred vector operations would be compiled anew for every length.
_diagonal_scan: Callable[..., Tensor] = untraced(_DiagonalScan.apply)
