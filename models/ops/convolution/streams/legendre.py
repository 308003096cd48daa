"""Streaming causal convolution with a Legendre kernel: the tree of blocks as a binary counter.

The product over all pairs (target t, source s), 0 ≤ t − s < W, is cut into pairs of dyadic blocks of
C, 2C, 4C … events. Two blocks of S events whose starts lie δ·S apart are Sδ − S + 1 … Sδ + S − 1
events apart, so a pair is

- inside the window if δ ≥ 1 and S(δ + 1) ≤ W: the source's moments in its own basis become a local
  expansion on the target (`legendre_basis.coupling`), in J² multiply-adds, J = min(S, K);
- outside if S(δ − 1) + 1 ≥ W: nothing;
- else cut by an edge of the window: its four pairs of halves are looked at, and at S = C it is a
  product with C × C taps, zero beyond the edges.

The edges of the window are two lines, and a block on a line meets at most three neighbours: so a
level has a handful of distances δ, whatever W and however long the stream. A block is dropped when
no later block can need it. No lag outside [0, W) is ever evaluated, nothing is subtracted, and all
transfers are contractions, so errors do not grow with time.

    close a chunk    z⁰ = X Φ_in;  z^{l+1} = e^{−aS_l} z^l_left A_Lᵀ + z^l_right A_Rᵀ   (binary counter)
    open a block     w^l = (e^{−aS_l} or 1) w^{l+1} A + Σ_δ z^l_{J−δ} G^l_δ
    open a chunk     carried = w⁰ Φ_outᵀ + Σ_δ X_{n−δ} T_δ
    one event        y_i = carried_i + Σ_{j≤i} h(i − j) x_j

Multiply-adds a channel and event, amortised: C/2 for the chunk itself, 2J + 5 to 8 J²/C for the blocks,
and at most 2C at the window's far edge once the stream is longer than it: a constant. State a channel,
while the stream is no longer than the window: 2C numbers for the chunk and what is carried into it, and
on each of log₂(W/C) levels the open block's expansion and the moments of one block behind it, together
2C + 2J log₂(W/C) where W/C is a power of two. Else blocks lie across the far end of the window: a level
keeps the moments of two blocks and the lowest a chunk of inputs, 3C + 3J log₂(W/C) (`stream_numbers`). An
exact sharp window then needs the inputs that are still to leave it (a filter with W free taps has W − 1
states, none less), so an endless stream keeps W raw inputs and about 2 J W/C moments. A `limit` no
greater than W spares both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from models.ops.convolution.streams.base import ConvolutionStream
from models.ops.convolution.streams.ring import RingStream
from models.ops.legendre.basis import Matrix, basis, coupling, legendre_values, restriction
from models.ops.legendre.taps import Kernel, LegendreKernel
from models.streaming import State

CHUNK = 64
# Up to here one product with all taps takes less time than the blocks' bookkeeping.
RING_WINDOW = 512


class LegendreStream(ConvolutionStream):
    """The stream of blocks; see the module's docstring.

    A state is `{"age", "chunk": [B, D, C], "carried": [B, D, C], "raw": {n: [B, D, C]}, "moments": a
    dict {block: [B, D, J]} a level, "expansions": [B, D, J] or None a level}`.

    Args:
        kernel: The kernel; its present values are taken.
        chunk: Events C of the smallest block.
        limit: Most events a stream will ever have; up to W it spares the raw inputs.

    Raises:
        ValueError: A chunk or a limit below 1, or a negative or infinite decay.
    """

    def __init__(self, kernel: LegendreKernel, *, chunk: int = CHUNK, limit: int | None = None) -> None:
        super().__init__(kernel, limit)
        if chunk < 1:
            raise ValueError(f"chunk {chunk} must be at least 1 event")
        kernel.check_decay()
        self.chunk = chunk
        self._plan = _Plan(kernel.window, chunk, limit)
        with torch.no_grad(), torch.autocast(kernel.coefficients.device.type, enabled=False):
            self._tabulate(kernel)

    def _tabulate(self, kernel: LegendreKernel) -> None:
        """All matrices, in float64 and rounded once."""
        plan, chunk, order, window = self._plan, self.chunk, kernel.order, kernel.window
        coefficients = kernel.coefficients.double()
        device = coefficients.device
        dtype = torch.float64 if kernel.coefficients.dtype == torch.float64 else torch.float32
        rates = coefficients.new_zeros(self.channels) if kernel.decay is None else kernel.decay.double()

        def constant(values: Matrix) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        def fade(events: Tensor | int) -> Tensor:
            return torch.exp(-rates[:, None, None] * events)

        def taps(lags: Matrix) -> Tensor:
            """`[D, lags]`, zero outside the window, where the polynomials are not evaluated."""
            inside = (lags >= 0) & (lags < window)
            values = legendre_values(np.where(inside, lags, 0.0), order, window) * inside[:, None]
            found: Tensor = (coefficients @ constant(values.T)) * torch.exp(-rates[:, None] * constant(lags.clip(0)))
            return found

        near = taps(np.arange(chunk, dtype=np.float64))
        if kernel.skip is not None:
            near[:, 0] += kernel.skip.double()
        self._near = near.flip(1).to(dtype)
        offsets = torch.arange(chunk, device=device)
        toeplitz = chunk - 1 + offsets - offsets[:, None]
        self._edges = {
            delta: taps(np.arange(1 - chunk, chunk, dtype=np.float64) + chunk * delta)[:, toeplitz].to(dtype)
            for delta in plan.edges
        }
        within = constant(np.arange(chunk, dtype=np.float64))[:, None]
        phi = constant(basis(chunk, order))
        self._inward = (fade(chunk - within) * phi).to(dtype)
        self._outward = (fade(within) * phi).transpose(1, 2).contiguous().to(dtype)
        self._merge: list[Tensor] = []
        self._split: list[tuple[Tensor, Tensor]] = []
        self._couplings: list[dict[int, Tensor]] = []
        for level, distances in enumerate(plan.couplings):
            size = chunk << level
            left, right = (constant(restriction(2 * size, start, size, order)) for start in (0, size))
            self._merge.append(torch.cat((fade(size) * left.T, right.T.expand(self.channels, -1, -1)), 1).to(dtype))
            self._split.append((left.expand(self.channels, -1, -1).to(dtype), (fade(size) * right).to(dtype)))
            tables = {}
            for delta in sorted({*distances[0], *distances[1]}):
                gap = size * (delta - 1)
                table = torch.einsum("klm,dm->dlk", constant(coupling(size, size, order, window, gap)), coefficients)
                tables[delta] = (table * fade(gap)).to(dtype)
            self._couplings.append(tables)

    def start(self, batch: int) -> State:
        """State before the first event."""
        blank = self._near.new_zeros(batch, self.channels, self.chunk)
        return {
            "age": 0,
            "chunk": blank,
            "carried": blank.clone(),
            "raw": {},
            "moments": [{} for _ in self._couplings],
            "expansions": [None for _ in self._couplings],
        }

    def _step(self, x: Tensor, state: State) -> Tensor:
        place = state["age"] % self.chunk
        inputs: Tensor = state["chunk"]
        inputs[:, :, place] = x
        y = (inputs[:, :, : place + 1] * self._near[:, self.chunk - 1 - place :]).sum(2)
        y += state["carried"][:, :, place]
        state["age"] += 1
        if place == self.chunk - 1 and state["age"] != self.limit:
            self._close(state)
        return y

    def _fill(self, x: Tensor, state: State) -> None:
        channels, batch, age = x.shape
        if age == self.limit:
            return
        opened, plan = age // self.chunk, self._plan
        values = x.to(self._near.dtype)
        past = values[:, :, : opened * self.chunk].reshape(channels, batch, opened, self.chunk)
        state["chunk"][:, :, : age % self.chunk] = values[:, :, opened * self.chunk :].transpose(0, 1)
        for n in range(max(0, opened - plan.reach(0, raw=True)), opened):
            if plan.needed_raw(n, opened):
                state["raw"][n] = past[:, :, n].transpose(0, 1).clone()
        rows = past
        for level in range(len(self._couplings)):
            blocks = opened >> level
            width, table = (2 * rows.shape[3], self._merge[level - 1]) if level else (self.chunk, self._inward)
            # A last block without its right half waits on its own level.
            parts = rows[:, :, : 2 * blocks] if level else rows
            moments = torch.bmm(parts.reshape(channels, batch * blocks, width), table)
            rows = moments.view(channels, batch, blocks, table.shape[2])
            for block in range(max(0, blocks - plan.reach(level)), blocks):
                if plan.needed(level, block, blocks):
                    state["moments"][level][block] = rows[:, :, block].transpose(0, 1).clone()
        self._open(state, opened, len(self._couplings) - 1)

    def _close(self, state: State) -> None:
        """Take in the finished chunk and open the next."""
        inputs: Tensor = state["chunk"]
        index = state["age"] // self.chunk - 1
        opened, plan = index + 1, self._plan
        if plan.needed_raw(index, opened):
            state["raw"][index] = inputs
            state["chunk"] = torch.empty_like(inputs)
        if self._couplings:
            z = torch.bmm(inputs.transpose(0, 1), self._inward)
            level, moments = 0, state["moments"]
            moments[0][index] = z.transpose(0, 1)
            while index % 2 and level + 1 < len(self._couplings):
                z = torch.bmm(torch.cat((moments[level][index - 1].transpose(0, 1), z), 2), self._merge[level])
                level, index = level + 1, index >> 1
                moments[level][index] = z.transpose(0, 1)
        zeros = (opened & -opened).bit_length() - 1
        self._open(state, opened, min(zeros, len(self._couplings) - 1))

    def _open(self, state: State, opened: int, top: int) -> None:
        """Local expansions of the blocks that start with chunk `opened`, largest first, and its carried outputs."""
        plan, expansions = self._plan, state["expansions"]
        for level in range(top, -1, -1):
            block, moments = opened >> level, state["moments"][level]
            above = expansions[level + 1] if level + 1 < len(expansions) else None
            terms = [
                torch.bmm(moments[block - delta].transpose(0, 1), self._couplings[level][delta])
                for delta in plan.couplings[level][block % 2]
                if delta <= block
            ]
            if above is not None:
                terms.append(torch.bmm(above.transpose(0, 1), self._split[level][block % 2]))
            expansions[level] = sum(terms[1:], terms[0]).transpose(0, 1) if terms else None
            for delta in plan.spans(level):
                if block - delta in moments and not plan.needed(level, block - delta, block + 1):
                    del moments[block - delta]
        carried = [
            torch.bmm(state["raw"][opened - delta].transpose(0, 1), self._edges[delta])
            for delta in plan.edges
            if delta <= opened
        ]
        if expansions and expansions[0] is not None:
            carried.append(torch.bmm(expansions[0].transpose(0, 1), self._outward))
        if carried:
            state["carried"] = sum(carried[1:], carried[0]).transpose(0, 1)
        for delta in plan.edges:
            if opened - delta in state["raw"] and not plan.needed_raw(opened - delta, opened + 1):
                del state["raw"][opened - delta]


class _Plan:
    """Which pairs of blocks are coupled, which are cut by an edge, and how long a block is needed.

    Attributes:
        couplings: Per level, distances δ for targets of even and of odd index.
        edges: Distances in chunks, 1 or more, of the pairs that the window's far edge cuts.
    """

    def __init__(self, window: int, chunk: int, limit: int | None) -> None:
        reach = window if limit is None else min(window, limit)
        top = 0
        while chunk << top < reach:
            top += 1
        self._last = [None if limit is None else (limit - 1) // (chunk << level) for level in range(top + 1)]
        cut = {delta for delta in (0, 1) if self._occurs(top, delta) and (chunk << top) * (delta - 1) + 1 < window}
        couplings: list[tuple[list[int], list[int]]] = []
        for level in range(top - 1, -1, -1):
            size, finer = chunk << level, set()
            found: tuple[list[int], list[int]] = ([], [])
            pairs = {(2 * delta + target - source, target) for delta in cut for target in (0, 1) for source in (0, 1)}
            for delta, target in sorted(pairs):
                if delta < 0 or not self._occurs(level, delta) or size * (delta - 1) + 1 >= window:
                    continue
                if delta and size * (delta + 1) <= window:
                    found[target].append(delta)
                else:
                    finer.add(delta)
            cut = finer
            couplings.insert(0, found)
        while couplings and not any(couplings[-1]):
            couplings.pop()
        self.couplings = couplings
        self.edges = sorted(cut - {0})
        self._distances = [sorted({*even, *odd}) for even, odd in couplings]

    def spans(self, level: int) -> list[int]:
        """Distances back from a block that opens at which another may have been needed last."""
        return sorted({1, 2, *self._distances[level]})

    def reach(self, level: int, *, raw: bool = False) -> int:
        """Blocks back from the one that is open that may be needed."""
        return max(self.edges, default=0) if raw else self.spans(level)[-1]

    def needed(self, level: int, block: int, opening: int) -> bool:
        """Whether a block's moments are needed when block `opening` of its level opens, or later."""
        # The left half of a larger block waits for the right half to be finished.
        if block % 2 == 0 and level + 1 < len(self.couplings) and opening <= block + 2:
            return True
        return self._coupled(self._distances[level], level, block, opening)

    def needed_raw(self, block: int, opening: int) -> bool:
        """Whether a chunk's inputs are needed when chunk `opening` opens, or later."""
        return self._coupled(self.edges, 0, block, opening)

    def _coupled(self, distances: Iterable[int], level: int, block: int, opening: int) -> bool:
        last = self._last[level]
        return any(block + d >= opening and (last is None or block + d <= last) for d in distances)

    def _occurs(self, level: int, delta: int) -> bool:
        last = self._last[level]
        return last is None or delta <= last


def convolution_stream(kernel: Kernel, *, limit: int | None = None) -> ConvolutionStream:
    """The faster exact stream for a kernel: a ring for free taps and for windows up to 512 events.

    Args:
        kernel: The kernel; its present values are taken.
        limit: Most events a stream will ever have, where that is known.
    """
    if isinstance(kernel, LegendreKernel) and min(kernel.window, limit or kernel.window) > RING_WINDOW:
        return LegendreStream(kernel, limit=limit)
    return RingStream(kernel, limit=limit)


def stream_numbers(window: int, order: int | None) -> float:
    """Most numbers a channel keeps in a stream as long as its window, as `convolution_stream` makes it.

    A ring keeps W. Blocks keep what the module's docstring derives, with J = min(C 2^l, K) on level l.

    Args:
        window: W in events, the limit too.
        order: K of a Legendre kernel; None for free taps.
    """
    if order is None or window <= RING_WINDOW:
        return float(window)
    levels = math.log2(window / CHUNK)
    blocks = 2 if levels.is_integer() else 3
    moments = sum(min(CHUNK << level, order) for level in range(math.ceil(levels))) * levels / math.ceil(levels)
    return blocks * (CHUNK + moments)
