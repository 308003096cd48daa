"""Short gated causal convolutions on a GPU: one Triton kernel forward, two backward.

Channel by channel, with s a short causal convolution of a few taps and h the long one:

    u = (s_p ∗ p) ⊙ (s_v ∗ v),   y = (s_q ∗ q) ⊙ (h ∗ u + δ u)

the inner part of a Hyena operator (Poli et al., Hyena Hierarchy, ICML 2023, definition 3.1), whose gates
p and q and short convolutions may each be absent. `h ∗ u` is a product with a lower-triangular Toeplitz
matrix: O(L²), but on tensor cores, and without a temporary in memory.

A program holds one channel and a block of rows (sequences) and walks over tiles of time. Tiles of the
Toeplitz matrix are never stored: the line of L taps lies in the cache and is read by lag. Tiles of u are
formed anew for every tile pair, from the cache: a kernel reads each stream from memory once.

Memory traffic per element of `[D, B, L]`, e bytes an element, with both gates (an absent gate takes e, 2e
and e away), taps and partial sums aside:

    forward            3e + e    = 4e    reads p, q, v; writes y
    backward, inputs   4e + 3e   = 7e    reads p, q, v, ∂y; writes ∂p, ∂q, ∂v
    backward, taps     4e        = 4e    reads p, q, v, ∂y

together 15e (30 bytes in bfloat16), and repeated reads from the L2 cache, which holds the rows of the few
channels at work. Nothing but the inputs is kept for the backward pass. One kernel an operation, each
reading its operands and writing its result once, moves 40e: short convolutions 6 forward and 12 backward,
gates 6 and 10, the Toeplitz product 2 and 4.

Gradients of taps and short weights are summed over fixed blocks, the blocks by torch: no atomics, so two
runs agree bit by bit. Under bfloat16 u, ∂(h ∗ u) and the taps are rounded to bfloat16 before their
product (relative error about 2e-3, the size of the rounding of y); sums are float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.build.triton_tiles import PRECISION, bfloat16_products, tile
from models.ops.convolution.triton_dense_kernels import forward_kernel, input_gradients_kernel, tap_gradients_kernel

MAX_LENGTH = 512
MAX_SHORT_WIDTH = 8

# Tiles and warps: the largest that fit registers and shared memory (compiled for sm_90: no or ≤ 24 bytes
# of spills, ≤ 115 KB) in every type.
MAX_ROWS, MAX_TIMES = 32, 64
_LAUNCH = {"num_warps": 8, "num_stages": 2}

# The parts a channel's tap gradient is summed in: enough programs for a large GPU, and a number that
# depends on shapes alone, so that sums do not depend on the device.
_TAP_PROGRAMS = 512


def supports(length: int, dtype: torch.dtype) -> bool:
    """Whether `dense_convolution` runs at a length L and a type of activation."""
    return 1 <= length <= MAX_LENGTH and dtype in (torch.float32, torch.bfloat16, torch.float16)


def dense_convolution(
    value: Tensor,
    taps: Tensor,
    skip: Tensor | None = None,
    *,
    pre_gate: Tensor | None = None,
    post_gate: Tensor | None = None,
    short: Tensor | None = None,
) -> Tensor:
    """`y = (s_q ∗ q) ⊙ (h ∗ u + δ u)`, `u = (s_p ∗ p) ⊙ (s_v ∗ v)`; differentiable in every argument.

    Args:
        value: v, `[D, B, L]`, L ≤ 512, float32, bfloat16 or float16, on a CUDA device.
        taps: h, `[D, T]`, T ≤ L; later taps are zero.
        skip: δ, `[D]`, added to the tap at lag 0, or None.
        pre_gate: p, `[D, B, L]` in the type of `value`, or None for no gate before the convolution.
        post_gate: q, the same after it.
        short: `[S, D, width]`, width 1 … 8, the short convolutions of the S streams present, in the order
            p, q, v; column j weighs the event j steps back. None for none.

    Returns:
        `[D, B, L]` in the type of `value`.

    Raises:
        ValueError: Shapes or types that do not fit.
    """
    channels, length = value.shape[0], value.shape[-1]
    if value.dim() != 3 or not supports(length, value.dtype):
        raise ValueError(
            f"value must be [D, B, L ≤ {MAX_LENGTH}] in float32, bfloat16 or float16, got {list(value.shape)} in "
            f"{value.dtype}; use causal_convolution for anything else"
        )
    for name, gate in (("pre_gate", pre_gate), ("post_gate", post_gate)):
        if gate is not None and (gate.shape != value.shape or gate.dtype != value.dtype):
            raise ValueError(
                f"{name} must be {list(value.shape)} in {value.dtype}, got {list(gate.shape)}, {gate.dtype}"
            )
    if taps.dim() != 2 or taps.shape[0] != channels or not 1 <= taps.shape[1] <= length:
        raise ValueError(f"taps must be [{channels}, 1 … {length}], got {list(taps.shape)}")
    if skip is not None and skip.shape != (channels,):
        raise ValueError(f"skip must be [{channels}], got {list(skip.shape)}")
    streams = 1 + (pre_gate is not None) + (post_gate is not None)
    if short is not None and (
        short.dim() != 3 or short.shape[:2] != (streams, channels) or not 1 <= short.shape[2] <= MAX_SHORT_WIDTH
    ):
        raise ValueError(f"short must be [{streams}, {channels}, 1 … {MAX_SHORT_WIDTH}], got {list(short.shape)}")
    return _dense_convolution(value, taps, skip, pre_gate, post_gate, short)


class _DenseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        taps: Tensor,
        skip: Tensor | None,
        pre: Tensor | None,
        post: Tensor | None,
        short: Tensor | None,
    ) -> Tensor:
        line = taps.float().contiguous()
        if skip is not None:
            line = torch.cat((line[:, :1] + skip.float()[:, None], line[:, 1:]), 1)
        weights = None if short is None else short.float().contiguous()
        value, pre, post = value.contiguous(), _contiguous(pre), _contiguous(post)
        channels, batch, length = value.shape
        ctx.save_for_backward(value, line, pre, post, weights)
        ctx.types = (taps.dtype, None if skip is None else skip.dtype, None if short is None else short.dtype)
        rows, times = tile(batch, MAX_ROWS), tile(length, MAX_TIMES)
        output = torch.empty_like(value)
        if output.numel() > 0:
            pre_short, post_short, value_short = _weights(weights, pre, post)
            forward_kernel[(triton.cdiv(batch, rows), channels)](
                value, value_short, pre, pre_short, post, post_short, line, output,
                batch, length, line.shape[1], 0 if weights is None else weights.shape[2],
                rows, times, bfloat16_products(value.dtype), PRECISION, **_LAUNCH,
            )  # fmt: skip
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, line, pre, post, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        channels, batch, length = value.shape
        count, width = line.shape[1], 0 if weights is None else weights.shape[2]
        rows, times = tile(batch, MAX_ROWS), tile(length, MAX_TIMES)
        row_blocks, bfloat16 = triton.cdiv(batch, rows), bfloat16_products(value.dtype)
        gradients = [None if stream is None else torch.empty_like(stream) for stream in (pre, post, value)]
        if value.numel() == 0:
            short_gradient = None if weights is None else torch.zeros_like(weights)
            return _results(ctx, gradients, torch.zeros_like(line), short_gradient)
        pre_short, post_short, value_short = _weights(weights, pre, post)
        step = times - max(width - 1, 0)
        tiles = triton.cdiv(length, step)
        partials = None
        if weights is not None:
            partials = weights.new_empty(weights.shape[0], channels, row_blocks * tiles, width)
        pre_partial, post_partial, value_partial = _weights(partials, pre, post)
        pre_gradient, post_gradient, value_gradient = gradients
        input_gradients_kernel[(row_blocks, channels)](
            gradient, value, value_short, value_gradient, value_partial,
            pre, pre_short, pre_gradient, pre_partial, post, post_short, post_gradient, post_partial,
            line, batch, length, count, tiles, width, step, rows, times, bfloat16, PRECISION, **_LAUNCH,
        )  # fmt: skip
        distances = min(triton.cdiv(count - 1, times) + 1, triton.cdiv(length, times))
        parts = min(row_blocks, triton.cdiv(_TAP_PROGRAMS, channels * distances))
        sums = line.new_empty(parts, 2, channels, distances * times)
        tap_gradients_kernel[(distances, parts, channels)](
            gradient, value, value_short, pre, pre_short, post, post_short, sums,
            batch, length, width, rows, times, bfloat16, PRECISION, **_LAUNCH,
        )  # fmt: skip
        ahead, behind = sums.sum(0)
        ahead[:, : (distances - 1) * times] += behind[:, times:]
        return _results(ctx, gradients, ahead[:, :count], None if partials is None else partials.sum(2))


def _results(ctx: Any, gradients: list[Tensor | None], taps: Tensor, short: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients in the order and the types of the arguments; the skip term is a part of the tap at lag 0."""
    taps_type, skip_type, short_type = ctx.types
    pre_gradient, post_gradient, value_gradient = gradients
    return (
        value_gradient,
        taps.to(taps_type),
        None if skip_type is None else taps[:, 0].to(skip_type),
        pre_gradient,
        post_gradient,
        None if short is None else short.to(short_type),
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _weights(
    weights: Tensor | None, pre: Tensor | None, post: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The short convolutions' weights, or their gradients' parts, of p, q and v."""
    if weights is None:
        return None, None, None
    return (
        weights[0] if pre is not None else None,
        weights[-2] if post is not None else None,
        weights[-1],
    )


# torch leaves `apply` untyped.
_dense_convolution: Callable[..., Tensor] = _DenseConvolution.apply
