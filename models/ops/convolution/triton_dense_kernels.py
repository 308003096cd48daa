"""Triton kernels of the gated Toeplitz product; models/ops/convolution/triton_dense.py says what they compute and move.

Shapes: streams `[D, B, L]`, taps `[D, count]`, short weights `[D, width]`, width 0 for none. A gate or weights
that are absent are None, which Triton knows when it compiles.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from models.ops.build.triton_tiles import diagonals, toeplitz


@triton.jit
def _tile(source: tl.tensor, rows: tl.tensor, present: tl.tensor, times: tl.tensor, length: tl.tensor) -> tl.tensor:
    """A stream as it is at a tile of times, `[rows, times]` float32, zero outside."""
    inside = present[:, None] & (times < length)[None, :]
    return tl.load(source + rows[:, None] * length + times[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _stream(
    source: tl.tensor,
    short: tl.tensor,
    rows: tl.tensor,
    present: tl.tensor,
    times: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
) -> tl.tensor:
    """A stream after its short convolution at a tile of times, `[rows, times]` float32, zero outside."""
    total = _tile(source, rows, present, times, length)
    if width > 0:
        inside = present[:, None] & (times < length)[None, :]
        places = source + rows[:, None] * length + times[None, :]
        total *= tl.load(short)
        for j in tl.static_range(1, width):
            earlier = tl.load(places - j, mask=inside & (times >= j)[None, :], other=0.0)
            total += earlier.to(tl.float32) * tl.load(short + j)
    return total


@triton.jit
def _gated(
    source: tl.tensor,
    short: tl.tensor,
    gate: tl.tensor,
    gate_short: tl.tensor,
    rows: tl.tensor,
    present: tl.tensor,
    times: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
) -> tl.tensor:
    """A stream times its gate, both after their short convolutions."""
    total = _stream(source, short, rows, present, times, length, width)
    if gate is not None:
        total *= _stream(gate, gate_short, rows, present, times, length, width)
    return total


@triton.jit
def _product(
    a: tl.tensor, b: tl.tensor, total: tl.tensor, bfloat16: tl.constexpr, precision: tl.constexpr
) -> tl.tensor:
    if bfloat16:
        total = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), total)
    else:
        total = tl.dot(a, b, total, input_precision=precision)
    return total


@triton.jit
def _convolved(
    value: tl.tensor,
    value_short: tl.tensor,
    pre: tl.tensor,
    pre_short: tl.tensor,
    taps: tl.tensor,
    count: tl.tensor,
    rows: tl.tensor,
    present: tl.tensor,
    start: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> tl.tensor:
    """`h ∗ u` at the tile of times that begins at `start`, any start."""
    times = start + tl.arange(0, block)
    total = tl.zeros([block_rows, block], tl.float32)
    for first in range(0, tl.minimum(start + block, length), block):
        sources = first + tl.arange(0, block)
        u = _gated(value, value_short, pre, pre_short, rows, present, sources, length, width)
        matrix = toeplitz(taps, times[None, :] - sources[:, None], count)
        total = _product(u, matrix, total, bfloat16, precision)
    return total


@triton.jit
def forward_kernel(
    value: tl.tensor,
    value_short: tl.tensor,
    pre: tl.tensor,
    pre_short: tl.tensor,
    post: tl.tensor,
    post_short: tl.tensor,
    taps: tl.tensor,
    output: tl.tensor,
    batch: tl.tensor,
    length: tl.tensor,
    count: tl.tensor,
    width: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """`y = q ⊙ (h ∗ u)` of a channel and a block of rows, tile of times by tile."""
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * batch * length
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    present = rows < batch
    value += base
    output += base
    taps += channel * count
    if pre is not None:
        pre += base
    if post is not None:
        post += base
    if width > 0:
        value_short += channel * width
        if pre is not None:
            pre_short += channel * width
        if post is not None:
            post_short += channel * width
    for start in range(0, length, block):
        times = start + tl.arange(0, block)
        total = _convolved(
            value, value_short, pre, pre_short, taps, count, rows, present, start, length,
            width, block_rows, block, bfloat16, precision,
        )  # fmt: skip
        if post is not None:
            total *= _stream(post, post_short, rows, present, times, length, width)
        inside = present[:, None] & (times < length)[None, :]
        tl.store(output + rows[:, None] * length + times[None, :], total, mask=inside)


@triton.jit
def _emit(
    gradient: tl.tensor,
    source: tl.tensor,
    short: tl.tensor,
    output: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    present: tl.tensor,
    start: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
    step: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Take a gradient tile `[rows, times]` back through a stream's short convolution, and store it.

    The transposed convolution looks `width − 1` events ahead, so a tile's last events belong to the next
    tile, which overlaps this one: only the first `step` columns are stored and summed.
    """
    columns = tl.arange(0, block)
    times = start + columns
    kept = present[:, None] & ((columns < step) & (times < length))[None, :]
    places = rows[:, None] * length + times[None, :]
    if width == 0:
        result = gradient
    else:
        result = gradient * tl.load(short)
        x = tl.load(source + places, mask=kept, other=0.0).to(tl.float32)
        tl.store(partial, tl.sum(gradient * x))
        for j in tl.static_range(1, width):
            ahead = tl.broadcast_to(tl.minimum(columns + j, block - 1)[None, :], [block_rows, block])
            result += tl.gather(gradient, ahead, 1) * tl.load(short + j)
            x = tl.load(source + places - j, mask=kept & (times >= j)[None, :], other=0.0).to(tl.float32)
            tl.store(partial + j, tl.sum(gradient * x))
    tl.store(output + places, result, mask=kept)


