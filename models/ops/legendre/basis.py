"""Float64 constants of the Legendre tree: bases, restrictions and couplings of blocks of samples.

A block is a run of consecutive events. Every block has a basis of its own: the polynomials of
degree below K, orthonormal on its sample points. Three facts make the tree exact, and this module
holds their matrices:

1. A polynomial restricted to part of a block is still a polynomial (`restriction`, a contraction).
2. For a target block that starts where a source block of S samples ends, target sample i and source
   sample j are τ = S + i − j events apart, and P_m(τ) is a polynomial in i and in j (`coupling`).
3. e^{−a(S+i−j)} = e^{−ai} · e^{−a(S−j)}: decay only scales rows, by factors of at most 1.

No lag outside the kernel's window is ever evaluated: there Legendre polynomials grow exponentially.
The derivation of the whole tree is in models/ops/legendre/tree.py.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def legendre_values(lags: Matrix, order: int, window: int) -> Matrix:
    """Legendre polynomials on a kernel's window, `P_k(2τ/(W−1) − 1)`.

    Bonnet's recurrence `k P_k = (2k−1) x P_{k−1} − (k−1) P_{k−2}`, stable on [−1, 1].

    Args:
        lags: Lags τ in events, any shape; whole numbers or not, within [0, W − 1].
        order: Number K of polynomials, degrees 0 … K − 1.
        window: Kernel length W in events.

    Returns:
        `[..., K]`.

    Raises:
        ValueError: An order or a window below 1, or a lag outside the window.
    """
    if order < 1 or window < 1:
        raise ValueError(f"order {order} and window {window} must be at least 1")
    if lags.size and (lags.min() < 0 or lags.max() > window - 1):
        raise ValueError(
            f"lags from {lags.min():g} to {lags.max():g} must lie in 0 … {window - 1}, inside the kernel's window "
            f"of {window} events; evaluate the kernel there only"
        )
    points = 2.0 * lags / max(window - 1, 1) - 1.0
    values = np.ones((*lags.shape, order))
    if order > 1:
        values[..., 1] = points
    for k in range(2, order):
        values[..., k] = ((2 * k - 1) * points * values[..., k - 1] - (k - 1) * values[..., k - 2]) / k
    return values


@functools.lru_cache(maxsize=512)
def basis(samples: int, order: int) -> Matrix:
    """Polynomials of degree below K, orthonormal on a block's sample points.

    Args:
        samples: Samples S of the block.
        order: Number K of polynomials.

    Returns:
        `[S, J]` with `QᵀQ = 1`, J = min(S, K).
    """
    return _factors(samples, order)[0]


@functools.lru_cache(maxsize=512)
def restriction(parent: int, start: int, samples: int, order: int) -> Matrix:
    """How a block's polynomials read on a part of it: `Q_parent[start : start + S] = Q_S Aᵀ`.

    Args:
        parent: Samples of the block.
        start: First sample of the part.
        samples: Samples S of the part.
        order: Number K of polynomials.

    Returns:
        A, `[min(parent, K), min(S, K)]`, ‖A‖₂ ≤ 1. Moments of the part become moments of the
        block by `z A`ᵀ; expansions on the block become expansions on the part by `w A`.
    """
    return basis(parent, order)[start : start + samples].T @ basis(samples, order)


@functools.lru_cache(maxsize=512)
def coupling(sources: int, targets: int, order: int, window: int, gap: int = 0) -> Matrix:
    """Legendre polynomials of the lag between two blocks, in the blocks' bases.

    With i the target's sample and j the source's, the lag is τ = gap + S + i − j, and

        P_m(τ) = Σ_{k,l} E[k, l, m] Q_targets[i, k] Q_sources[j, l].

    Args:
        sources: Samples S of the source block.
        targets: Samples of the target block.
        order: Number K of polynomials.
        window: Kernel length W; all lags, gap + 1 … gap + S + targets − 1, must lie inside.
        gap: Events between the source's end and the target's start.

    Returns:
        E, `[min(targets, K), min(S, K), K]`.

    Raises:
        ValueError: A lag outside the window.
    """
    target_points, target_weights = _quadrature(targets, order)
    source_points, source_weights = _quadrature(sources, order)
    values = legendre_values(gap + sources + target_points[:, None] - source_points, order, window)
    # Two steps: einsum over all three at once would be K^5.
    half = np.tensordot(target_weights, values, axes=(0, 0))
    return np.ascontiguousarray(np.tensordot(half, source_weights, axes=(1, 0)).transpose(0, 2, 1))


@functools.lru_cache(maxsize=512)
def rank(samples: int, order: int, window: int, tolerance: float) -> int:
    """Polynomials that a block needs when parts of the kernel below a tolerance may go.

    A kernel's polynomials are smooth on a block that is short against the window: in the block's
    basis their coefficients fall faster than exponentially. They vary fastest at the window's ends,
    which two neighbouring blocks see, so these decide for all pairs of blocks of their size.

    Args:
        samples: Samples S of the block.
        order: Number K of the kernel's polynomials.
        window: Kernel length W.
        tolerance: Root mean square, over the pairs of samples of two neighbouring blocks, of what
            may be left out of each polynomial P_m, m < K, whose values lie in −1 … 1; 0: nothing.

    Returns:
        J, 1 … min(S, K). Where two blocks are longer than the window: min(S, K).
    """
    full = min(samples, order)
    if tolerance <= 0 or 2 * samples > window:
        return full
    energy = coupling(samples, samples, order, window) ** 2
    for kept in range(1, full):
        dropped = max(energy[kept:].sum((0, 1)).max(), energy[:, kept:].sum((0, 1)).max())
        if dropped**0.5 < tolerance * samples:
            return kept
    return full


@functools.lru_cache(maxsize=512)
def _factors(samples: int, order: int) -> tuple[Matrix, Matrix]:
    """QR of the block's Legendre table, diagonal of R positive: `[S, J]` and `[J, K]`."""
    points = 2.0 * np.arange(samples) / max(samples - 1, 1) - 1.0
    table = legendre.legvander(points, order - 1) * np.sqrt(2 * np.arange(order) + 1)
    q, r = np.linalg.qr(table)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return q * signs, r * signs[:, None]


@functools.lru_cache(maxsize=512)
def _quadrature(samples: int, order: int) -> tuple[Matrix, Matrix]:
    """Points in a block and weights `[points, J]` that give a polynomial's coefficients in its basis.

    The samples themselves where there are few; else Gauss's K nodes, which are exact for degree
    2K − 1 and need no sum over all samples.
    """
    if samples <= 2 * order:
        return np.arange(samples, dtype=np.float64), basis(samples, order)
    nodes, weights = legendre.leggauss(order)
    continuous = legendre.legvander(nodes, order - 1) * np.sqrt(2 * np.arange(order) + 1)
    return (samples - 1) * (nodes + 1) / 2, (continuous * (weights / 2)[:, None]) @ _factors(samples, order)[1].T
