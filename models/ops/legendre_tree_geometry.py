"""How the Legendre tree cuts rows into chunks, and the levels of nodes above them.

Shared by the tree in torch (models/ops/legendre_tree.py) and natively (models/ops/legendre_tree_native.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from models.ops import native

# Events of a chunk. Small chunks do less work inside, large ones have fewer moments; 64 is the best
# of 32, 64, 128 for K = 16 on the machine of tests/benchmarks/test_operators.py.
CHUNK = native.TREE_CHUNK


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
    """

    samples: int
    nodes: int
    last: int

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

    def short_index(self, level: int) -> int:
        """Where a level's short pair is among all short pairs, from the leaves upwards."""
        return sum(below.short for below in self.levels[:level])


@functools.lru_cache(maxsize=256)
def tree_geometry(length: int, order: int, window: int) -> Geometry:
    """The tree over rows of `length` events, for K = `order` polynomials on a window of `window` events."""
    chunk = chunk_size(length, order)
    chunks = -(-length // chunk)
    levels: list[Level] = []
    samples, nodes = chunk, chunks
    while nodes > 1:
        levels.append(Level(samples, nodes, length - (nodes - 1) * samples))
        samples, nodes = 2 * samples, -(-nodes // 2)
    return Geometry(length, order, window, chunk, chunks, tuple(levels))
