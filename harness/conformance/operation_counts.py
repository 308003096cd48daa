"""Operations of a model as torch counts them, against which its declared cost is held."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.base import SequenceModel
from models.ops.build import native


def counted_operations(model: SequenceModel, items: Tensor) -> float:
    """Floating-point operations of a forward pass: torch's count, with formulas for what it counts as nothing.

    Args:
        model: Any model; natively compiled operators are put aside, since torch sees nothing of them.
        items: `[B, L]`.
    """
    aten = torch.ops.aten
    formulas = {
        aten._fft_r2c: _transform_operations,
        aten._fft_c2r: _transform_operations,
        aten._fft_c2c: _transform_operations,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
        aten.addcmul: _multiply_add_operations,
        aten.addcmul_: _multiply_add_operations,
    }
    with native.suspended(), FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        model(items)
    return float(counter.get_total_flops())


def _transform_operations(x: Any, dimensions: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """2.5 n log₂ n for a real transform of length n (5 n log₂ n a complex one, on half the points)."""
    line = max(x[dimensions[-1]], out_shape[dimensions[-1]])
    signals = math.prod(x) // x[dimensions[-1]]
    return int(signals * 2.5 * line * math.log2(line)) if line > 1 else signals


def _attention_operations(query: Any, key: Any, value: Any, *options: Any, out_shape: Any, **named: Any) -> int:
    """Two products over all pairs, or over half of them where the mask is causal."""
    batch, heads, length, width = query
    causal = named.get("is_causal", len(options) > 1 and options[1])
    return int(4 * batch * heads * length * key[2] * width * (0.5 if causal else 1.0))


def _multiply_add_operations(*_: Any, out_shape: Any, **__: Any) -> int:
    """Two an element; the recurrences and short convolutions are made of these."""
    return 2 * int(math.prod(out_shape))
