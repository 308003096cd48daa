"""Softmax attention by three kernels, causal or over both directions.

No dropout on the weights: it makes torch fall back to the explicit matrix in silence. A causal mask
already keeps padding on the right out; without one, padding is named by `keep`, and each kernel
leaves it out without giving up its fused form.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.ops.build import accelerated

Kernel = Literal["math", "sdpa", "flash"]

_HALF = (torch.float16, torch.bfloat16)
_LEAST_CAPABILITY = (8, 0)
# Tensor cores want head widths in multiples of 8; the eight penalties add up to −2^14 before the
# scale, beyond what any score makes up for, and are exact in both half types.
_PENALTY_FEATURES, _PENALTY = 8, -2048.0


def causal_attention(query: Tensor, key: Tensor, value: Tensor, kernel: Kernel = "sdpa") -> Tensor:
    """`softmax(QKᵀ/√E + causal mask) V` (Vaswani et al., 2017, equation 1).

    Args:
        query: `[B, H, L, E]`.
        key: `[B, H, L, E]`.
        value: `[B, H, L, E]`.
        kernel: `math` builds the `[L, L]` matrix; `sdpa` leaves the kernel to torch; `flash` is the
            package flash-attn where it is installed and the tensors are half precision on a GPU,
            else torch's own flash kernel. `what_runs` names it.

    Returns:
        `[B, H, L, E]`.

    Raises:
        ValueError: Unknown kernel, or `flash` where neither flash kernel takes the tensors.
    """
    if kernel == "math":
        length = query.shape[2]
        future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        return _explicit(query, key, value, future)
    if kernel == "sdpa":
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    _check_kernel(kernel)
    return _flash(query, key, value, query.shape[3] ** -0.5, causal=True)


def bidirectional_attention(
    query: Tensor, key: Tensor, value: Tensor, kernel: Kernel = "sdpa", keep: Tensor | None = None
) -> Tensor:
    """`softmax(QKᵀ/√E) V` over the keys that `keep` names.

    `sdpa` takes `keep` as a mask, which torch's memory-efficient and cuDNN kernels accept on a GPU
    and its flash kernel on a CPU alone. `flash` is given eight features more instead: 1 in every
    query, and in the keys left out a penalty, which makes their weights exactly zero. Without
    `keep` nothing is masked and every kernel runs as it is.

    Args:
        query: `[B, H, L, E]`.
        key: `[B, H, L, E]`.
        value: `[B, H, L, E]`.
        kernel: As in `causal_attention`.
        keep: `[B, L]` bool, keys that count, at least one a row; None: all.

    Returns:
        `[B, H, L, E]`.

    Raises:
        ValueError: Unknown kernel, or `flash` where neither flash kernel takes the tensors.
    """
    if kernel == "math":
        return _explicit(query, key, value, None if keep is None else ~keep[:, None, None])
    if kernel == "sdpa":
        mask = None if keep is None else keep[:, None, None]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    _check_kernel(kernel)
    width = query.shape[3]
    scale = width**-0.5
    if keep is None:
        return _flash(query, key, value, scale, causal=False)
    penalty = (~keep).to(key.dtype)[:, None, :, None] * _PENALTY
    query = functional.pad(query, (0, _PENALTY_FEATURES), value=1.0)
    key = torch.cat((key, penalty.expand(*key.shape[:3], _PENALTY_FEATURES)), dim=3)
    value = functional.pad(value, (0, _PENALTY_FEATURES))
    return _flash(query, key, value, scale, causal=False)[..., :width]


def what_runs(
    query: Tensor, key: Tensor, value: Tensor, kernel: Kernel, *, causal: bool = True, keep: Tensor | None = None
) -> str:
    """Name of what computes attention of these tensors, for the record.

    Returns:
        `math`, `sdpa-` and what torch picks (`picked_backend`), `flash-attn` and its version, or
        `torch-flash`.
    """
    if kernel == "math":
        return "math"
    if kernel == "flash":
        if not _package_takes(query):
            return "torch-flash"
        import flash_attn

        return f"flash-attn {getattr(flash_attn, '__version__', 'of unknown version')}"
    return f"sdpa-{picked_backend(query, key, value, causal=causal, keep=keep)}"


def picked_backend(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool = True, keep: Tensor | None = None
) -> str:
    """Which kernel torch takes for these tensors under `sdpa`: `flash`, `efficient`, `cudnn`, `math`."""
    mask = None if keep is None else keep[:, None, None]
    choice = SDPBackend(torch._fused_sdp_choice(query, key, value, attn_mask=mask, is_causal=causal))
    return choice.name.lower().replace("_attention", "")


def _explicit(query: Tensor, key: Tensor, value: Tensor, masked: Tensor | None) -> Tensor:
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if masked is not None:
        scores = scores.masked_fill_(masked, float("-inf"))
    return torch.softmax(scores, dim=-1).to(value.dtype) @ value


def _flash(query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool) -> Tensor:
    if _package_takes(query):
        import flash_attn

        streams = (tensor.transpose(1, 2) for tensor in (query, key, value))
        mixed: Tensor = flash_attn.flash_attn_func(*streams, softmax_scale=scale, causal=causal)
        return mixed.transpose(1, 2)
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale)
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        raise ValueError(
            f"attention kernel 'flash' cannot run for {query.dtype} on {query.device.type}, head width "
            f"{query.shape[3]}: neither flash-attn, if installed, nor torch's own kernel takes these tensors. Use "
            "precision bfloat16 on a GPU of compute capability 8.0 or later, or the kernel 'sdpa' or 'math'"
        ) from error


def _package_takes(query: Tensor) -> bool:
    if not query.is_cuda or query.dtype not in _HALF:
        return False
    able = torch.cuda.get_device_capability(query.device) >= _LEAST_CAPABILITY
    return able and accelerated.is_usable("flash_attn")


def _check_kernel(kernel: str) -> None:
    if kernel not in get_args(Kernel):
        raise ValueError(f"unknown attention kernel '{kernel}'; legal: {', '.join(get_args(Kernel))}")
