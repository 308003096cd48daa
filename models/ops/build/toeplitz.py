"""Toeplitz matrices of a convolution's taps, and the sums along their diagonals that undo them.

Backward of each other: the gradient of a line of taps is the diagonal sums of the matrix's gradient.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def toeplitz(line: Tensor) -> Tensor:
    """The matrix whose entry from source s to target t is the tap at lag t − s.

    Args:
        line: `[D, 2n − 1]` taps at the lags −(n − 1) … n − 1.

    Returns:
        `[D, n, n]`, `M[s, t] = line[t − s + n − 1]`; a view of a copy, not of `line`.
    """
    return line.unfold(1, (line.shape[1] + 1) // 2, 1).flip(1)


def diagonal_sums(matrix: Tensor, first: int | None = None) -> Tensor:
    """For each lag τ the sum over s of `M[s, s + τ]`.

    Args:
        matrix: `[D, n, n]`.
        first: The least lag wanted, −(n − 1) … 0; default all.

    Returns:
        `[D, n − first]`, lags first … n − 1.
    """
    channels, size, _ = matrix.shape
    before = size - 1 if first is None else -first
    # Zeros on both sides, then rows one number longer than they are: each starts one column later.
    padded = functional.pad(matrix, (before, size))
    width = padded.shape[2]
    skewed = padded.as_strided((channels, size, before + size), (size * width, width + 1, 1))
    return skewed.sum(1)
