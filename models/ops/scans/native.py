"""The linear scans in models/ops/scans/native.cpp: step after step, but wide over channels or states.

One core carries a block of channels through time in its registers and first cache, so every number
is read and written once and nothing is scanned twice, as chunks that run side by side must be. For
float32 on a CPU; models/ops/scans/diagonal.py, linear_recurrence.py and selective_scan.py call it
where it could be built and run in torch where not. Nothing here knows autograd.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from models.ops.build import native
from models.ops.build.untraced import untraced

# Steps between the states that the selective scan keeps for its backward pass: the states and decays
# of one slab and 64 channels, 2 · 64 · 32 · 16 numbers at N = 32, stay in the second cache.
STEPS = 16


def takes(x: Tensor) -> bool:
    """Whether scans of tensors like `x` run natively: on a CPU, where the operators could be built.

    Float64 stays in torch; types narrower than float32 are scanned in float32.
    """
    return x.device.type == "cpu" and x.dtype != torch.float64 and _built()


def describe(x: Tensor) -> str:
    """What a record calls the scan of tensors like `x`: `native-scan`, or `chunked-scan` in torch."""
    return "native-scan" if takes(x) else "chunked-scan"


def real_forward(a: Tensor, b: Tensor) -> Tensor:
    """`h_t = a_t h_{t−1} + b_t` over dimension 1 of `[B, L, ...]`, from zero."""
    a, b = a.contiguous(), b.contiguous()
    h = torch.empty_like(b)
    _call("real_scan_forward", (a, b), _sizes(b), (h,))
    return h


def real_backward(a: Tensor, h: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a and b."""
    found = torch.empty_like(h), torch.empty_like(h)
    _call("real_scan_backward", (a.contiguous(), h, gradient.contiguous()), _sizes(h), found)
    return found


def complex_forward(b: Tensor, log_modulus: Tensor, angle: Tensor) -> Tensor:
    """`h_t = λ h_{t−1} + b_t` of `[N, 2, B, L]`, best laid out as `[B, L, N, 2]`; the result is."""
    inner = b.permute(2, 3, 0, 1).contiguous()
    h = torch.empty_like(inner)
    _call("complex_scan_forward", (inner, _factor(log_modulus, angle)), inner.shape[:3], (h,))
    return h.permute(2, 3, 0, 1)


def complex_backward(h: Tensor, gradient: Tensor, log_modulus: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The adjoint A `[N, 2, B, L]`, and real and imaginary part of `Σ conj(A_{t+1}) h_t`, float64 `[N]`."""
    states, incoming = (tensor.permute(2, 3, 0, 1).contiguous() for tensor in (h, gradient))
    adjoint = torch.empty_like(states)
    sums = torch.empty(len(states), 2, states.shape[2], dtype=torch.float64)
    _call("complex_scan_backward", (states, incoming, _factor(log_modulus, angle)), states.shape[:3], (adjoint, sums))
    real, imaginary = sums.sum(0).unbind(0)
    return adjoint.permute(2, 3, 0, 1), real, imaginary


def selective_forward(inputs: Sequence[Tensor], *, keep: bool, steps: int = STEPS) -> tuple[Tensor, Tensor | None]:
    """`selective_scan` of contiguous x, delta, rates, write, read and skip; with `keep` states for the backward pass.

    Kept are those before every slab of `steps` steps, E rounded up to a multiple of 64.
    """
    x, _, rates, *_ = inputs
    batch, length, _ = x.shape
    y, kept = torch.empty_like(x), None
    if keep:
        slabs = -(-length // steps)
        kept = x.new_empty(_groups(x), batch, slabs, _number("selective_scan_kept", rates.shape[1]))
    _call("selective_scan_forward", inputs, (*x.shape, rates.shape[1], steps), (y, kept))
    return y, kept


def selective_backward(
    inputs: Sequence[Tensor], gradient: Tensor, kept: Tensor, *, steps: int = STEPS
) -> tuple[Tensor, ...]:
    """Gradients of the inputs of `selective_forward`, in their order."""
    x, delta, rates, write, read, _ = inputs
    batch, _, width = x.shape
    states, groups = rates.shape[1], _groups(x)
    parts = [torch.empty_like(x), torch.empty_like(delta), x.new_empty(batch, states, width)]
    parts += [write.new_empty(groups, *write.shape), read.new_empty(groups, *read.shape), x.new_empty(batch, width)]
    pointers = (gradient.contiguous(), kept, *parts)
    _call("selective_scan_backward", inputs, (*x.shape, states, steps), pointers)
    own, steps_gradient, *sums = parts
    rates_gradient, write_gradient, read_gradient, skip_gradient = (part.sum(0) for part in sums)
    return own, steps_gradient, rates_gradient.t(), write_gradient, read_gradient, skip_gradient


def _call(name: str, inputs: Sequence[Tensor], sizes: Sequence[int], outputs: Sequence[Tensor | None]) -> None:
    native.function(name)(*map(native.pointer, inputs), *native.integers(*sizes), *map(native.pointer, outputs))


def _number(name: str, argument: int) -> int:
    function = native.function(name)
    function.restype = ctypes.c_int64
    return int(function(ctypes.c_int64(argument)))


def _groups(x: Tensor) -> int:
    return _number("selective_scan_groups", x.shape[2])


def _sizes(x: Tensor) -> tuple[int, int, int]:
    batch, length = x.shape[:2]
    return batch, length, x[0, 0].numel()


def _factor(log_modulus: Tensor, angle: Tensor) -> Tensor:
    """Real and imaginary part of λ, `[2, N]` in float64."""
    modulus, phase = log_modulus.double().exp(), angle.double()
    return torch.stack((modulus * phase.cos(), modulus * phase.sin()))


# The compiler's cache is no business of torch.compile.
_built = untraced(lambda: native.library() is not None)
