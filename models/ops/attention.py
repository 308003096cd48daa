"""Causal multi-head attention kernels.

No dropout on the weights and no padding mask: either makes torch fall back to the explicit matrix
in silence, and with padding on the right a causal mask already keeps padding out.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

Kernel = Literal["math", "sdpa"]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, kernel: Kernel = "sdpa") -> Tensor:
    """`softmax(QKᵀ/√E + causal mask) V` (Vaswani et al., 2017, equation 1).

    Args:
        query: `[B, H, L, E]`.
        key: `[B, H, L, E]`.
        value: `[B, H, L, E]`.
        kernel: `math` builds the `[L, L]` matrix; `sdpa` leaves the kernel to torch
            (`picked_backend` says which).

    Returns:
        `[B, H, L, E]`.

    Raises:
        ValueError: Unknown kernel.
    """
    if kernel == "sdpa":
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    if kernel != "math":
        raise ValueError(f"unknown attention kernel '{kernel}'; legal: {', '.join(get_args(Kernel))}")
    length = query.shape[2]
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    return torch.softmax(scores.masked_fill_(future, float("-inf")), dim=-1).to(value.dtype) @ value


def picked_backend(query: Tensor, key: Tensor, value: Tensor) -> str:
    """Which kernel torch takes for these tensors under `sdpa`: `flash`, `efficient`, `cudnn`, `math`."""
    choice = SDPBackend(torch._fused_sdp_choice(query, key, value, is_causal=True))
    return choice.name.lower().replace("_attention", "")
