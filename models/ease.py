"""EASE^R, a linear autoencoder of items in closed form (Steck, Embarrassingly shallow autoencoders, WWW 2019).

X `[U, V]` is 1 where a user has had an item. The weights B minimise ‖X − XB‖² + λ‖B‖² (Frobenius norms) under a
diagonal of zero, so that no item explains itself. With P = (XᵀX + λI)⁻¹ that is B_ij = −P_ij / P_jj, i ≠ j, and the
score of j after a history is the sum of B_ij over the distinct items i in it. The order of events plays no part:
what a sequence model ranks better than EASE, it owes to order.

In float64, one matrix of 8 V² bytes that is factored and inverted in place: 1.2 GB for 12,000 items. The time
grows with V³, so a catalogue above `LARGEST_CATALOGUE` is refused before anything is allocated.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from models.base import Interactions, Scorer, register_reference
from models.counts import Floats, Integers

# The best of 20, 50, 100, 200, 500 and 2,000 on validation of MovieLens-1M.
REGULARISATION = 200.0
LARGEST_CATALOGUE = 20_000
_BLOCK_BYTES = 1 << 27


@register_reference("ease", citation="Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019")
class Ease(Scorer):
    """Score of item j: `Σ_{i in the history} B_ij`, B by ridge regression with a diagonal of zero.

    Args:
        regularisation: λ above 0, in users: what is added to the number of users of every item.

    Raises:
        ValueError: λ is not above 0.
    """

    def __init__(self, regularisation: float = REGULARISATION) -> None:
        if not 0 < regularisation < np.inf:
            raise ValueError(
                f"regularisation is {regularisation}; it must be above 0 and finite, such as {REGULARISATION:g}"
            )
        self._regularisation = regularisation
        self._weights: Floats | None = None

    def fit(self, interactions: Interactions) -> None:
        """Solve for the weights.

        Raises:
            MemoryError: The catalogue is above `LARGEST_CATALOGUE`.
        """
        size = interactions.num_items
        if size > LARGEST_CATALOGUE:
            # A cell that needs more memory than it may have is a result, not a fault.
            raise MemoryError(
                f"ease needs a matrix of items by items: {8 * size**2:,} bytes for {size:,} items; it takes at most "
                f"{LARGEST_CATALOGUE:,} items ({8 * LARGEST_CATALOGUE**2:,} bytes). Leave ease out of `references`"
            )
        weights = _gram(interactions)
        np.fill_diagonal(weights, weights.diagonal() + self._regularisation)
        _invert(weights)
        weights /= -weights.diagonal()
        np.fill_diagonal(weights, 0)
        self._weights = weights

    def scores(self, items: Integers, lengths: Integers) -> Floats:
        """`[B, V]`.

        Raises:
            ValueError: Called before `fit`.
        """
        if self._weights is None:
            raise ValueError("ease has no weights yet; call fit(interactions) first")
        rows, columns = np.nonzero(items)
        had = _ones(rows, items[rows, columns] - 1, (len(items), len(self._weights)))
        return np.asarray(had @ self._weights)


def _ones(rows: Integers, columns: Integers, shape: tuple[int, int]) -> sparse.csr_array[np.float64]:
    """1 at some places, however often they are named."""
    found = sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
    found.data[:] = 1
    return found


def _gram(interactions: Interactions) -> Floats:
    """XᵀX `[V, V]`: how many users have had both items."""
    size, users = interactions.num_items, np.diff(interactions.offsets)
    items = np.asarray(interactions.items, dtype=np.int64) - 1
    had = _ones(np.repeat(np.arange(len(users)), users), items, (len(users), size))
    found, by_item = np.empty((size, size)), had.T.tocsr()
    rows = max(1, _BLOCK_BYTES // (8 * size))
    for first in range(0, size, rows):
        # A sparse product of all rows at once would take more than the dense matrix itself.
        (by_item[first : first + rows] @ had).todense(out=found[first : first + rows])
    return found


def _invert(matrix: Floats) -> None:
    """The inverse of a symmetric positive definite `[n, n]`, in its place."""
    # LAPACK counts columns first: its lower triangle is our upper one.
    triangle, failed = lapack.dpotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
    if not failed:
        triangle, failed = lapack.dpotri(triangle, lower=1, overwrite_c=1)
    if failed:
        raise ArithmeticError(f"ease: its matrix cannot be inverted (LAPACK says {failed}); raise regularisation")
    # In place, or the result would be lost.
    assert np.shares_memory(triangle, matrix)
    # Row blocks, since a mirrored copy would be a second matrix.
    rows = max(1, _BLOCK_BYTES // (8 * len(matrix)))
    for first in range(0, len(matrix), rows):
        part = slice(first, first + rows)
        matrix[part, :first] = matrix[:first, part].T
        matrix[part, part] = np.triu(matrix[part, part]) + np.triu(matrix[part, part], 1).T
