"""An exact O(L) causal convolution for Legendre kernels: moments passed through a binary tree.

    y[t] = Σ_{s ≤ t} h(t − s) x[s],    h(τ) = e^{−aτ} Σ_{k<K} c_k P_k(2τ/(W−1) − 1)

An FFT needs O(L log L). A polynomial kernel is separable, so O(L) is possible, but the textbook
form (one K-vector of state shifted event by event) is unstable: a rounding error in the state is
later evaluated outside the window, where P_k grows like 5.83^k. Here every block of events keeps
the moments of its input in its own interval and nothing is ever evaluated outside the window.

Derivation. Cut the sequence into chunks of C events, C ≥ K; a node of level l covers S = C·2^l of
them. Let Q_S be the orthonormal polynomials on S samples (models/ops/legendre/basis.py).

1. Inside a chunk: a C × C triangular Toeplitz product with the taps h(0) … h(C − 1).
2. Two siblings, sources j in the left one and targets i in the right one: the lag is τ = S + i − j
   in 1 … 2S − 1, so with E = coupling(S, S) and G = Σ_m E[:, :, m] c_m

       Σ_j h(τ) x[j] = e^{−ai} Σ_k Q_S[i, k] Σ_l G[k, l] z[l],   z[l] = Σ_j Q_S[j, l] e^{−a(S−j)} x[j].

   z are the moments of the left sibling; what G makes of them is the right one's expansion.
3. Every pair of chunks is separated at exactly one level, so 1 and 2 together are the whole sum.
4. Moments go up: a parent's polynomials restricted to a child are A Q_child, hence
   z_parent = e^{−aS} z_left A_Lᵀ + z_right A_Rᵀ. Expansions go down by the transposes:
   w_left += w_parent A_L, w_right += e^{−aS} w_parent A_R. All A are contractions, all factors ≤ 1.

Per element about 2C + 4K + 10K²/C operations and 4K/C numbers of extra memory, whatever L is.

Blocks that the sequence's end cuts short have bases on the samples that are there, never beyond:
extrapolating the polynomials over the padding instead loses all digits at K = 64. Where the
sequence is longer than the window it is cut into segments of W; what an event sees of the segment
before its own is the same tree with the siblings' roles exchanged (lags W + i − j with j > i).

The gradient in x is the same tree with time reversed: the transposes of all matrices, source and
target exchanged (`Maps.transposed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.ops.build.toeplitz import diagonal_sums, toeplitz
from models.ops.legendre import native as native_tree
from models.ops.legendre.geometry import Geometry, Level, chunk_size, tree_geometry
from models.ops.legendre.maps import Maps, chunk_line, fold, tree_constants
from models.ops.legendre.taps import LegendreKernel

# Bytes of x that a group of channels may have in a core's cache.
GROUP_BYTES = 1 << 19


def legendre_tree_convolution(x: Tensor, kernel: LegendreKernel, tolerance: float = 0.0) -> Tensor:
    """Causal convolution with a Legendre kernel and its skip term, O(L).

    Args:
        x: `[D, B, L]` float32 or float64, any L ≥ 1.
        kernel: Coefficients `[D, K]`, decay and skip in the type of `x`.
        tolerance: What the ranks of moments may leave out, as in `causal_convolution`; 0: nothing.

    Returns:
        `[D, B, L]`.
    """
    channels, batch, length = x.shape
    lanes = native_tree.LANES if _native(x, kernel) else 1
    if kernel.order % lanes:
        missing = -kernel.order % lanes
        kernel = replace(kernel, coefficients=functional.pad(kernel.coefficients, (0, missing)))
    window = kernel.window
    geometry = row_geometry(length, kernel.order, window, tolerance, lanes)
    if window >= length:
        if geometry.length > length:
            x = functional.pad(x, (0, geometry.length - length))
        return _run(x, kernel, geometry, wrapped=False)[..., :length]
    segments = -(-length // window)
    x = functional.pad(x, (0, segments * window - length)).view(channels, batch, segments, window)
    y = _run(x.flatten(1, 2), kernel, geometry, wrapped=False).view(channels, batch, segments, window)
    before = _run(x[:, :, :-1].flatten(1, 2), kernel, geometry, wrapped=True)
    y = y + functional.pad(before.view(channels, batch, segments - 1, window), (0, 0, 1, 0))
    return y.flatten(2)[..., :length]


def row_geometry(length: int, order: int, window: int, tolerance: float = 0.0, multiple: int = 1) -> Geometry:
    """The tree over the rows into which sequences are laid, at most a window each; as in `tree_geometry`."""
    chunk = chunk_size(length, order)
    # Whole chunks where the window has room for them: a short one costs matrices of its own.
    return tree_geometry(min(-(-length // chunk) * chunk, window), order, window, tolerance, multiple)


def _run(x: Tensor, kernel: LegendreKernel, geometry: Geometry, *, wrapped: bool) -> Tensor:
    """`[D, R, length]` to the same: the causal part of every row, or what the next row sees of it."""
    constants = tree_constants(geometry, wrapped, x.dtype, x.device)
    whole = fold(kernel, constants.whole, constants.events)
    short = fold(kernel, constants.short, constants.events) if geometry.ragged else ()
    tree = _native_tree if _native(x, kernel) else _torch_tree
    return tree(x, chunk_line(kernel, geometry, constants, wrapped), geometry, int(wrapped), *whole, *short)


def _native(x: Tensor, kernel: LegendreKernel) -> bool:
    return native_tree.supports(x, min(x.shape[2], kernel.window), kernel.order)


def _chunks(x: Tensor, geometry: Geometry) -> Tensor:
    """`[D, R, length]` to `[D, R, N, C]`, zeros after the end."""
    if geometry.rest < geometry.chunk:
        x = functional.pad(x, (0, geometry.chunk - geometry.rest))
    return x.contiguous().view(*x.shape[:2], geometry.chunks, geometry.chunk)


class _Kept(NamedTuple):
    """`Maps` without the zeros beyond each level's rank J; J' is the next level's.

    Attributes:
        into: `[D, C, J]`.
        out: `[D, C, J]`.
        up: `[D, 2J, J']` a level.
        down: `[D, J', 2J]` a level.
        couple: `[D, J, J]` a level.
    """

    into: Tensor
    out: Tensor
    up: list[Tensor]
    down: list[Tensor]
    couple: list[Tensor]

    @classmethod
    def of(cls, maps: Maps, geometry: Geometry, short: bool) -> _Kept:
        """The maps of whole pairs, or of the short ones."""
        ranks = geometry.ranks(short)
        first = geometry.levels[0].rank if geometry.levels else geometry.order
        return cls(
            maps.into[..., :first],
            maps.out[..., :first],
            [m.unflatten(1, (2, -1))[:, :, :j, :k].flatten(1, 2) for m, (j, k) in zip(maps.up, ranks, strict=False)],
            [m.unflatten(2, (2, -1))[:, :k, :, :j].flatten(2) for m, (j, k) in zip(maps.down, ranks, strict=False)],
            [m[:, :j, :j] for m, (j, _) in zip(maps.couple, ranks, strict=True)],
        )

    def transposed(self) -> _Kept:
        """The maps of the transposed operator, in which time runs backwards."""
        up, down, couple = ([m.mT for m in maps] for maps in (self.up, self.down, self.couple))
        return _Kept(self.out, self.into, down, up, couple)


class _Tree(torch.autograd.Function):
    """Rows `[D, R, length]`; couplings read the sibling `source`, 0 left or 1 right.

    The maps of whole nodes come one by one, then in a ragged tree those of short nodes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, line: Tensor, geometry: Geometry, source: int, *tensors: Tensor) -> Tensor:
        chunks = _chunks(x, geometry)
        inside = toeplitz(line)
        maps = _kept(tensors, geometry)
        moments, expansions = _sweep(chunks, maps, geometry, source)
        y = torch.empty_like(chunks)
        for part in _parts(chunks):
            _output(chunks, inside, expansions, maps, part, y)
        # Only the gradients of decay's factors need the expansions.
        kept = expansions if ctx.needs_input_grad[4] else []
        ctx.save_for_backward(chunks, inside, *tensors, *moments, *kept)
        ctx.geometry, ctx.source, ctx.maps = geometry, source, len(tensors)
        return y.flatten(2)[..., : geometry.length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        geometry, levels = ctx.geometry, len(ctx.geometry.levels)
        chunks, inside, *saved = ctx.saved_tensors
        maps, states = _kept(saved[: ctx.maps], geometry), saved[ctx.maps :]
        moments, expansions = states[:levels], states[levels:]
        gradient = _chunks(gradient, geometry)
        transposed = [m.transposed() for m in maps]
        sensitivities, reactions = _sweep(gradient, transposed, geometry, 1 - ctx.source)
        gradients: list[Tensor | None] = [None] * ctx.maps
        by_decay = levels > 0 and ctx.needs_input_grad[4]
        into_gradient, out_gradient = (torch.empty_like(maps[0].into) for _ in range(2))
        x_gradient, products = torch.empty_like(chunks), torch.empty_like(inside)
        into, out = (_whole_leaves(s, geometry) if by_decay else None for s in (reactions, expansions))
        for part in _parts(chunks):
            _output(gradient, inside.mT, reactions, transposed, part, x_gradient)
            x, y = chunks[part].flatten(1, 2).mT, gradient[part].flatten(1, 2)
            torch.bmm(x, y, out=products[part])
            if into is not None and out is not None:
                torch.bmm(x, into[part], out=into_gradient[part])
                torch.bmm(y.mT, out[part], out=out_gradient[part])
        if by_decay:
            gradients[:2] = (_widened(m, geometry.order) for m in (into_gradient, out_gradient))
        if levels and ctx.needs_input_grad[1]:
            for n in range(len(maps)):
                pairs = _Pairs(geometry, short=n == 1)
                gradients[5 * n + 4] = pairs.couplings(moments, sensitivities, ctx.source)
                if by_decay:
                    gradients[5 * n + 2] = pairs.transfers(moments, reactions)
                    gradients[5 * n + 3] = pairs.transfers(sensitivities, expansions).mT
            if by_decay and len(maps) > 1:
                into_gradient = torch.bmm(chunks[:, :, -1].mT, reactions[0][:, :, -1])
                out_gradient = torch.bmm(gradient[:, :, -1].mT, expansions[0][:, :, -1])
                gradients[5:7] = (_widened(m, geometry.order) for m in (into_gradient, out_gradient))
        x_gradient = x_gradient.flatten(2)[..., : geometry.length]
        return x_gradient, diagonal_sums(products), None, None, *gradients


class _NativeTree(torch.autograd.Function):
    """`_Tree` by models/ops/legendre/native.cpp."""

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


def _kept(tensors: Sequence[Tensor], geometry: Geometry) -> list[_Kept]:
    """Of whole pairs and, in a ragged tree, of short ones."""
    size = len(Maps._fields)
    starts = range(0, len(tensors), size)
    return [_Kept.of(Maps(*tensors[start : start + size]), geometry, start > 0) for start in starts]


def _widened(matrix: Tensor, columns: int) -> Tensor:
    """With zeros for the columns that a rank leaves out."""
    return functional.pad(matrix, (0, columns - matrix.shape[-1]))


def _parts(chunks: Tensor) -> list[slice]:
    """Channels in groups that fit a core's cache, so that the leaves' products share one read."""
    channels = chunks.shape[0]
    if chunks.device.type != "cpu":
        return [slice(0, channels)]
    size = max(1, GROUP_BYTES // (chunks[0].numel() * chunks.element_size()))
    return [slice(start, start + size) for start in range(0, channels, size)]


def _output(
    chunks: Tensor, inside: Tensor, expansions: list[Tensor], maps: list[_Kept], part: slice, y: Tensor
) -> None:
    """Write some channels of the result: the products inside chunks and what the expansions add."""
    flat = y[part].flatten(1, 2)
    torch.bmm(chunks[part].flatten(1, 2), inside[part], out=flat)
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


def _sweep(chunks: Tensor, maps: list[_Kept], geometry: Geometry, source: int) -> tuple[list[Tensor], list[Tensor]]:
    """Moments and expansions `[D, R, nodes, K]` of all levels, leaves first."""
    if not geometry.levels:
        return [], []
    moments = _moments(chunks, maps, geometry)
    return moments, _expansions(moments, maps, geometry, source)


def _moments(chunks: Tensor, maps: list[_Kept], geometry: Geometry) -> list[Tensor]:
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
            parents.append(_widened(below[:, :, -1:], geometry.levels[number + 1].rank))
        moments.append(torch.cat(parents, 2) if len(parents) > 1 else parents[0])
    return moments


def _expansions(moments: list[Tensor], maps: list[_Kept], geometry: Geometry, source: int) -> list[Tensor]:
    rows = moments[0].shape[1]
    above: Tensor | None = None
    expansions: list[Tensor] = []
    for number in range(len(geometry.levels) - 1, -1, -1):
        level, children = geometry.levels[number], []
        rank = level.rank
        for short in (False, True):
            if not (level.short if short else level.pairs):
                continue
            place = geometry.short_index(number) if short else number
            sources = _siblings(moments[number], level, short)[..., source * rank :][..., :rank]
            # Zeros in the source's place let one product write both siblings.
            couple = functional.pad(maps[short].couple[place], (rank, 0) if source == 0 else (0, rank))
            if above is None:
                pair = torch.bmm(sources, couple)
            else:
                pair = torch.bmm(_parents(above, level, short), maps[short].down[place])
                pair.baddbmm_(sources, couple)
            children.append(pair.view(pair.shape[0], rows, -1, rank))
        if level.nodes % 2 and above is not None:
            children.append(above[:, :, -1:, :rank])
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
            sources = _siblings(moments[number], level, self.short)[..., source * level.rank :][..., : level.rank]
            targets = _siblings(sensitivities[number], level, self.short)[..., (1 - source) * level.rank :]
            product = torch.bmm(sources.mT, targets[..., : level.rank])
            missing = order - level.rank
            found.append(functional.pad(product, (0, missing, 0, missing)))
        return torch.stack(found) if found else moments[0].new_zeros(0, moments[0].shape[0], order, order)

    def transfers(self, children: Sequence[Tensor], parents: Sequence[Tensor]) -> Tensor:
        """`[levels − 1, D, 2K, K]`."""
        order, found = self.geometry.order, []
        for number in self._levels(len(self.geometry.levels) - 1):
            level, above = self.geometry.levels[number : number + 2]
            pairs = _siblings(children[number], level, self.short)
            product = torch.bmm(pairs.mT, _parents(parents[number + 1], level, self.short))
            halves = product.view(len(product), 2, level.rank, above.rank)
            found.append(functional.pad(halves, (0, order - above.rank, 0, order - level.rank)).flatten(1, 2))
        return torch.stack(found) if found else children[0].new_zeros(0, children[0].shape[0], 2 * order, order)

    def _levels(self, count: int) -> list[int]:
        return [n for n in range(count) if self.geometry.levels[n].short or not self.short]
