"""The matrices of the Legendre tree: float64 constants, and coefficients and decay folded into them.

The derivation and the notation are those of models/ops/legendre/tree.py.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from models.ops.legendre.basis import Matrix, basis, coupling, legendre_values, restriction
from models.ops.legendre.geometry import Geometry, Level
from models.ops.legendre.taps import LegendreKernel


@dataclass(frozen=True)
class Nodes:
    """Matrices of nodes without coefficients and decay, and the events by which decay scales them.

    Transfers are stacked over the levels below the top one, couplings over all of them.

    Attributes:
        leaf: `[C, K]` basis of a chunk; what a short one lacks or its rank leaves out is zero, here
            and in all other matrices.
        to_end: `[C]` events from each event to the chunk's end.
        left: `[levels − 1, K, K]` restriction of a parent to its left child.
        right: The same to its right child.
        reach: `[levels − 1]` events from the left child's end to the parent's.
        offset: `[levels − 1]` events from the parent's start to the right child's.
        coupling: `[levels, K, K²]` by coefficient, then source and target.
        gap: `[levels]` events between source and target.
    """

    leaf: Tensor
    to_end: Tensor
    left: Tensor
    right: Tensor
    reach: Tensor
    offset: Tensor
    coupling: Tensor
    gap: Tensor


@dataclass(frozen=True)
class Constants:
    """`Nodes` for whole pairs and, in a ragged tree, for short ones; the taps inside a chunk."""

    whole: Nodes
    short: Nodes
    events: Tensor
    lags: Tensor
    taps: Tensor


@functools.lru_cache(maxsize=64)
def tree_constants(geometry: Geometry, wrapped: bool, dtype: torch.dtype, device: torch.device) -> Constants:
    """What a tree needs beside the kernel's own numbers, built in float64 and rounded once.

    Args:
        geometry: How rows are cut.
        wrapped: Whether the sources lie one window before the targets.
        dtype: Of the matrices.
        device: Where they are kept.
    """
    order, chunk, window = geometry.order, geometry.chunk, geometry.window

    def tensor(numbers: ArrayLike) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float64)).to(dtype).to(device)

    parents = {below: above.rank for below, above in itertools.pairwise(geometry.levels)}

    def stack(matrices: list[Matrix], levels: list[Level]) -> Tensor:
        """Pad with zeros to K × K what a parent and its child keep."""
        kept = [m[: parents[v], : v.rank] for m, v in zip(matrices, levels, strict=True)]
        padded = [np.pad(m, [(0, order - size) for size in m.shape]) for m in kept]
        return tensor(np.stack(padded) if padded else np.zeros((0, order, order)))

    def pair(level: Level, sources: int, targets: int, gap: int) -> Matrix:
        kept = coupling(sources, targets, order, window, gap)[: level.rank, : level.rank].transpose(2, 1, 0)
        return np.pad(kept, [(0, order - size) for size in kept.shape]).reshape(order, -1)

    def nodes(leaf: int, levels: list[Level], below_top: list[Level], short: bool) -> Nodes:
        right = {level: level.last if short else level.samples for level in levels}
        # Wrapped, the source is the right sibling, one window earlier.
        sides = [(right[v], v.samples) if wrapped else (v.samples, right[v]) for v in levels]
        gaps = [window - v.samples - right[v] if wrapped else 0 for v in levels]
        # A level of short pairs only has no whole pair to couple, and its lags would be illegal.
        pairs = [
            pair(level, *side, gap) if short or level.pairs else np.zeros((order, order * order))
            for level, side, gap in zip(levels, sides, gaps, strict=True)
        ]
        basis_ = basis(leaf, order)[:, : geometry.levels[0].rank if geometry.levels else order]
        return Nodes(
            leaf=tensor(np.pad(basis_, ((0, chunk - leaf), (0, order - basis_.shape[1])))),
            to_end=tensor(np.maximum(leaf - np.arange(chunk), 0)),
            left=stack([restriction(v.samples + right[v], 0, v.samples, order) for v in below_top], below_top),
            right=stack([restriction(v.samples + right[v], v.samples, right[v], order) for v in below_top], below_top),
            reach=tensor([right[v] for v in below_top]),
            offset=tensor([v.samples for v in below_top]),
            coupling=tensor(np.stack(pairs) if pairs else np.zeros((0, order, order * order))),
            gap=tensor([max(gap, 0) for gap in gaps]),
        )

    every, below_top = list(geometry.levels), list(geometry.levels[:-1])
    lags = np.arange(window - chunk + 1, window) if wrapped else np.arange(chunk)
    return Constants(
        whole=nodes(chunk, every, below_top, short=False),
        short=nodes(geometry.rest, [v for v in every if v.short], [v for v in below_top if v.short], short=True),
        events=tensor(np.arange(chunk)),
        lags=tensor(lags),
        taps=tensor(legendre_values(lags.astype(np.float64), order, window).T),
    )


class Maps(NamedTuple):
    """The matrices of one sweep, per channel, stacked over levels with zeros beyond their ranks; or gradients of these.

    Attributes:
        into: `[D, C, K]` chunk to moments.
        out: `[D, C, K]` chunk from expansion.
        up: `[levels − 1, D, 2K, K]` moments of two siblings to their parent's.
        down: `[levels − 1, D, K, 2K]` parent's expansion to the siblings'.
        couple: `[levels, D, K, K]` source's moments to target's expansion.
    """

    into: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    couple: Tensor


def chunk_line(kernel: LegendreKernel, geometry: Geometry, constants: Constants, wrapped: bool) -> Tensor:
    """`[D, 2C − 1]`: a chunk's Toeplitz product by the lag −(C − 1) … C − 1 between its events."""
    taps = kernel.coefficients @ constants.taps
    if kernel.decay is not None:
        taps = taps * torch.exp(-kernel.decay[:, None] * constants.lags)
    if wrapped:
        # A lag −i inside the chunk is W − i between the segments, for sources after the target.
        return functional.pad(taps, (0, geometry.chunk))
    if kernel.skip is not None:
        taps = torch.cat((taps[:, :1] + kernel.skip[:, None], taps[:, 1:]), 1)
    return functional.pad(taps, (geometry.chunk - 1, 0))


def fold(kernel: LegendreKernel, nodes: Nodes, events: Tensor) -> Maps:
    """Fold coefficients and decay into the constants; autograd differentiates this."""
    channels, order = kernel.channels, kernel.order
    couple = torch.matmul(kernel.coefficients, nodes.coupling).view(-1, channels, order, order)
    left, right = (side[:, None].expand(-1, channels, -1, -1) for side in (nodes.left, nodes.right))
    if kernel.decay is None:
        leaf = nodes.leaf.expand(channels, -1, -1)
        return Maps(leaf, leaf, torch.cat((left.mT, right.mT), 2), torch.cat((left, right), 3), couple)
    rate = kernel.decay[:, None, None]
    reach, offset, gap = (torch.exp(-rate * d[:, None, None, None]) for d in (nodes.reach, nodes.offset, nodes.gap))
    return Maps(
        into=nodes.leaf * torch.exp(-rate * nodes.to_end[:, None]),
        out=nodes.leaf * torch.exp(-rate * events[:, None]),
        up=torch.cat((left.mT * reach, right.mT), 2),
        down=torch.cat((left, right * offset), 3),
        couple=couple * gap,
    )
