"""The Legendre tree on a GPU: three Triton kernels forward, four backward, O(L), no Fourier transform.

The algorithm is that of models/ops/legendre/tree.py, in its notation, for sequences of C·2^M events:

    moments   z_n = X_n Φ_in,            Φ_in[j, :] = e^{−a(C−j)} Q_C[j, :]
    tree      z_parent = e^{−aS} z_left A_Lᵀ + z_right A_Rᵀ
              w_right += z_left Gᵀ;  w_left += w_parent A_L,  w_right += e^{−aS} w_parent A_R
    output    y_n = X_n T + w_n Φ_outᵀ,  Φ_out[i, :] = e^{−ai} Q_C[i, :]

Backward, the moments kernel reads ∂y, the tree runs with left and right exchanged and G transposed, the
output kernel forms ∂x and the gradients of T, Φ_in and Φ_out, and one kernel those of G and the decay
factors. The gradients of coefficients, decay and skip follow by torch, through the small matrices.

No lag outside the kernel's window is evaluated anywhere: lengths that are not C·2^M are not padded but
refused (`supports`).

Memory traffic per element of `[D, B, L]`, e bytes an element of x, r = 4J / C bytes for one float32 moment
of J a chunk (r = 1 for J = 16, C = 64), a pyramid of all levels being twice its lowest one:

    forward    moments            e + r    reads x; writes z
               tree              7r        reads z, the sources' z again, parents' w; writes parents' z, w
               output            2e + r    reads x, w; writes y
    backward   moments            e + r    reads ∂y; writes ∂w
               tree              7r
               output gradients  3e + 2r   reads ∂y, x, ∂z, w (without decay not w); writes ∂x
               tree gradients    4r        reads z_left, ∂w_right, with decay their parents' ∂z and w

together 7e + 23r: 37 bytes in bfloat16, 51 in float32, with J = 16, C = 64. 18 of the 23 r are re-read soon
after they were written, from the L2 cache unless the batch is very large. (torch.fft: about 300 bytes,
counted kernel by kernel.) x and two pyramids, 4r, are kept for the backward pass.

A block of rows is one program in the tree kernel, so few very long rows leave part of a GPU idle there.

Precision: moments and expansions are float32 at every level. bfloat16 activations multiply matrices split
into two bfloat16 halves, so that rounding y is the only error of that size. Sums over chunks are taken in
fixed blocks, without atomics: two runs agree bit by bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.ops.build.triton_tiles import PRECISION, bfloat16_products, tile
from models.ops.legendre.basis import basis, coupling, restriction
from models.ops.legendre.taps import Kernel, LegendreKernel
from models.ops.legendre.triton_kernels import (
    moments_kernel,
    output_gradients_kernel,
    output_kernel,
    tree_gradients_kernel,
    tree_kernel,
)

SMALLEST_CHUNK, CHUNK, LARGEST_CHUNK = 16, 64, 128
MAX_ORDER = 64

# Programs that the sums of parameter gradients are divided among: by shapes alone, so that sums do not
# depend on the device.
_PROGRAMS = 512

# Tiles and warps that fit registers and shared memory when compiled for sm_90: at J = 16, C = 64 nothing
# spills but 104 bytes in the output's gradients (float32), and at most 74 KB of shared memory are used; 224 KB
# at J = 64, C = 128. No prefetch: its buffers would not fit.
_LAUNCH = {"num_warps": 8, "num_stages": 1}


def supports(length: int, kernel: Kernel, dtype: torch.dtype = torch.float32) -> bool:
    """Whether `triton_tree_convolution` runs a kernel at a length L and a type of activation.

    It does for Legendre kernels with K ≤ 64 and W ≥ L, L = C·2^M with 16 ≤ C ≤ 128 and M ≥ 1, in float32,
    bfloat16 and float16.
    """
    return (
        isinstance(kernel, LegendreKernel)
        and kernel.order <= MAX_ORDER
        and kernel.window >= length
        and chunk_size(length) is not None
        and dtype in (torch.float32, torch.bfloat16, torch.float16)
    )


def chunk_size(length: int) -> int | None:
    """Events C of a chunk, 16 … 128 with L = C·2^M, M ≥ 1: the least padded in its tile, then nearest to 64.

    None where no C divides the length so.
    """
    chunks = (length >> m for m in range(1, length.bit_length()) if length % (1 << m) == 0)
    legal = [chunk for chunk in chunks if SMALLEST_CHUNK <= chunk <= LARGEST_CHUNK]
    return min(legal, key=lambda chunk: (tile(chunk, LARGEST_CHUNK) / chunk, abs(chunk - CHUNK)), default=None)


def triton_tree_convolution(x: Tensor, kernel: LegendreKernel) -> Tensor:
    """Causal convolution with a Legendre kernel and its skip term; differentiable in x and all parameters.

    Args:
        x: `[D, B, L]` float32, bfloat16 or float16, on a CUDA device; `supports` says for which L.
        kernel: Coefficients `[D, K]`, decay and skip, any floating type; the arithmetic is float32.

    Returns:
        `[D, B, L]` in the type of `x`.

    Raises:
        ValueError: A length, kernel or type that is not supported.
    """
    length = x.shape[-1]
    chunk = chunk_size(length)
    if x.dim() != 3 or x.shape[0] != kernel.channels or chunk is None or not supports(length, kernel, x.dtype):
        raise ValueError(
            f"x {list(x.shape)} in {x.dtype} with K = {kernel.order}, W = {kernel.window} is not supported; legal: "
            f"[{kernel.channels}, B, L] with L = C·2^M ≤ W, C in {SMALLEST_CHUNK} … {LARGEST_CHUNK}, M ≥ 1, "
            f"K ≤ {MAX_ORDER}, float32, bfloat16 or float16; use causal_convolution for anything else"
        )
    levels = (length // chunk).bit_length() - 1
    constants = _constants(chunk, levels, kernel.order, kernel.window, x.device)
    with torch.autocast(x.device.type, enabled=False):
        taps = kernel.taps(chunk).float()
        if kernel.skip is not None:
            taps = torch.cat((taps[:, :1] + kernel.skip.float()[:, None], taps[:, 1:]), 1)
        couplings = kernel.coefficients.float() @ constants.couplings
        arriving, leaving, factors = None, None, None
        if kernel.decay is not None:
            decay = kernel.decay.float()[:, None]
            lags = torch.arange(chunk, dtype=torch.float32, device=x.device)
            arriving, leaving = torch.exp(-decay * (chunk - lags)), torch.exp(-decay * lags)
            factors = torch.exp(-decay * constants.samples)
        y: Tensor = _tree_convolution(x, taps, couplings, arriving, leaving, factors, constants)
    return y


class _Constants(NamedTuple):
    """What does not depend on the channel, float32, padded with zeros to the tiles' edges.

    Attributes:
        basis: `[edge, rank]`, Q_C.
        restrictions: `[M, 2, rank, rank]`, A_L and A_R from level l + 1 to level l; zero for the highest.
        couplings: `[K, M·rank·rank]`, the couplings of all levels by polynomial.
        samples: `[M]`, events of a node of each level.
        chunk: Events C of a chunk.
    """

    basis: Tensor
    restrictions: Tensor
    couplings: Tensor
    samples: Tensor
    chunk: int


@functools.lru_cache(maxsize=64)
def _constants(chunk: int, levels: int, order: int, window: int, device: torch.device) -> _Constants:
    edge = tile(chunk, LARGEST_CHUNK)
    rank = tile(min(order, chunk << (levels - 1)), MAX_ORDER)
    leaf = np.zeros((edge, rank))
    restrictions = np.zeros((levels, 2, rank, rank))
    couplings = np.zeros((order, levels, rank, rank))
    leaf[:chunk, : min(chunk, order)] = basis(chunk, order)
    for level in range(levels):
        samples = chunk << level
        low = min(samples, order)
        couplings[:, level, :low, :low] = coupling(samples, samples, order, window).transpose(2, 0, 1)
        if level < levels - 1:
            high = min(2 * samples, order)
            for side in (0, 1):
                matrix = restriction(2 * samples, side * samples, samples, order)
                restrictions[level, side, :high, :low] = matrix

    def rounded(values: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).float().to(device)

    return _Constants(
        rounded(leaf),
        rounded(restrictions),
        rounded(couplings.reshape(order, -1)),
        rounded(np.array([float(chunk << level) for level in range(levels)])),
        chunk,
    )


class _TreeConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        taps: Tensor,
        couplings: Tensor,
        arriving: Tensor | None,
        leaving: Tensor | None,
        factors: Tensor | None,
        constants: _Constants,
    ) -> Tensor:
        x, taps, couplings = x.contiguous(), taps.contiguous(), couplings.contiguous()
        moments, expansions = _sweep(x, couplings, arriving, factors, constants, side=0)
        ctx.save_for_backward(x, taps, couplings, arriving, leaving, factors, moments, expansions)
        ctx.constants = constants
        output = torch.empty_like(x)
        channels, chunks, block = _blocks(x, constants.chunk)
        if chunks > 0:
            edge, rank = constants.basis.shape
            output_kernel[(triton.cdiv(chunks, block), channels)](
                x, expansions, taps, constants.basis, leaving, output, chunks, moments.shape[1], constants.chunk,
                edge, rank, block, bfloat16_products(x.dtype), PRECISION, **_LAUNCH,
            )  # fmt: skip
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, couplings, arriving, leaving, factors, moments, expansions = ctx.saved_tensors
        constants: _Constants = ctx.constants
        gradient = gradient.contiguous()
        channels, chunks, block = _blocks(x, constants.chunk)
        if chunks == 0:
            parameters = (taps, couplings, arriving, leaving, factors)
            zeros = [None if p is None else torch.zeros_like(p) for p in parameters]
            return torch.empty_like(x), *zeros, None
        edge, rank = constants.basis.shape
        levels = constants.restrictions.shape[0]
        outer, inner = _sweep(gradient, couplings, leaving, factors, constants, side=1)
        x_gradient = torch.empty_like(x)
        parts = min(triton.cdiv(chunks, block), triton.cdiv(_PROGRAMS, channels))
        sums = [taps.new_empty(parts, channels, edge) for _ in range(1 if factors is None else 3)]
        output_gradients_kernel[(parts, channels)](
            gradient, x, expansions, inner, taps, constants.basis, arriving, x_gradient,
            *sums, *[None] * (3 - len(sums)), chunks, moments.shape[1], constants.chunk,
            edge, rank, block, bfloat16_products(x.dtype), PRECISION, **_LAUNCH,
        )  # fmt: skip
        scales = [total.sum(0)[:, : constants.chunk] for total in sums]
        pairs = chunks // 2
        block = _pair_block(pairs, rank)
        parts = min(triton.cdiv(pairs, block), triton.cdiv(_PROGRAMS, channels * levels))
        products = taps.new_empty(parts, channels, levels * rank * rank)
        slopes = None if factors is None else taps.new_empty(parts, channels, levels)
        length = x.shape[2]
        tree_gradients_kernel[(levels, parts, channels)](
            moments, expansions, inner, outer, constants.restrictions, products, slopes,
            x.shape[1], length // constants.chunk, rank, block, PRECISION, **_LAUNCH,
        )  # fmt: skip
        if slopes is None:
            return x_gradient, scales[0], products.sum(0), None, None, None, None
        return x_gradient, scales[0], products.sum(0), scales[1], scales[2], slopes.sum(0), None


def _sweep(
    x: Tensor, couplings: Tensor, scale: Tensor | None, factors: Tensor | None, constants: _Constants, *, side: int
) -> tuple[Tensor, Tensor]:
    """Moments and expansions of all levels, `[D, B·(2N − 2), rank]` each; `side` as in `tree_kernel`."""
    channels, chunks, block = _blocks(x, constants.chunk)
    rows = x.shape[1]
    edge, rank = constants.basis.shape
    levels = constants.restrictions.shape[0]
    nodes = 2 * chunks - 2 * rows
    moments = couplings.new_empty(channels, nodes, rank)
    expansions = torch.empty_like(moments)
    if chunks == 0:
        return moments, expansions
    moments_kernel[(triton.cdiv(chunks, block), channels)](
        x, constants.basis, scale, moments, chunks, nodes, constants.chunk,
        edge, rank, block, bfloat16_products(x.dtype), PRECISION, **_LAUNCH,
    )  # fmt: skip
    row_chunks = chunks // rows
    # Several short rows a program, so that the lowest level fills a tile.
    block_rows = min(rows, max(1, 2 * _pair_block(chunks, rank) // row_chunks))
    tree_kernel[(triton.cdiv(rows, block_rows), channels)](
        moments, expansions, constants.restrictions, couplings, factors, rows, row_chunks, levels,
        side, rank, block_rows, _pair_block(block_rows * row_chunks // 2, rank), PRECISION, **_LAUNCH,
    )  # fmt: skip
    return moments, expansions


def _blocks(x: Tensor, chunk: int) -> tuple[int, int, int]:
    """Channels, chunks of a channel, and chunks of a program."""
    chunks = x.shape[1] * (x.shape[2] // chunk)
    return x.shape[0], chunks, tile(chunks, CHUNK if chunk <= CHUNK else CHUNK // 2)


def _pair_block(pairs: int, rank: int) -> int:
    """Pairs of siblings of a program: tiles `[pairs, rank]` of about the same size at every rank."""
    return tile(pairs, 2048 // rank)


# torch leaves `apply` untyped.
_tree_convolution: Callable[..., Any] = _TreeConvolution.apply
