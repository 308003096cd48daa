"""Triton kernels of the Legendre tree; models/ops/legendre/triton.py says what they compute and what they move.

Shapes: x and y `[D, R, N·C]` seen as `[D, R·N, C]`, N = 2^M chunks a row. A pyramid `[D, R·(2N − 2), J]` holds
one vector of J for every node: level l, of N / 2^l nodes a row, follows level l − 1, rows one after the other,
so the children of node p of a level are nodes 2p and 2p + 1 of the level below, whatever the row.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from models.ops.build.triton_tiles import diagonals, toeplitz


@triton.jit
def _accurate_product(
    x: tl.tensor, weights: tl.tensor, total: tl.tensor, bfloat16: tl.constexpr, precision: tl.constexpr
) -> tl.tensor:
    """Activations times float32 weights; bfloat16 activations times the weights' two bfloat16 halves.

    Both cases are good to about 3e-6; weights rounded to one bfloat16 would leave 2e-3.
    """
    if bfloat16:
        high = weights.to(tl.bfloat16)
        low = (weights - high.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(x, low, tl.dot(x, high, total))
    else:
        total = tl.dot(x.to(tl.float32), weights, total, input_precision=precision)
    return total


@triton.jit
def moments_kernel(
    x: tl.tensor,
    basis: tl.tensor,
    scale: tl.tensor,
    moments: tl.tensor,
    chunks: tl.tensor,
    nodes: tl.tensor,
    chunk: tl.tensor,
    edge: tl.constexpr,
    rank: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """`z = X (scale ⊙ Q)` of a block of chunks of a channel; `chunks` R·N, `nodes` of a channel's pyramid."""
    channel = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * block + tl.arange(0, block)[:, None]
    k = tl.arange(0, rank)[None, :]
    j = tl.arange(0, edge)
    weights = tl.load(basis + j[:, None] * rank + k)
    if scale is not None:
        weights *= tl.load(scale + channel * chunk + j, mask=j < chunk, other=0.0)[:, None]
    inside = (m < chunks) & (j < chunk)[None, :]
    tile = tl.load(x + channel * chunks * chunk + m * chunk + j[None, :], mask=inside, other=0.0)
    z = _accurate_product(tile, weights, tl.zeros([block, rank], tl.float32), bfloat16, precision)
    tl.store(moments + channel * nodes * rank + m * rank + k, z, mask=m < chunks)


