"""An exact O(L) causal convolution for Legendre kernels: moments passed through a binary tree.

    y[t] = Σ_{s ≤ t} h(t − s) x[s],    h(τ) = e^{−aτ} Σ_{k<K} c_k P_k(2τ/(W−1) − 1)

An FFT needs O(L log L). A polynomial kernel is separable, so O(L) is possible, but the textbook
form (one K-vector of state shifted event by event) is unstable: a rounding error in the state is
later evaluated outside the window, where P_k grows like 5.83^k. Here every block of events keeps
the moments of its input in its own interval and nothing is ever evaluated outside the window.

Derivation. Cut the sequence into chunks of C events, C ≥ K; a node of level l covers S = C·2^l of
them. Let Q_S be the orthonormal polynomials on S samples (models/ops/legendre_basis.py).

1. Inside a chunk: a C × C triangular Toeplitz product with the taps h(0) … h(C − 1).
2. Two siblings, sources j in the left one and targets i in the right one: the lag is τ = S + i − j
   in 1 … 2S − 1, so with E = coupling(S, S) and G = Σ_m E[:, :, m] c_m

       Σ_j h(τ) x[j] = e^{−ai} Σ_k Q_S[i, k] Σ_l G[k, l] z[l],   z[l] = Σ_j Q_S[j, l] e^{−a(S−j)} x[j].

   z are the moments of the left sibling; what G makes of them is the right one's expansion.
3. Every pair of chunks is separated at exactly one level, so 1 and 2 together are the whole sum.
4. Moments go up: a parent's polynomials restricted to a child are A Q_child, hence
   z_parent = e^{−aS} z_left A_Lᵀ + z_right A_Rᵀ. Expansions go down by the transposes:
   w_left += w_parent A_L, w_right += e^{−aS} w_parent A_R. All A are contractions, all factors ≤ 1.

Per element about 2C + 4K + 10K²/C multiply-adds and 4K/C numbers of extra memory, whatever L is.

Blocks that the sequence's end cuts short have bases on the samples that are there, never beyond:
extrapolating the polynomials over the padding instead loses all digits at K = 64. Where the
sequence is longer than the window it is cut into segments of W; what an event sees of the segment
before its own is the same tree with the siblings' roles exchanged (lags W + i − j with j > i).

The gradient in x is the same tree with time reversed: the transposes of all matrices, source and
target exchanged (`_Maps.transposed`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.ops import legendre_tree_native as native_tree
from models.ops.kernels import LegendreKernel
from models.ops.legendre_basis import Matrix, basis, coupling, legendre_values, restriction

# Events of a chunk. Small chunks do less work inside, large ones have fewer moments; 64 is the best
# of 32, 64, 128 for K = 16 on the machine of tests/benchmarks/test_operators.py.
CHUNK = 64
GROUP_BYTES = 1 << 19


def legendre_tree_convolution(x: Tensor, kernel: LegendreKernel) -> Tensor:
    """Causal convolution with a Legendre kernel and its skip term, O(L).

    Args:
        x: `[D, B, L]` float32 or float64, any L ≥ 1.
        kernel: Coefficients `[D, K]`, decay and skip in the type of `x`.

    Returns:
        `[D, B, L]`.
    """
    channels, batch, length = x.shape
    if _native(x, kernel) and kernel.order not in native_tree.ORDERS:
        missing = native_tree.padded_order(kernel.order) - kernel.order
        kernel = replace(kernel, coefficients=functional.pad(kernel.coefficients, (0, missing)))
    if kernel.window >= length:
        return _run(x, kernel, _geometry(length, kernel.order, kernel.window), wrapped=False)
    window = kernel.window
    geometry = _geometry(window, kernel.order, window)
    segments = -(-length // window)
    x = functional.pad(x, (0, segments * window - length)).view(channels, batch, segments, window)
    y = _run(x.flatten(1, 2), kernel, geometry, wrapped=False).view(channels, batch, segments, window)
    before = _run(x[:, :, :-1].flatten(1, 2), kernel, geometry, wrapped=True)
    y = y + functional.pad(before.view(channels, batch, segments - 1, window), (0, 0, 1, 0))
    return y.flatten(2)[..., :length]


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
def _geometry(length: int, order: int, window: int) -> Geometry:
    chunk = chunk_size(length, order)
    chunks = -(-length // chunk)
    levels: list[Level] = []
    samples, nodes = chunk, chunks
    while nodes > 1:
        levels.append(Level(samples, nodes, length - (nodes - 1) * samples))
        samples, nodes = 2 * samples, -(-nodes // 2)
    return Geometry(length, order, window, chunk, chunks, tuple(levels))


@dataclass(frozen=True)
class _Nodes:
    """Matrices of nodes without coefficients and decay, and the events by which decay scales them.

    Transfers are stacked over the levels below the top one, couplings over all of them.

    Attributes:
        leaf: `[C, K]` basis of a chunk; rows and columns that a short one lacks are zeros.
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
class _Constants:
    """`_Nodes` for whole pairs and, in a ragged tree, for short ones; the taps inside a chunk."""

    whole: _Nodes
    short: _Nodes
    events: Tensor
    lags: Tensor
    taps: Tensor


