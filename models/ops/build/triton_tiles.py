"""What the Triton kernels share: Toeplitz tiles, sums along diagonals, and the arithmetic of a product.

Imported by `models.ops.convolution.triton_dense` and `models.ops.legendre.triton` only; importing it imports triton.

Arithmetic: every product accumulates in float32. float32 operands go through the tensor cores as three
TF32 products (`tf32x3`, relative error about 1e-6), never as one, which would cost 4e-4. Triton's
interpreter has no TF32 and multiplies bfloat16 wrongly, so there everything is plain float32.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
PRECISION = "ieee" if INTERPRETED else "tf32x3"


def bfloat16_products(dtype: torch.dtype) -> bool:
    """Whether activations of a type are multiplied as bfloat16; all others are as float32."""
    return dtype == torch.bfloat16 and not INTERPRETED


def tile(extent: int, largest: int) -> int:
    """Edge of a tile for an extent: a power of two, at least 16 as `tl.dot` wants, at most `largest`."""
    return min(max(16, 1 << (extent - 1).bit_length()), largest)


@triton.jit
def toeplitz(taps: tl.tensor, lags: tl.tensor, count: tl.tensor) -> tl.tensor:
    """The taps at a tile of lags, float32, read from one short line in the cache; zero outside 0 … count − 1."""
    return tl.load(taps + lags, mask=(lags >= 0) & (lags < count), other=0.0)


@triton.jit
def diagonals(matrix: tl.tensor, edge: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Sums along the diagonals of a square tile `M[s, t]`.

    Every row is rotated by its own number, which puts each diagonal into a column: no atomics, and the
    order of summation is fixed.

    Returns:
        Two `[edge]` vectors: the sums over t − s = r, and over t − s = r − edge.
    """
    s = tl.arange(0, edge)[:, None]
    r = tl.arange(0, edge)[None, :]
    rotated = tl.gather(matrix, (s + r) % edge, 1)
    wrapped = s + r >= edge
    return tl.sum(tl.where(wrapped, 0.0, rotated), 0), tl.sum(tl.where(wrapped, rotated, 0.0), 0)
