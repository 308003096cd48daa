"""Causal linear attention in chunks: products of matrices, nothing loops over time.

Inside a chunk of C positions the weights are an explicit C × C matrix; what came before the chunk is
an E × E state, the running sum of the chunks' own. All chunks are computed at once, so that the
only recurrence is one cumulative sum over the L/C states.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor
from torch.nn import functional

from models.ops.build import accelerated

CHUNK = 64
# Features are positive, but may all vanish.
LEAST_NORMALISER = 1e-6
_FUSED_MODULE = "fla.ops.linear_attn"


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """`φ(q_t)ᵀ Σ_{s≤t} φ(k_s) v_sᵀ / φ(q_t)ᵀ Σ_{s≤t} φ(k_s)` with `φ(x) = elu(x) + 1`.

    Katharopoulos et al., 2020, equations 7 and 8. Features and running sums are kept in float32 at
    least, also under autocast; products take the type of the inputs.

    Args:
        query: `[B, H, L, E]`, L ≥ 1.
        key: `[B, H, L, E]`.
        value: `[B, H, L, E]`.
        chunk: Most positions C in a chunk, ≥ 1.

    Returns:
        `[B, H, L, E]` in the type of `value`.

    Raises:
        ValueError: Shapes that differ, or a chunk below 1.
    """
    _check(query, key, value)
    if chunk < 1:
        raise ValueError(f"chunk {chunk} must be at least 1")
    with torch.autocast(query.device.type, enabled=False):
        return _in_chunks(query, key, value, chunk)


def fused_linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`linear_attention` by the GPU kernel of flash-linear-attention; see `fused_is_available`.

    Features and normaliser are this module's, in float32: the package's own normaliser sums keys in
    their type, in which bfloat16 stops counting at a few hundred.
    """
    _check(query, key, value)
    module = importlib.import_module(_FUSED_MODULE)
    dtype = value.dtype
    with torch.autocast(query.device.type, enabled=False):
        features, keys, normaliser = _prepared(query, key)
        streams = (tensor.to(dtype).transpose(1, 2) for tensor in (features, keys, value))
        mixed: Tensor = module.chunk_linear_attn(*streams, scale=1.0, normalize=False)[0]
        return (mixed.transpose(1, 2).to(normaliser.dtype) / normaliser).to(dtype)


def fused_is_available(device: torch.device) -> bool:
    """Whether flash-linear-attention is installed and the device is one that its kernel runs on."""
    return device.type == "cuda" and accelerated.is_usable(_FUSED_MODULE)


def positive_features(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, in float32 at least: what is summed for ever must not be rounded to bfloat16."""
    return functional.elu(x.to(torch.promote_types(x.dtype, torch.float32))) + 1


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    if query.dim() != 4 or query.shape != key.shape or query.shape != value.shape or query.shape[2] < 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (query, key, value))
        raise ValueError(f"query, key and value must all be [B, H, L, E] with L ≥ 1, got {shapes}")


def chunking(length: int, chunk: int = CHUNK) -> tuple[int, int]:
    """Number of chunks and positions in each: as even as possible, so that little is padded."""
    chunks = -(-length // chunk)
    return chunks, -(-length // chunks)


def _in_chunks(query: Tensor, key: Tensor, value: Tensor, chunk: int) -> Tensor:
    batch, heads, length, width = query.shape
    dtype = value.dtype
    chunks, rows = chunking(length, chunk)
    features, keys, normaliser = _prepared(query, key)
    working = normaliser.dtype
    q, k, v = (
        functional.pad(tensor.to(dtype), (0, 0, 0, chunks * rows - length)).reshape(-1, rows, width)
        for tensor in (features, keys, value)
    )
    mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).tril(), v)
    if chunks > 1:
        own = torch.bmm(k.transpose(1, 2), v).view(batch * heads, chunks, width, width).to(working)
        # Shifted by one chunk: a chunk's own part has been added above, masked.
        state = functional.pad(own[:, :-1].cumsum(1), (0, 0, 0, 0, 1, 0)).to(dtype)
        mixed = torch.baddbmm(mixed, q, state.view(-1, width, width))
    mixed = mixed.view(batch, heads, chunks * rows, width)[:, :, :length]
    return (mixed.to(working) / normaliser).to(dtype)


def _prepared(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """φ(q), φ(k) and `[B, H, L, 1]` φ(q_t)ᵀ Σ_{s≤t} φ(k_s), in float32 at least."""
    features, keys = positive_features(query), positive_features(key)
    return features, keys, (features * keys.cumsum(2)).sum(3, keepdim=True) + LEAST_NORMALISER