@functools.lru_cache(maxsize=64)
def _constants(geometry: Geometry, wrapped: bool, dtype: torch.dtype, device: torch.device) -> _Constants:
    order, chunk, window = geometry.order, geometry.chunk, geometry.window

    def tensor(numbers: ArrayLike) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float64)).to(dtype).to(device)

    def stack(matrices: list[Matrix]) -> Tensor:
        """Pad with zeros where a short node has fewer polynomials."""
        padded = [np.pad(m, [(0, order - size) for size in m.shape]) for m in matrices]
        return tensor(np.stack(padded) if padded else np.zeros((0, order, order)))

    def pair(sources: int, targets: int, gap: int) -> Matrix:
        tensor = coupling(sources, targets, order, window, gap).transpose(2, 1, 0)
        return np.pad(tensor, [(0, order - size) for size in tensor.shape]).reshape(order, -1)

    def nodes(leaf: int, levels: list[Level], below_top: list[Level], short: bool) -> _Nodes:
        right = {level: level.last if short else level.samples for level in levels}
        # Wrapped, the source is the right sibling, one window earlier.
        sides = [(right[v], v.samples) if wrapped else (v.samples, right[v]) for v in levels]
        gaps = [window - v.samples - right[v] if wrapped else 0 for v in levels]
        # A level of short pairs only has no whole pair to couple, and its lags would be illegal.
        pairs = [
            pair(*side, gap) if short or level.pairs else np.zeros((order, order * order))
            for level, side, gap in zip(levels, sides, gaps, strict=True)
        ]
        basis_ = basis(leaf, order)
        return _Nodes(
            leaf=tensor(np.pad(basis_, ((0, chunk - leaf), (0, order - basis_.shape[1])))),
            to_end=tensor(np.maximum(leaf - np.arange(chunk), 0)),
            left=stack([restriction(v.samples + right[v], 0, v.samples, order) for v in below_top]),
            right=stack([restriction(v.samples + right[v], v.samples, right[v], order) for v in below_top]),
            reach=tensor([right[v] for v in below_top]),
            offset=tensor([v.samples for v in below_top]),
            coupling=tensor(np.stack(pairs) if pairs else np.zeros((0, order, order * order))),
            gap=tensor([max(gap, 0) for gap in gaps]),
        )

    every, below_top = list(geometry.levels), list(geometry.levels[:-1])
    lags = np.arange(window - chunk + 1, window) if wrapped else np.arange(chunk)
    return _Constants(
        whole=nodes(chunk, every, below_top, short=False),
        short=nodes(geometry.rest, [v for v in every if v.short], [v for v in below_top if v.short], short=True),
        events=tensor(np.arange(chunk)),
        lags=tensor(lags),
        taps=tensor(legendre_values(lags.astype(np.float64), order, window).T),
    )


