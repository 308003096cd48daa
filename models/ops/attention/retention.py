"""Causal linear attention that forgets, in chunks: products of matrices, and one scan over the chunks.

    o_t = q_tᵀ S_t,   S_t = exp(g_t) S_{t−1} + k_t v_tᵀ,   g_t ≤ 0

which is the retention of Sun et al., 2023 (equations 5 to 7) with a decay of its own for each head, or for
each head and step. Nothing normalises the sum. Inside a chunk of C positions the weights q_tᵀk_s times the decay
from s to t are an explicit C × C matrix; what came before the chunk is an E × V state, and the states before
all chunks are a diagonal recurrence on a sequence C times shorter (models/ops/scans/diagonal.py). Every
factor is a decay over some steps, at most 1: nothing grows and nothing is divided.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.ops.attention.linear import CHUNK, chunking
from models.ops.scans.diagonal import diagonal_scan, scan_operations

# exp of it is below float32's resolution of 1; larger sums would cost the digits of the small ones beside them.
_LEAST_LOG_DECAY = -20.0


def retention(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """`q_tᵀ Σ_{s≤t} exp(g_{s+1} + … + g_t) k_s v_sᵀ`.

    Decays and states are kept in float32 at least, also under autocast; products take the type of the values.

    Args:
        query: `[B, H, L, E]`, L ≥ 1.
        key: `[B, H, L, E]`.
        value: `[B, H, L, V]`.
        log_decay: g ≤ 0, `[H]` alike at every step, or `[B, H, L]`, where a step below −20 counts as −20; the
            first step's has no effect.
        chunk: Most positions C in a chunk, ≥ 1.

    Returns:
        `[B, H, L, V]` in the type of `value`.

    Raises:
        ValueError: Shapes that do not fit, or a chunk below 1.
    """
    if query.dim() != 4 or query.shape != key.shape or value.shape[:-1] != query.shape[:-1] or query.shape[2] < 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (query, key, value))
        raise ValueError(f"query and key must be [B, H, L, E] and value [B, H, L, V] with L ≥ 1, got {shapes}")
    if log_decay.shape not in (query.shape[1:2], query.shape[:3]):
        legal = f"{list(query.shape[1:2])} or {list(query.shape[:3])}"
        raise ValueError(f"log_decay must be {legal}, got {list(log_decay.shape)}")
    if chunk < 1:
        raise ValueError(f"chunk {chunk} must be at least 1")
    with torch.autocast(query.device.type, enabled=False):
        return _in_chunks(query, key, value, log_decay, chunk)


def last_state(key: Tensor, value: Tensor, log_decay: Tensor) -> Tensor:
    """`S_L`, `[B, H, E, V]` in float32 at least, of `retention` with a `log_decay` `[H]`."""
    working = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(key.device.type, enabled=False):
        ago = torch.arange(key.shape[2] - 1, -1, -1, device=key.device)
        decay = (log_decay.to(working)[:, None] * ago).exp()[..., None]
        return (key.to(working) * decay).mT @ value.to(working)


def retention_operations(length: int, key_width: int, value_width: int, chunk: int = CHUNK) -> float:
    """Operations of `retention` a head and sequence, a multiply-add counting two; decays are left out.

    Inside the chunks 2C(E + V) a position; beyond one chunk 2EV for the states and 2EV for reading
    them, and the scan over the chunks.
    """
    chunks, rows = chunking(length, chunk)
    inside = chunks * rows * 2.0 * rows * (key_width + value_width)
    if chunks == 1:
        return inside
    states = 2.0 * rows * key_width * value_width
    return inside + (2 * chunks - 1) * states + key_width * value_width * scan_operations(max(chunks - 2, 0))


def _in_chunks(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, chunk: int) -> Tensor:
    batch, heads, length, key_width = query.shape
    dtype, value_width = value.dtype, value.shape[3]
    chunks, rows = chunking(length, chunk)
    padding = chunks * rows - length
    q, k, v = (
        functional.pad(tensor.to(dtype), (0, 0, 0, padding)).reshape(batch * heads, chunks, rows, -1)
        for tensor in (query, key, value)
    )
    # Log decay from before a chunk's first step to after each of its steps, [B or 1, H, chunks or 1, C].
    total = _running(log_decay.to(torch.promote_types(dtype, torch.float32)), chunks, rows)
    inside = _factor(total[..., :, None] - total[..., None, :], dtype, causal=True)
    weights = _times(q @ k.mT, inside, batch)
    if chunks == 1:
        return (weights @ v).reshape(batch, heads, length, value_width)
    left = _factor((total[..., -1:] - total)[..., None], dtype)
    own = (_times(k, left, batch)[:, :-1].mT @ v[:, :-1]).to(total.dtype).flatten(2)
    whole = total[..., -1].exp().expand(batch, heads, chunks).reshape(batch * heads, chunks, 1)
    # A chunk's first state is none of its own: the states after all chunks but the last, shifted by one.
    after = diagonal_scan(whole[:, :-1].expand_as(own), own)
    before = functional.pad(after, (0, 0, 1, 0)).to(dtype).view(-1, key_width, value_width)
    reading = _times(q, _factor(total[..., None], dtype), batch).flatten(0, 1)
    mixed = torch.baddbmm(torch.bmm(weights.flatten(0, 1), v.flatten(0, 1)), reading, before)
    return mixed.view(batch, heads, chunks * rows, value_width)[:, :, :length]


def _running(log_decay: Tensor, chunks: int, rows: int) -> Tensor:
    if log_decay.dim() == 1:
        steps = torch.arange(1, rows + 1, device=log_decay.device)
        return (log_decay[:, None] * steps)[None, :, None]
    padded = functional.pad(log_decay.clamp(min=_LEAST_LOG_DECAY), (0, chunks * rows - log_decay.shape[2]))
    return padded.view(*log_decay.shape[:2], chunks, rows).cumsum(3)


def _factor(exponent: Tensor, dtype: torch.dtype, *, causal: bool = False) -> Tensor:
    """The exponential of `[B or 1, H, chunks or 1, C, …]`, zero above the diagonal if causal."""
    if causal:
        rows = exponent.shape[-1]
        future = torch.ones(rows, rows, dtype=torch.bool, device=exponent.device).triu(1)
        # Before the exponential: what lies above would be infinite, and its gradient no number.
        exponent = exponent.masked_fill(future, -torch.inf)
    return exponent.exp().to(dtype)


def _times(x: Tensor, factor: Tensor, batch: int) -> Tensor:
    """`[BH, chunks, …]` times a factor `[B or 1, H, chunks or 1, …]`."""
    return (x.view(batch, -1, *x.shape[1:]) * factor).flatten(0, 1)
