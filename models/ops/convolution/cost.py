"""Predicted operations and bytes of long convolutions by backend, and of attention beside them.

A multiply-add counts two operations. Bytes are those that each step of an algorithm reads and
writes once at float32, so they are a floor for what memory really moves. n is the FFT's length,
J = min(C, K) the moments of a chunk of C events.
"""

from __future__ import annotations

import math

from models.ops.convolution.causal import fourier_length
from models.ops.legendre.geometry import chunk_size

_BYTES = 4


def operations(backend: str, *, batch: int, length: int, channels: int, order: int, backward: bool) -> float:
    """Floating-point operations of one call.

    - fft: a real transform takes 2.5 n log₂ n, a complex product 6 for each of n/2 bins. Forward:
      x, the kernel, and back. Backward: the gradient, and back for x and for the kernel, and two
      products.
    - tree: 2C inside a chunk, 4J for moments and expansions, 10J²/C up, across and down; backward
      does every product twice, once per operand.
    - dense: L² products a sequence; backward twice.
    - sdpa: two products of L²/2 dot products each, causal; backward five (it computes one again).

    Args:
        backend: `fft`, `tree`, `dense` or `sdpa`.
        batch: Sequences B.
        length: Events L.
        channels: D.
        order: Polynomials K; not used by attention.
        backward: Whether the backward pass counts too.

    Raises:
        ValueError: Unknown backend.
    """
    lines = batch * channels
    taps = 2.0 * order * channels * length * (3 if backward else 1)
    if backend == "fft":
        n = fourier_length(length, length)
        transform, product = 2.5 * n * math.log2(n), 3.0 * n
        forward = (2 * lines + channels) * transform + lines * product
        back = (2 * lines + channels) * transform + lines * 2 * product
        return taps + forward + (back if backward else 0.0)
    if backend == "tree":
        chunk = chunk_size(length, order)
        moments = min(chunk, order)
        tree = 4.0 * moments + 10.0 * moments**2 / chunk if chunk < length else 0.0
        return lines * length * (2.0 * chunk + tree) * (3 if backward else 1)
    if backend == "dense":
        return taps + 2.0 * lines * length**2 * (3 if backward else 1)
    if backend == "sdpa":
        product = 2.0 * lines * length**2 / 2
        return product * (7 if backward else 2)
    raise ValueError(f"no cost formula for backend '{backend}'; legal: fft, tree, dense, sdpa")


def bytes_moved(backend: str, *, batch: int, length: int, channels: int, order: int, backward: bool) -> float:
    """Bytes that one call reads and writes; arguments and errors as in `operations`.

    - fft: x, its spectrum, the product and y in full length n, each written and read; backward the
      same for the gradient, and the saved spectrum once more.
    - tree: x twice and y thrice (inside, leaves, output) and about ten passes over the moments,
      J/C of an element each; backward the same for the gradient, and x and moments once more.
    - dense: x, y and an L × L matrix a channel; backward both operands of both products.
    - sdpa: queries, keys, values and output, fused; backward those, and four gradients.
    """
    lines = batch * channels
    numbers: float
    if backend == "fft":
        n = fourier_length(length, length)
        numbers = lines * (2.0 * length + 4 * n) + 2 * channels * n
        numbers += lines * (2.0 * length + 7 * n) + 2 * channels * n if backward else 0.0
    elif backend == "tree":
        chunk = chunk_size(length, order)
        moments = min(chunk, order) / chunk if chunk < length else 0.0
        numbers = lines * length * ((5.0 if moments else 2.0) + 10 * moments)
        numbers += lines * length * ((7.0 if moments else 4.0) + 12 * moments) if backward else 0.0
    elif backend == "dense":
        numbers = 2.0 * lines * length + channels * length**2
        numbers += 4.0 * lines * length + 2 * channels * length**2 if backward else 0.0
    elif backend == "sdpa":
        numbers = 4.0 * lines * length * (3 if backward else 1)
    else:
        raise ValueError(f"no cost formula for backend '{backend}'; legal: fft, tree, dense, sdpa")
    return _BYTES * numbers