@triton.jit
def tree_kernel(
    moments: tl.tensor,
    expansions: tl.tensor,
    restrictions: tl.tensor,
    couplings: tl.tensor,
    factors: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    levels: tl.tensor,
    side: tl.constexpr,
    rank: tl.constexpr,
    block_rows: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """The tree over a block of rows of a channel: fills levels 1 … of `moments`, all of `expansions`.

    `side` is the sibling that acts as source: 0, the left one, forward; 1 backward, where time runs back and
    couplings are transposed. Decay multiplies the source on its way up and the target on its way down.
    """
    channel = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * block_rows
    last = tl.minimum(first + block_rows, rows)
    moments += channel * rows * (2 * chunks - 2) * rank
    expansions += channel * rows * (2 * chunks - 2) * rank
    couplings += channel * levels * rank * rank
    n = tl.arange(0, block)[:, None]
    k = tl.arange(0, rank)[None, :]
    straight = tl.arange(0, rank)[:, None] * rank + k
    crossed = tl.arange(0, rank)[:, None] + k * rank
    nodes = chunks
    below = rows * 0
    for level in range(levels - 1):
        up = restrictions + 2 * level * rank * rank + crossed
        source = tl.load(up + side * rank * rank)
        if factors is not None:
            source *= tl.load(factors + channel * levels + level)
        target = tl.load(up + (1 - side) * rank * rank)
        above = below + rows * nodes
        nodes = nodes // 2
        for start in range(first * nodes, last * nodes, block):
            pair = start + n
            inside = pair < last * nodes
            children = moments + (below + 2 * pair) * rank + k
            z = tl.zeros([block, rank], tl.float32)
            z = tl.dot(tl.load(children + side * rank, mask=inside, other=0.0), source, z, input_precision=precision)
            other = tl.load(children + (1 - side) * rank, mask=inside, other=0.0)
            z = tl.dot(other, target, z, input_precision=precision)
            tl.store(moments + (above + pair) * rank + k, z, mask=inside)
        below = above
        # Other threads read what this level wrote.
        tl.debug_barrier()
    above = below
    for descent in range(levels):
        level = levels - 1 - descent
        if side == 0:
            coupling = tl.load(couplings + level * rank * rank + crossed)
        else:
            coupling = tl.load(couplings + level * rank * rank + straight)
        down = restrictions + 2 * level * rank * rank + straight
        source = tl.load(down + side * rank * rank)
        target = tl.load(down + (1 - side) * rank * rank)
        if factors is not None:
            target *= tl.load(factors + channel * levels + level)
        pairs = nodes // 2
        for start in range(first * pairs, last * pairs, block):
            pair = start + n
            inside = pair < last * pairs
            children = (below + 2 * pair) * rank + k
            z = tl.load(moments + children + side * rank, mask=inside, other=0.0)
            # Nothing comes from above to the two nodes of the highest level.
            parent = tl.load(expansions + (above + pair) * rank + k, mask=inside & (descent > 0), other=0.0)
            w = tl.dot(parent, source, tl.zeros([block, rank], tl.float32), input_precision=precision)
            tl.store(expansions + children + side * rank, w, mask=inside)
            w = tl.dot(parent, target, tl.zeros([block, rank], tl.float32), input_precision=precision)
            w = tl.dot(z, coupling, w, input_precision=precision)
            tl.store(expansions + children + (1 - side) * rank, w, mask=inside)
        tl.debug_barrier()
        above = below
        nodes = nodes * 2
        below = below - rows * nodes


@triton.jit
def output_kernel(
    x: tl.tensor,
    expansions: tl.tensor,
    taps: tl.tensor,
    basis: tl.tensor,
    scale: tl.tensor,
    output: tl.tensor,
    chunks: tl.tensor,
    nodes: tl.tensor,
    chunk: tl.tensor,
    edge: tl.constexpr,
    rank: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """`Y = X T + (w Qᵀ) ⊙ scale` of a block of chunks of a channel."""
    channel = tl.program_id(1).to(tl.int64)
    m = tl.program_id(0) * block + tl.arange(0, block)[:, None]
    k = tl.arange(0, rank)
    j = tl.arange(0, edge)
    inside = (m < chunks) & (j < chunk)[None, :]
    places = channel * chunks * chunk + m * chunk + j[None, :]
    w = tl.load(expansions + channel * nodes * rank + m * rank + k[None, :], mask=m < chunks, other=0.0)
    weights = tl.load(basis + j[None, :] * rank + k[:, None])
    y = tl.dot(w, weights, tl.zeros([block, edge], tl.float32), input_precision=precision)
    if scale is not None:
        y *= tl.load(scale + channel * chunk + j, mask=j < chunk, other=0.0)[None, :]
    matrix = toeplitz(taps + channel * chunk, j[None, :] - j[:, None], chunk)
    y = _accurate_product(tl.load(x + places, mask=inside, other=0.0), matrix, y, bfloat16, precision)
    tl.store(output + places, y, mask=inside)


@triton.jit
def output_gradients_kernel(
    gradient: tl.tensor,
    x: tl.tensor,
    expansions: tl.tensor,
    moments_gradient: tl.tensor,
    taps: tl.tensor,
    basis: tl.tensor,
    scale_in: tl.tensor,
    x_gradient: tl.tensor,
    taps_partial: tl.tensor,
    in_partial: tl.tensor,
    out_partial: tl.tensor,
    chunks: tl.tensor,
    nodes: tl.tensor,
    chunk: tl.tensor,
    edge: tl.constexpr,
    rank: tl.constexpr,
    block: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """`∂X = ∂Y Tᵀ + (∂z Qᵀ) ⊙ scale_in` and a part of the gradients of taps and scales, `[parts, D, edge]`.

    `∂T = Xᵀ ∂Y` is summed along its diagonals; `∂scale_in = Σ_m X ⊙ ∂z Qᵀ`, `∂scale_out = Σ_m ∂Y ⊙ w Qᵀ`.
    """
    channel = tl.program_id(1).to(tl.int64)
    k = tl.arange(0, rank)
    j = tl.arange(0, edge)
    weights = tl.load(basis + j[None, :] * rank + k[:, None])
    matrix = toeplitz(taps + channel * chunk, j[:, None] - j[None, :], chunk)
    products = tl.zeros([edge, edge], tl.float32)
    if scale_in is not None:
        arriving = tl.load(scale_in + channel * chunk + j, mask=j < chunk, other=0.0)[None, :]
        in_total = tl.zeros([edge], tl.float32)
        out_total = tl.zeros([edge], tl.float32)
    for start in range(tl.program_id(0) * block, chunks, tl.num_programs(0) * block):
        m = start + tl.arange(0, block)[:, None]
        inside = (m < chunks) & (j < chunk)[None, :]
        places = channel * chunks * chunk + m * chunk + j[None, :]
        nodes_places = channel * nodes * rank + m * rank + k[None, :]
        outer = tl.load(gradient + places, mask=inside, other=0.0)
        source = tl.load(x + places, mask=inside, other=0.0)
        z = tl.load(moments_gradient + nodes_places, mask=m < chunks, other=0.0)
        far = tl.dot(z, weights, tl.zeros([block, edge], tl.float32), input_precision=precision)
        if scale_in is not None:
            w = tl.load(expansions + nodes_places, mask=m < chunks, other=0.0)
            reached = tl.dot(w, weights, tl.zeros([block, edge], tl.float32), input_precision=precision)
            in_total += tl.sum(source.to(tl.float32) * far, 0)
            out_total += tl.sum(outer.to(tl.float32) * reached, 0)
            far *= arriving
        far = _accurate_product(outer, matrix, far, bfloat16, precision)
        tl.store(x_gradient + places, far, mask=inside)
        if bfloat16:
            products = tl.dot(tl.trans(source), outer, products)
        else:
            products = tl.dot(
                tl.trans(source.to(tl.float32)), outer.to(tl.float32), products, input_precision=precision
            )
    ahead, _ = diagonals(products, edge)
    part = (tl.program_id(0) * tl.num_programs(1) + channel) * edge + j
    tl.store(taps_partial + part, ahead)
    if scale_in is not None:
        tl.store(in_partial + part, in_total)
        tl.store(out_partial + part, out_total)


@triton.jit
def tree_gradients_kernel(
    moments: tl.tensor,
    expansions: tl.tensor,
    moments_gradient: tl.tensor,
    expansions_gradient: tl.tensor,
    restrictions: tl.tensor,
    couplings_partial: tl.tensor,
    factors_partial: tl.tensor,
    rows: tl.tensor,
    chunks: tl.tensor,
    rank: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """A part of one level's gradients of a channel's coupling, `∂G = Σ ∂w_rightᵀ z_left`, and decay factor.

    The factor multiplies z_left A_Lᵀ on its way up and w_parent A_R on its way down. Partial sums
    `[parts, D, M, J, J]` and `[parts, D, M]`.
    """
    level = tl.program_id(0)
    part = tl.program_id(1)
    channel = tl.program_id(2).to(tl.int64)
    levels = tl.num_programs(0)
    base = channel * rows * (2 * chunks - 2) * rank
    nodes = chunks >> level
    below = rows * 2 * (chunks - nodes)
    above = below + rows * nodes
    pairs = rows * (nodes // 2)
    n = tl.arange(0, block)[:, None]
    k = tl.arange(0, rank)[None, :]
    straight = tl.arange(0, rank)[:, None] * rank + k
    total = tl.zeros([rank, rank], tl.float32)
    if factors_partial is not None:
        pair_matrices = restrictions + 2 * level * rank * rank
        left = tl.load(pair_matrices + tl.arange(0, rank)[:, None] + k * rank)
        right = tl.load(pair_matrices + rank * rank + straight)
        product = tl.zeros([block, rank], tl.float32)
    for start in range(part * block, pairs, tl.num_programs(1) * block):
        pair = start + n
        inside = pair < pairs
        children = base + (below + 2 * pair) * rank + k
        z = tl.load(moments + children, mask=inside, other=0.0)
        outer = tl.load(expansions_gradient + children + rank, mask=inside, other=0.0)
        total = tl.dot(tl.trans(outer), z, total, input_precision=precision)
        if factors_partial is not None:
            parents = base + (above + pair) * rank + k
            inside &= level < levels - 1
            risen = tl.dot(z, left, tl.zeros([block, rank], tl.float32), input_precision=precision)
            product += risen * tl.load(moments_gradient + parents, mask=inside, other=0.0)
            parent = tl.load(expansions + parents, mask=inside, other=0.0)
            sunk = tl.dot(parent, right, tl.zeros([block, rank], tl.float32), input_precision=precision)
            product += sunk * outer
    place = (part * tl.num_programs(2) + channel) * levels + level
    tl.store(couplings_partial + place * rank * rank + straight, total)
    if factors_partial is not None:
        tl.store(factors_partial + place, tl.sum(product))