class _Maps(NamedTuple):
    """The matrices of one sweep, per channel; or gradients of these.

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

    def transposed(self) -> _Maps:
        """The maps of the transposed operator, in which time runs backwards."""
        return _Maps(self.out, self.into, self.down.mT, self.up.mT, self.couple.mT)


def _run(x: Tensor, kernel: LegendreKernel, geometry: Geometry, *, wrapped: bool) -> Tensor:
    """`[D, R, length]` to the same: the causal part of every row, or what the next row sees of it."""
    constants = _constants(geometry, wrapped, x.dtype, x.device)
    whole = _maps(kernel, constants.whole, constants.events)
    short = _maps(kernel, constants.short, constants.events) if geometry.ragged else ()
    tree = _native_tree if _native(x, kernel) else _torch_tree
    return tree(x, _line(kernel, geometry, constants, wrapped), geometry, int(wrapped), *whole, *short)


def _native(x: Tensor, kernel: LegendreKernel) -> bool:
    return native_tree.supports(x, min(x.shape[2], kernel.window), kernel.order)


def _chunks(x: Tensor, geometry: Geometry) -> Tensor:
    """`[D, R, length]` to `[D, R, N, C]`, zeros after the end."""
    if geometry.rest < geometry.chunk:
        x = functional.pad(x, (0, geometry.chunk - geometry.rest))
    return x.contiguous().view(*x.shape[:2], geometry.chunks, geometry.chunk)


def _line(kernel: LegendreKernel, geometry: Geometry, constants: _Constants, wrapped: bool) -> Tensor:
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


def _maps(kernel: LegendreKernel, nodes: _Nodes, events: Tensor) -> _Maps:
    """Fold coefficients and decay into the constants; autograd differentiates this."""
    channels, order = kernel.channels, kernel.order
    couple = torch.matmul(kernel.coefficients, nodes.coupling).view(-1, channels, order, order)
    left, right = (side[:, None].expand(-1, channels, -1, -1) for side in (nodes.left, nodes.right))
    if kernel.decay is None:
        leaf = nodes.leaf.expand(channels, -1, -1)
        return _Maps(leaf, leaf, torch.cat((left.mT, right.mT), 2), torch.cat((left, right), 3), couple)
    rate = kernel.decay[:, None, None]
    reach, offset, gap = (torch.exp(-rate * d[:, None, None, None]) for d in (nodes.reach, nodes.offset, nodes.gap))
    return _Maps(
        into=nodes.leaf * torch.exp(-rate * nodes.to_end[:, None]),
        out=nodes.leaf * torch.exp(-rate * events[:, None]),
        up=torch.cat((left.mT * reach, right.mT), 2),
        down=torch.cat((left, right * offset), 3),
        couple=couple * gap,
    )


class _Tree(torch.autograd.Function):
    """Rows `[D, R, length]`; couplings read the sibling `source`, 0 left or 1 right.

    The maps of whole nodes come one by one, then in a ragged tree those of short nodes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, line: Tensor, geometry: Geometry, source: int, *tensors: Tensor) -> Tensor:
        chunks = _chunks(x, geometry)
        toeplitz = line.unfold(1, geometry.chunk, 1).flip(1)
        maps = _split(tensors)
        moments, expansions = _sweep(chunks, maps, geometry, source)
        y = torch.empty_like(chunks)
        for part in _parts(chunks):
            _output(chunks, toeplitz, expansions, maps, part, y)
        # Only the gradients of decay's factors need the expansions.
        kept = expansions if ctx.needs_input_grad[4] else []
        ctx.save_for_backward(chunks, toeplitz, *tensors, *moments, *kept)
        ctx.geometry, ctx.source, ctx.maps = geometry, source, len(tensors)
        return y.flatten(2)[..., : geometry.length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        geometry, levels = ctx.geometry, len(ctx.geometry.levels)
        chunks, toeplitz, *saved = ctx.saved_tensors
        maps, states = _split(saved[: ctx.maps]), saved[ctx.maps :]
        moments, expansions = states[:levels], states[levels:]
        gradient = _chunks(gradient, geometry)
        transposed = [m.transposed() for m in maps]
        sensitivities, reactions = _sweep(gradient, transposed, geometry, 1 - ctx.source)
        gradients: list[Tensor | None] = [None] * ctx.maps
        by_decay = levels > 0 and ctx.needs_input_grad[4]
        into_gradient, out_gradient = (torch.empty_like(maps[0].into) for _ in range(2))
        if by_decay:
            gradients[:2] = into_gradient, out_gradient
        x_gradient, products = torch.empty_like(chunks), torch.empty_like(toeplitz)
        into, out = (_whole_leaves(s, geometry) if by_decay else None for s in (reactions, expansions))
        for part in _parts(chunks):
            _output(gradient, toeplitz.mT, reactions, transposed, part, x_gradient)
            x, y = chunks[part].flatten(1, 2).mT, gradient[part].flatten(1, 2)
            torch.bmm(x, y, out=products[part])
            if into is not None and out is not None:
                torch.bmm(x, into[part], out=into_gradient[part])
                torch.bmm(y.mT, out[part], out=out_gradient[part])
        if levels and ctx.needs_input_grad[1]:
            for n in range(len(maps)):
                pairs = _Pairs(geometry, short=n == 1)
                gradients[5 * n + 4] = pairs.couplings(moments, sensitivities, ctx.source)
                if by_decay:
                    gradients[5 * n + 2] = pairs.transfers(moments, reactions)
                    gradients[5 * n + 3] = pairs.transfers(sensitivities, expansions).mT
            if by_decay and len(maps) > 1:
                gradients[5] = torch.bmm(chunks[:, :, -1].mT, reactions[0][:, :, -1])
                gradients[6] = torch.bmm(gradient[:, :, -1].mT, expansions[0][:, :, -1])
        x_gradient = x_gradient.flatten(2)[..., : geometry.length]
        return x_gradient, _diagonal_sums(products), None, None, *gradients


class _NativeTree(torch.autograd.Function):
    """`_Tree` by models/ops/legendre_tree.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, line: Tensor, geometry: Geometry, source: int, *tensors: Tensor) -> Tensor:
        chunks, line, tensors = _chunks(x, geometry), line.contiguous(), tuple(t.contiguous() for t in tensors)
        y = native_tree.forward(chunks, line, geometry, source, tensors)
        ctx.save_for_backward(chunks, line, *tensors)
        ctx.geometry, ctx.source = geometry, source
        return y.flatten(2)[..., : geometry.length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        geometry, decay = ctx.geometry, ctx.needs_input_grad[4]
        chunks, line, *tensors = ctx.saved_tensors
        gradient = _chunks(gradient, geometry)
        found = native_tree.backward(chunks, gradient, line, geometry, ctx.source, tensors, decay)
        maps = [g if need else None for g, need in zip(found.maps, ctx.needs_input_grad[4:], strict=True)]
        return found.x.flatten(2)[..., : geometry.length], found.line, None, None, *maps


# torch leaves `apply` untyped.
_torch_tree: Callable[..., Tensor] = _Tree.apply
_native_tree: Callable[..., Tensor] = _NativeTree.apply


def _split(tensors: Sequence[Tensor]) -> list[_Maps]:
    size = len(_Maps._fields)
    return [_Maps(*tensors[start : start + size]) for start in range(0, len(tensors), size)]


def _parts(chunks: Tensor) -> list[slice]:
    """Channels in groups that fit a core's cache, so that the leaves' products share one read."""
    channels = chunks.shape[0]
    if chunks.device.type != "cpu":
        return [slice(0, channels)]
    size = max(1, GROUP_BYTES // (chunks[0].numel() * chunks.element_size()))
    return [slice(start, start + size) for start in range(0, channels, size)]


def _output(
    chunks: Tensor, toeplitz: Tensor, expansions: list[Tensor], maps: list[_Maps], part: slice, y: Tensor
) -> None:
    """Write some channels of the result: the products inside chunks and what the expansions add."""
    flat = y[part].flatten(1, 2)
    torch.bmm(chunks[part].flatten(1, 2), toeplitz[part], out=flat)
    if expansions:
        whole = expansions[0][part]
        if len(maps) > 1:
            # The last chunk has another basis.
            whole = whole.clone()
            whole[:, :, -1] = 0
        flat.baddbmm_(whole.flatten(1, 2), maps[0].out[part].mT)
        if len(maps) > 1:
            y[part][:, :, -1] += torch.bmm(expansions[0][part][:, :, -1], maps[1].out[part].mT)


def _whole_leaves(states: Sequence[Tensor], geometry: Geometry) -> Tensor:
    """`[D, R · N, K]` of the leaves, with zeros for a short last chunk."""
    leaves = states[0]
    if geometry.ragged:
        leaves = leaves.clone()
        leaves[:, :, -1] = 0
    return leaves.flatten(1, 2)


def _sweep(chunks: Tensor, maps: list[_Maps], geometry: Geometry, source: int) -> tuple[list[Tensor], list[Tensor]]:
    """Moments and expansions `[D, R, nodes, K]` of all levels, leaves first."""
    if not geometry.levels:
        return [], []
    moments = _moments(chunks, maps, geometry)
    return moments, _expansions(moments, maps, geometry, source)


def _moments(chunks: Tensor, maps: list[_Maps], geometry: Geometry) -> list[Tensor]:
    channels, rows, count, _ = chunks.shape
    leaves = torch.bmm(chunks.flatten(1, 2), maps[0].into).view(channels, rows, count, -1)
    if len(maps) > 1:
        leaves[:, :, -1] = torch.bmm(chunks[:, :, -1], maps[1].into)
    moments = [leaves]
    for number, level in enumerate(geometry.levels[:-1]):
        below = moments[-1]
        parents = [_product(_siblings(below, level), maps[0].up[number], rows)] if level.pairs else []
        if level.short:
            matrix = maps[1].up[geometry.short_index(number)]
            parents.append(_product(_siblings(below, level, short=True), matrix, rows))
        elif level.nodes % 2:
            # Without a sibling a node and its parent are the same block.
            parents.append(below[:, :, -1:])
        moments.append(torch.cat(parents, 2) if len(parents) > 1 else parents[0])
    return moments


def _expansions(moments: list[Tensor], maps: list[_Maps], geometry: Geometry, source: int) -> list[Tensor]:
    rows, order = moments[0].shape[1], geometry.order
    # Zeros in the source's place let one product write both siblings.
    side = (order, 0) if source == 0 else (0, order)
    couple = [functional.pad(m.couple, side) for m in maps]
    above: Tensor | None = None
    expansions: list[Tensor] = []
    for number in range(len(geometry.levels) - 1, -1, -1):
        level, children = geometry.levels[number], []
        for short in (False, True):
            if not (level.short if short else level.pairs):
                continue
            place = geometry.short_index(number) if short else number
            sources = _siblings(moments[number], level, short)[..., source * order :][..., :order]
            if above is None:
                pair = torch.bmm(sources, couple[short][place])
            else:
                pair = torch.bmm(_parents(above, level, short), maps[short].down[place])
                pair.baddbmm_(sources, couple[short][place])
            children.append(pair.view(pair.shape[0], rows, -1, order))
        if level.nodes % 2 and above is not None:
            children.append(above[:, :, -1:])
        above = torch.cat(children, 2) if len(children) > 1 else children[0]
        expansions.append(above)
    return expansions[::-1]


def _product(states: Tensor, matrix: Tensor, rows: int) -> Tensor:
    """`[D, R · nodes, ·]` times `[D, ·, K]`, as `[D, R, nodes, K]`."""
    return torch.bmm(states, matrix).view(states.shape[0], rows, -1, matrix.shape[-1])


def _siblings(states: Tensor, level: Level, short: bool = False) -> Tensor:
    """Pairs of a level's nodes side by side: `[D, R · pairs, 2K]`, the whole ones or the short one."""
    first = 2 * level.pairs
    chosen = states[:, :, first : first + 2] if short else states[:, :, :first]
    return chosen.reshape(states.shape[0], -1, 2 * states.shape[3])


def _parents(states: Tensor, level: Level, short: bool = False) -> Tensor:
    """Their parents, one level up: `[D, R · pairs, K]`."""
    chosen = states[:, :, level.pairs : level.pairs + 1] if short else states[:, :, : level.pairs]
    return chosen.reshape(states.shape[0], -1, states.shape[3])


@dataclass(frozen=True)
class _Pairs:
    """Gradients of the maps of whole or of short pairs: sums over rows and nodes of outer products."""

    geometry: Geometry
    short: bool

    def couplings(self, moments: Sequence[Tensor], sensitivities: Sequence[Tensor], source: int) -> Tensor:
        """`[levels, D, K, K]`."""
        order, found = self.geometry.order, []
        for number in self._levels(len(self.geometry.levels)):
            level = self.geometry.levels[number]
            sources = _siblings(moments[number], level, self.short)[..., source * order :][..., :order]
            targets = _siblings(sensitivities[number], level, self.short)[..., (1 - source) * order :][..., :order]
            found.append(torch.bmm(sources.mT, targets))
        return self._stack(found, moments[0], order)

    def transfers(self, children: Sequence[Tensor], parents: Sequence[Tensor]) -> Tensor:
        """`[levels − 1, D, 2K, K]`."""
        found = []
        for number in self._levels(len(self.geometry.levels) - 1):
            level = self.geometry.levels[number]
            pairs = _siblings(children[number], level, self.short)
            found.append(torch.bmm(pairs.mT, _parents(parents[number + 1], level, self.short)))
        return self._stack(found, children[0], 2 * self.geometry.order)

    def _levels(self, count: int) -> list[int]:
        return [n for n in range(count) if self.geometry.levels[n].short or not self.short]

    @staticmethod
    def _stack(found: list[Tensor], like: Tensor, height: int) -> Tensor:
        return torch.stack(found) if found else like.new_zeros(0, like.shape[0], height, like.shape[3])


def _diagonal_sums(matrix: Tensor) -> Tensor:
    """`[D, 2C − 1]`: for lag −(C − 1) … C − 1 the sum over j of `M[j, j + lag]` of `[D, C, C]`."""
    channels, chunk, _ = matrix.shape
    events = torch.arange(chunk, device=matrix.device)
    lags = (events - events[:, None] + chunk - 1).flatten()
    return matrix.new_zeros(channels, 2 * chunk - 1).index_add_(1, lags, matrix.view(channels, -1))
