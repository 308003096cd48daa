"""Depthwise causal convolution with a few free taps, channel-major, and the first gate after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.build import native
from models.ops.build.untraced import untraced


def short_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise causal convolution with a few free taps, `y_c[t] = Σ_j w_c[j] x_c[t−j]`.

    Args:
        x: `[C, B, L]`.
        weight: `[C, width]`, width ≥ 1; column j weighs the event j steps back.

    Returns:
        `[C, B, L]` in the type of `x`.

    Raises:
        ValueError: Shapes that do not fit, or a width of 0.
    """
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[0]:
        raise ValueError(f"need x [C, B, L] and weight [C, width], got {list(x.shape)} and {list(weight.shape)}")
    _check_width(weight)
    return _short_convolution(x.contiguous(), weight)


def gated_short_convolution(streams: Tensor, weight: Tensor) -> list[Tensor]:
    """`short_convolution` of every stream; the first, a gate, then multiplies the last.

    In float32 on a CPU both are one pass of models/ops/convolution/short.cpp, where it could be
    built.

    Args:
        streams: `[S, D, B, L]`, S ≥ 2.
        weight: `[S, D, width]`, width ≥ 1.

    Returns:
        S − 1 tensors `[D, B, L]`: the product, and the streams between the first and the last.

    Raises:
        ValueError: Shapes that do not fit, or a width of 0.
    """
    if streams.dim() != 4 or len(streams) < 2 or weight.dim() != 3 or weight.shape[:2] != streams.shape[:2]:
        raise ValueError(
            f"need streams [S ≥ 2, D, B, L] and weight [S, D, width], got {list(streams.shape)} and "
            f"{list(weight.shape)}"
        )
    _check_width(weight)
    return _opaque(streams, weight)


def _check_width(weight: Tensor) -> None:
    if weight.shape[-1] < 1:
        raise ValueError(
            f"a short convolution of width 0 (weight {list(weight.shape)}) has no tap to read; legal: 1 or "
            "more taps; for no short convolution leave the call out, in a model with the option short_convolution: 0"
        )


def _gated(streams: Tensor, weight: Tensor) -> list[Tensor]:
    alike = streams.dtype == weight.dtype == torch.float32 and streams.device.type == "cpu"
    if alike and streams.numel() and native.library() is not None:
        return list(_native(streams.contiguous(), weight.contiguous()))
    first, *between, last = short_convolution(streams.flatten(0, 1), weight.flatten(0, 1)).view_as(streams).unbind(0)
    return [first * last, *between]


class _NativeGatedShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, streams: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(streams, weight)
        outputs = tuple(torch.empty_like(stream) for stream in streams[1:])
        _call("streams_forward", streams, weight, (), native.pointers(outputs))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        streams, weight = ctx.saved_tensors
        found = torch.empty_like(streams), torch.empty_like(weight)
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        _call("streams_backward", streams, weight, (native.pointers(gradients),), *map(native.pointer, found))
        return found


def _call(name: str, streams: Tensor, weight: Tensor, inputs: tuple[object, ...], *outputs: object) -> None:
    sizes = native.integers(*streams.shape, weight.shape[2])
    native.function(name)(native.pointer(streams), native.pointer(weight), *inputs, *sizes, *outputs)


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        columns = weight.to(x.dtype)[:, :, None, None].unbind(1)
        y = x * columns[0]
        for j in range(1, min(weight.shape[1], x.shape[2])):
            y[..., j:].addcmul_(x[..., :-j], columns[j])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        columns = weight.to(x.dtype)[:, :, None, None].unbind(1)
        x_gradient = gradient * columns[0]
        weight_gradient = torch.zeros_like(weight)
        weight_gradient[:, 0] = (gradient * x).sum((1, 2))
        for j in range(1, min(weight.shape[1], x.shape[2])):
            later, earlier = gradient[..., j:], x[..., :-j]
            x_gradient[..., :-j].addcmul_(later, columns[j])
            weight_gradient[:, j] = (later * earlier).sum((1, 2))
        return x_gradient, weight_gradient


# The pass may be native.
_opaque = untraced(_gated)

# torch leaves `apply` untyped.
_short_convolution: Callable[..., Tensor] = _ShortConvolution.apply
_native: Callable[..., tuple[Tensor, ...]] = _NativeGatedShortConvolution.apply
