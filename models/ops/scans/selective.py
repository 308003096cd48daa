"""Mamba's selective scan (Gu and Dao, 2023, algorithm 2) with bounded memory, in plain PyTorch.

    h_t = exp(δ_t A) ⊙ h_{t−1} + (δ_t x_t) ⊗ B_t,    y_t = h_t C_t + D ⊙ x_t

for every channel with N states and zero-order hold in A, Euler's step in B, as the paper's code
has it. All states at once would be [B, L, E, N], N times the activations; here they exist for one
slab at a time, consecutive steps of some sequences. The forward pass keeps the state before every
slab, the backward pass visits the slabs in reverse and computes their states again. Inside a slab
time is parallel (models/ops/scans/diagonal.py). A slab holds `SLAB_STATES` states: few sequences
where there are many, at least `MIN_STEPS` steps, so their number grows with the work.

Memory beside inputs, outputs and their gradients, float32: 4·B·E·N·⌈L/T⌉ bytes kept for the
backward pass, with T steps a slab, and three slabs while it runs. At B = 32, L = 2,048, E = 128,
N = 32 on a CPU T is 16: 67 MB kept and 3 MB at work, where all states, decays and products would
be 3.2 GB.

In float32 on a CPU the scan is models/ops/scans/native.cpp, where it could be built: the states of a
few channels stay in the first cache from step to step, none of them is written in the forward pass
but every 16th, and the backward pass computes a slab of 16 steps again while it is in the cache.
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
from models.ops.scans.diagonal import scan, scan_operations

# States a slab holds: what about stays in a core's cache (on one core 2^17 … 2^19 take the same time
# at B = 1 … 16), or what fills a GPU; that value is a prediction, not measured.
SLAB_STATES = {"cpu": 2**18, "cuda": 2**25}
MIN_STEPS = 16

_FUSED_MODULE = "mamba_ssm.ops.selective_scan_interface"


def selective_scan(
    x: Tensor, delta: Tensor, rates: Tensor, write: Tensor, read: Tensor, skip: Tensor, *, steps: int | None = None
) -> Tensor:
    """The selective scan from a zero state.

    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        x: `[B, L, E]`.
        delta: `[B, L, E]` step sizes δ ≥ 0.
        rates: `[E, N]`, A ≤ 0, per unit of δ.
        write: `[B, L, N]`, B_t.
        read: `[B, L, N]`, C_t.
        skip: `[E]`, D.
        steps: Steps T a slab; by default as many as `SLAB_STATES` allows, or `native_scans.STEPS`.

    Returns:
        `[B, L, E]` in the type of `x`.

    Raises:
        ValueError: Shapes that do not fit, or `steps` below 1.
    """
    _check(x, delta, rates, write, read, skip)
    if steps is not None and steps < 1:
        raise ValueError(f"steps {steps} must be at least 1")
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.numel() and native_scans.takes(x):
        inputs = [tensor.to(working) for tensor in (x, delta, rates, write, read, skip)]
        keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        return _native_selective_scan(*inputs, steps or native_scans.STEPS, keep).to(x.dtype)
    rows, fitting = slab_size(x.shape[0], x.shape[1], rates.numel(), x.device)
    steps = fitting if steps is None else steps
    with torch.autocast(x.device.type, enabled=False):
        groups = zip(*(torch.split(t.to(working), rows) for t in (x, delta, write, read)), strict=True)
        scanned = [_selective_scan(u, d, rates.to(working), b, c, steps) for u, d, b, c in groups]
        y = torch.addcmul(torch.cat(scanned), x.to(working), skip.to(working))
    return y.to(x.dtype)


def fused_selective_scan(x: Tensor, delta: Tensor, rates: Tensor, write: Tensor, read: Tensor, skip: Tensor) -> Tensor:
    """`selective_scan` by the CUDA kernel of the package mamba-ssm; see `fused_is_available`."""
    module = importlib.import_module(_FUSED_MODULE)
    channel_major = [tensor.transpose(1, 2).contiguous() for tensor in (x, delta.to(x.dtype))]
    factors = [tensor.to(x.dtype).transpose(1, 2).contiguous() for tensor in (write, read)]
    y: Tensor = module.selective_scan_fn(*channel_major, rates.float(), *factors, skip.float())
    return y.transpose(1, 2)


def fused_is_available(device: torch.device) -> bool:
    """Whether mamba-ssm is installed and the device is one that its kernel runs on."""
    return device.type == "cuda" and accelerated.is_usable(_FUSED_MODULE)


def slab_size(batch: int, length: int, states: int, device: torch.device) -> tuple[int, int]:
    """Sequences and steps T a slab, for `states` = E·N states a sequence."""
    budget = SLAB_STATES.get(device.type, SLAB_STATES["cpu"]) // states
    rows = min(max(budget // MIN_STEPS, 1), batch)
    return rows, min(max(budget // rows, MIN_STEPS), length)


def selective_scan_operations(length: int, steps: int) -> float:
    """Operations per state and sequence: decay 2 (with the exponential), input 1, output 2, and the scan."""
    slabs, rest = divmod(length, steps)
    return 5.0 * length + slabs * scan_operations(steps) + (scan_operations(rest) if rest else 0.0)


def _check(x: Tensor, delta: Tensor, rates: Tensor, write: Tensor, read: Tensor, skip: Tensor) -> None:
    if x.dim() != 3 or x.shape[1] < 1 or rates.dim() != 2:
        raise ValueError(f"x must be [B, L ≥ 1, E] and rates [E, N], got {list(x.shape)} and {list(rates.shape)}")
    batch, length, width = x.shape
    inner = (batch, length, rates.shape[1])
    expected = {"delta": x.shape, "rates": (width, rates.shape[1]), "write": inner, "read": inner, "skip": (width,)}
    for (name, shape), tensor in zip(expected.items(), (delta, rates, write, read, skip), strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")


class _Slab:
    """States and decays of consecutive steps, in buffers that all slabs share.

    A buffer of its own for every slab would have the allocator fetch fresh pages each time, which
    on a CPU costs more than the arithmetic.
    """

    def __init__(self, x: Tensor, rates: Tensor, steps: int, buffers: int) -> None:
        self.rates = rates.t().contiguous()
        self.buffers = [x.new_empty(x.shape[0], steps, *self.rates.shape) for _ in range(buffers)]

    def states(self, driven: Tensor, delta: Tensor, write: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """States and exp(δA), `[B, T, N, E]`, of the T steps after `state` `[B, N, E]`, then spare buffers."""
        h, decay, *spare = (buffer[:, : delta.shape[1]] for buffer in self.buffers)
        torch.mul(delta[:, :, None], self.rates, out=decay).exp_()
        torch.mul(write[..., None], driven[:, :, None], out=h)
        scan(decay, h, state, h)
        return h, decay, *spare


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, rates: Tensor, write: Tensor, read: Tensor, steps: int) -> Tensor:
        slab = _Slab(x, rates, steps, 2)
        driven = delta * x
        y = torch.empty_like(driven)
        before = [x.new_zeros(x.shape[0], *slab.rates.shape)]
        for start in range(0, x.shape[1], steps):
            part = slice(start, start + steps)
            h, _ = slab.states(driven[:, part], delta[:, part], write[:, part], before[-1])
            y[:, part] = (read[:, part, None] @ h).squeeze(2)
            before.append(h[:, -1].clone())
        ctx.save_for_backward(x, delta, rates, write, read, torch.stack(before[:-1]))
        ctx.steps = steps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None]:
        x, delta, rates, write, read, before = ctx.saved_tensors
        steps, slab = ctx.steps, _Slab(x, rates, ctx.steps, 3)
        driven = delta * x
        driven_gradient, delta_gradient = torch.empty_like(x), torch.empty_like(x)
        write_gradient, read_gradient = torch.empty_like(write), torch.empty_like(read)
        rates_gradient = torch.zeros_like(slab.rates)
        carry = torch.zeros_like(before[0])
        for i in range(before.shape[0] - 1, -1, -1):
            part = slice(i * steps, (i + 1) * steps)
            g, d, b = gradient[:, part], delta[:, part], write[:, part]
            h, decay, adjoint = slab.states(driven[:, part], d, b, before[i])
            read_gradient[:, part] = (h @ g[..., None]).squeeze(3)
            # The adjoint λ_t = C_t ⊗ ∂y_t + exp(δ_{t+1} A) ⊙ λ_{t+1}.
            torch.mul(read[:, part, :, None], g[:, :, None], out=adjoint)
            adjoint[:, -1].add_(carry)
            scan(decay[:, 1:], adjoint[:, :-1], adjoint[:, -1], adjoint[:, :-1], reverse=True)
            carry = decay[:, 0] * adjoint[:, 0]
            driven_gradient[:, part] = (b[:, :, None] @ adjoint).squeeze(2)
            write_gradient[:, part] = (adjoint @ driven[:, part, :, None]).squeeze(3)
            # The gradient of δ_t A is λ_t ⊙ exp(δ_t A) ⊙ h_{t−1}.
            exponent = decay.mul_(adjoint)
            exponent[:, 1:].mul_(h[:, :-1])
            exponent[:, 0].mul_(before[i])
            delta_gradient[:, part] = torch.mul(exponent, slab.rates, out=h).sum(2)
            rates_gradient += torch.mul(exponent, d[:, :, None], out=h).sum((0, 1))
        delta_gradient += driven_gradient * x
        return driven_gradient * delta, delta_gradient, rates_gradient.t(), write_gradient, read_gradient, None


class _NativeSelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *inputs, steps, keep = arguments
        inputs = [tensor.contiguous() for tensor in inputs]
        y, kept = native_scans.selective_forward(inputs, keep=keep, steps=steps)
        ctx.save_for_backward(*inputs, kept)
        ctx.steps = steps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, kept = ctx.saved_tensors
        return *native_scans.selective_backward(inputs, gradient, kept, steps=ctx.steps), None, None


# As in models/ops/scans/diagonal.py, torch.compile leaves it as it is.
_selective_scan: Callable[..., Tensor] = untraced(_SelectiveScan.apply)
_native_selective_scan: Callable[..., Tensor] = untraced(_NativeSelectiveScan.apply)
