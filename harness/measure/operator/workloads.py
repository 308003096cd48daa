"""The operators as the bench calls them: fixed inputs, and a function that runs one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from harness.records.operator import Layout, Omission, Pass
from models.ops.attention.softmax import causal_attention
from models.ops.convolution.causal import Name as Backend
from models.ops.convolution.causal import causal_convolution
from models.ops.legendre.taps import LegendreKernel

BACKENDS: tuple[Backend, ...] = get_args(Backend)
ATTENTION = "sdpa"
_SEED = 0


@dataclass(frozen=True)
class Inputs:
    """What every convolution backend of a group gets.

    Attributes:
        x: `[D, B, L]` channel-major, `[B, L, D]` otherwise; needs a gradient.
        gradient: Incoming gradient, in the shape of x.
        coefficients: `[D, K]`.
        decay: `[D]`.
        skip: `[D]`.
        layout: Of x.
    """

    x: Tensor
    gradient: Tensor
    coefficients: Tensor
    decay: Tensor
    skip: Tensor
    layout: Layout

    @property
    def length(self) -> int:
        """L."""
        return self.x.shape[2] if self.layout == "channel_major" else self.x.shape[1]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """All tensors that get a gradient."""
        return self.x, self.coefficients, self.decay, self.skip

    def apply(self, backend: Backend) -> Tensor:
        """One forward pass; the kernel's window is the length.

        Raises:
            ValueError: The backend does not take this combination.
        """
        kernel = LegendreKernel(self.coefficients, self.length, self.decay, self.skip)
        return causal_convolution(self.x, kernel, backend=backend, layout=self.layout, check=False)


def inputs(
    *, batch: int, length: int, channels: int, order: int, layout: Layout, device: torch.device, seed: int = _SEED
) -> Inputs:
    """Random inputs, and kernels as HyenaRec starts with.

    Time constants run from two events to the whole window, evenly in their logarithm.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (channels, batch, length) if layout == "channel_major" else (batch, length, channels)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    x, gradient = draw(*shape), draw(*shape)
    coefficients = draw(channels, order) / length**0.5
    decay = torch.logspace(math.log10(0.5), math.log10(1 / max(length, 2)), channels).to(device)
    return Inputs(
        x=x.requires_grad_(),
        gradient=gradient,
        coefficients=coefficients.requires_grad_(),
        decay=decay.requires_grad_(),
        skip=draw(channels).requires_grad_(),
        layout=layout,
    )


def convolution(data: Inputs, backend: Backend, pass_: Pass) -> Callable[[], None]:
    """One call of a backend; gradients are freed first, as an optimiser's zero_grad does."""
    return _call(lambda: data.apply(backend), data.leaves, data.gradient, pass_)


def omission(data: Inputs, backend: Backend, pass_: Pass, reason: str) -> Omission:
    """Why a backend has no result for these inputs."""
    return Omission(
        backend=backend,
        length=data.length,
        kernel_order=data.coefficients.shape[1],
        layout=data.layout,
        pass_=pass_,
        reason=reason,
    )


def attention(
    *, batch: int, length: int, channels: int, heads: int, device: torch.device, pass_: Pass
) -> Callable[[], None]:
    """One call of causal attention on queries, keys and values read out of `[B, L, D]`."""
    generator = torch.Generator().manual_seed(_SEED)

    def draw() -> Tensor:
        return torch.randn(batch, length, channels, generator=generator).to(device)

    leaves = tuple(draw().requires_grad_() for _ in range(3))

    def forward() -> Tensor:
        query, key, value = (t.view(batch, length, heads, channels // heads).transpose(1, 2) for t in leaves)
        return causal_attention(query, key, value, "sdpa").transpose(1, 2)

    gradient = draw().view(batch, length, heads, channels // heads)
    return _call(forward, leaves, gradient, pass_)


def _call(
    forward: Callable[[], Tensor], leaves: tuple[Tensor, ...], gradient: Tensor, pass_: Pass
) -> Callable[[], None]:
    def without() -> None:
        with torch.no_grad():
            forward()

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(gradient)  # type: ignore[no-untyped-call]

    return both if pass_ == "forward_backward" else without