@triton.jit
def input_gradients_kernel(
    gradient: tl.tensor,
    value: tl.tensor,
    value_short: tl.tensor,
    value_gradient: tl.tensor,
    value_partial: tl.tensor,
    pre: tl.tensor,
    pre_short: tl.tensor,
    pre_gradient: tl.tensor,
    pre_partial: tl.tensor,
    post: tl.tensor,
    post_short: tl.tensor,
    post_gradient: tl.tensor,
    post_partial: tl.tensor,
    taps: tl.tensor,
    batch: tl.tensor,
    length: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    width: tl.constexpr,
    step: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Gradients of p, q and v, and parts of those of their short weights, `[D, row blocks · tiles, width]`.

    Tiles of times begin `step = block − width + 1` apart, for the reason `_emit` gives.
    """
    channel = tl.program_id(1)
    base = channel.to(tl.int64) * batch * length
    rows = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    present = rows < batch
    gradient += base
    value += base
    value_gradient += base
    taps += channel * count
    if pre is not None:
        pre += base
        pre_gradient += base
    if post is not None:
        post += base
        post_gradient += base
    if width > 0:
        place = (channel * tl.num_programs(0) + tl.program_id(0)) * tiles * width
        value_short += channel * width
        value_partial += place
        if pre is not None:
            pre_short += channel * width
            pre_partial += place
        if post is not None:
            post_short += channel * width
            post_partial += place
    for n in range(0, tiles):
        start = n * step
        times = start + tl.arange(0, block)
        if post is not None:
            convolved = _convolved(
                value, value_short, pre, pre_short, taps, count, rows, present, start, length,
                width, block_rows, block, bfloat16, precision,
            )  # fmt: skip
            whole = _tile(gradient, rows, present, times, length)
            _emit(
                whole * convolved, post, post_short, post_gradient, post_partial, rows, present,
                start, length, width, step, block_rows, block,
            )  # fmt: skip
        inner = tl.zeros([block_rows, block], tl.float32)
        for first in range(start, length, block):
            targets = first + tl.arange(0, block)
            outer = _convolution_gradient(gradient, post, post_short, rows, present, targets, length, width)
            matrix = toeplitz(taps, targets[:, None] - times[None, :], count)
            inner = _product(outer, matrix, inner, bfloat16, precision)
        if pre is not None:
            v = _stream(value, value_short, rows, present, times, length, width)
            _emit(
                inner * v, pre, pre_short, pre_gradient, pre_partial, rows, present,
                start, length, width, step, block_rows, block,
            )  # fmt: skip
            inner *= _stream(pre, pre_short, rows, present, times, length, width)
        _emit(
            inner, value, value_short, value_gradient, value_partial, rows, present,
            start, length, width, step, block_rows, block,
        )  # fmt: skip
        if width > 0:
            value_partial += width
            if pre is not None:
                pre_partial += width
            if post is not None:
                post_partial += width


@triton.jit
def _convolution_gradient(
    gradient: tl.tensor,
    post: tl.tensor,
    post_short: tl.tensor,
    rows: tl.tensor,
    present: tl.tensor,
    times: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
) -> tl.tensor:
    """The gradient of `h ∗ u`: that of the output times the gate after the convolution."""
    outer = _tile(gradient, rows, present, times, length)
    if post is not None:
        outer *= _stream(post, post_short, rows, present, times, length, width)
    return outer


@triton.jit
def tap_gradients_kernel(
    gradient: tl.tensor,
    value: tl.tensor,
    value_short: tl.tensor,
    pre: tl.tensor,
    pre_short: tl.tensor,
    post: tl.tensor,
    post_short: tl.tensor,
    partial: tl.tensor,
    batch: tl.tensor,
    length: tl.tensor,
    width: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """`∂h(τ) = Σ_{b,s} u[b, s] ∂(h ∗ u)[b, s + τ]` for the tile pairs that lie a fixed distance apart.

    All of them have the same lag in the same place, so they share one accumulator `[block, block]`, whose
    diagonals are summed once. `partial` is `[parts, 2, D, tiles · block]`.
    """
    distance = tl.program_id(0)
    part = tl.program_id(1)
    channel = tl.program_id(2)
    base = channel.to(tl.int64) * batch * length
    gradient += base
    value += base
    if pre is not None:
        pre += base
    if post is not None:
        post += base
    if width > 0:
        value_short += channel * width
        if pre is not None:
            pre_short += channel * width
        if post is not None:
            post_short += channel * width
    total = tl.zeros([block, block], tl.float32)
    for lowest in range(part * block_rows, batch, tl.num_programs(1) * block_rows):
        rows = lowest + tl.arange(0, block_rows)
        present = rows < batch
        for start in range(0, length - distance * block, block):
            sources = start + tl.arange(0, block)
            u = _gated(value, value_short, pre, pre_short, rows, present, sources, length, width)
            targets = sources + distance * block
            outer = _convolution_gradient(gradient, post, post_short, rows, present, targets, length, width)
            total = _product(tl.trans(u), outer, total, bfloat16, precision)
    ahead, behind = diagonals(total, block)
    line = tl.num_programs(0) * block
    channels = tl.num_programs(2)
    places = distance * block + tl.arange(0, block)
    tl.store(partial + (2 * part * channels + channel) * line + places, ahead)
    tl.store(partial + ((2 * part + 1) * channels + channel) * line + places, behind)
