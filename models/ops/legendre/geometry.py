"""How the Legendre tree cuts rows into chunks, and the levels of nodes above them.

Shared by the tree in torch (models/ops/legendre/tree.py) and natively (models/ops/legendre/native.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from models.ops.legendre.basis import rank

# Events of a chunk. Small chunks do less work inside, large ones have fewer moments; 64 is the best
# of 32, 64, 128 for K = 16 on the machine of tests/benchmarks/test_operators.py.
# models/ops/legendre/native.cpp is written for the same number, kChunk.
CHUNK = 64


def chunk_size(length: int, order: int) -> int:
    """Events C of a chunk, at least K."""
    return min(length, max(CHUNK, order))


@dataclass(frozen=True)
class Level:
    """Nodes of one level of the tree over a row.

    Attributes:
        samples: Events S of a whole node.
        nodes: Number of nodes; the last may be short.
        last: Events of the last node, 1 … S.
        rank: Moments J ≤ K that a node keeps; never less than one level below.
    """

    samples: int
    nodes: int
    last: int
    rank: int

    @property
    def short(self) -> bool:
        """Whether the last node is the right one of a pair and is not whole."""
        return self.nodes % 2 == 0 and self.last < self.samples

    @property
    def pairs(self) -> int:
        """Pairs of siblings that are both whole."""
        return self.nodes // 2 - self.short


@dataclass(frozen=True)
class Geometry:
    """How rows are cut into chunks, and the levels above them, up to the one with two nodes."""

    length: int
    order: int
    window: int
    chunk: int
    chunks: int
    levels: tuple[Level, ...]

    @property
    def rest(self) -> int:
        """Events of the last chunk, 1 … C."""
        return self.length - (self.chunks - 1) * self.chunk

    @property
    def ragged(self) -> bool:
        """Whether some node is short; the last chunk then has matrices of its own."""
        return self.rest < self.chunk or any(level.short for level in self.levels)

    def ranks(self, short: bool) -> list[tuple[int, int]]:
        """Rank of each level and of the one above it, the top one's own there; of the levels with short pairs alone."""
        above = [*self.levels[1:], *self.levels[-1:]]
        pairs = zip(self.levels, above, strict=True)
        return [(level.rank, parent.rank) for level, parent in pairs if level.short or not short]

    def short_index(self, level: int) -> int:
        """Where a level's short pair is among all short pairs, from the leaves upwards."""
        return sum(below.short for below in self.levels[:level])


@functools.lru_cache(maxsize=256)
def tree_geometry(length: int, order: int, window: int, tolerance: float = 0.0, multiple: int = 1) -> Geometry:
    """The tree over rows of `length` events.

    Args:
        length: Events of a row.
        order: Polynomials K.
        window: Kernel length W ≥ `length`.
        tolerance: What the ranks may leave out, as in `legendre_basis.rank`.
        multiple: Ranks are multiples of it, or K.
    """
    chunk = chunk_size(length, order)
    chunks = -(-length // chunk)
    sizes: list[tuple[int, int]] = []
    samples, nodes = chunk, chunks
    while nodes > 1:
        sizes.append((samples, nodes))
        samples, nodes = 2 * samples, -(-nodes // 2)
    levels: list[Level] = []
    above = order
    for samples, nodes in reversed(sizes):
        # Short nodes pad what their own basis lacks; with a tolerance, at most what a whole one keeps.
        kept = rank(samples, order, window, tolerance) if tolerance > 0 else order
        above = min(above, -(-kept // multiple) * multiple)
        levels.insert(0, Level(samples, nodes, length - (nodes - 1) * samples, above))
    return Geometry(length, order, window, chunk, chunks, tuple(levels))
