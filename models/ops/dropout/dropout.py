"""Inverted dropout, alone or with the residual sum behind it.

On a CPU the mask is a function of one random number that torch's generator gives and of the place in
the tensor: nothing is kept for the backward pass, which computes the mask anew. Four elements share a
64-bit word, so that a probability is rounded to a multiple of 2^−16. In float32 mask, product and sum
are one pass of models/ops/dropout/native.cpp, where it could be built; in torch the mask is the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.ops.build import native

# SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014), in
# the signed numbers that torch has: (shift, factor) of each round, and the last shift.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_LAST = 31


def dropout(y: Tensor, probability: float, *, onto: Tensor | None = None) -> Tensor:
    """`onto + y · m / (1 − p)`, each m of its own 0 with probability p, else 1.

    Args:
        y: Of any shape.
        probability: p in [0, 1).
        onto: What it is added to, in the shape of `y`; default: nothing.

    Returns:
        In the shape of `y`.
    """
    if y.device.type != "cpu" or torch.compiler.is_compiling():
        kept = functional.dropout(y, probability)
        return kept if onto is None else onto + kept
    threshold = min(round(probability * 65536), 65535)
    seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None))
    return _masked(y, onto, seed, threshold)


def draws(seed: int, count: int) -> Tensor:
    """`count` independent numbers from −2^15 to 2^15 − 1, int16; element j is of word ⌊j/4⌋ of the seed's stream."""
    z = torch.arange(1, (count + 3) // 4 + 1, dtype=torch.int64).mul_(_STEP).add_(seed)
    for shift, factor in _ROUNDS:
        z = (z ^ _shifted(z, shift)).mul_(factor)
    return (z ^ _shifted(z, _LAST)).view(torch.int16)[:count]


def _shifted(z: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; torch's own repeats the sign."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _apply(y: Tensor, onto: Tensor | None, seed: int, threshold: int) -> Tensor:
    """One pass, forward or backward, without autograd."""
    scale = 65536 / (65536 - threshold)
    plain = y.dtype == torch.float32 and (onto is None or onto.dtype == torch.float32)
    if plain and native.library() is not None:
        y, onto = y.contiguous(), None if onto is None else onto.contiguous()
        out = torch.empty_like(y)
        numbers = ctypes.byref(ctypes.c_double(scale)), *native.integers(seed, threshold - 32768, y.numel())
        native.function("dropout")(native.pointer(y), native.pointer(onto), *numbers, native.pointer(out))
        return out
    kept = y * (draws(seed, y.numel()).view(y.shape) >= threshold - 32768).to(y.dtype).mul_(scale)
    return kept if onto is None else onto + kept


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, onto: Tensor | None, seed: int, threshold: int) -> Tensor:
        ctx.drawn = seed, threshold
        return _apply(y, onto, seed, threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        own = _apply(gradient, None, *ctx.drawn) if ctx.needs_input_grad[0] else None
        return own, gradient if ctx.needs_input_grad[1] else None, None, None


# torch leaves `apply` untyped.
_masked: Callable[..., Tensor] = _Masked.apply
