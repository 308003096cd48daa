"""Depthwise causal convolutions, channel-major: a long one with Legendre kernels, and a short one.

Activations are `[D, B, L]`: a projection `W @ x.view(B·L, D).T` writes that layout as one matrix
product, every sequence is one contiguous line for the FFT, every channel one matrix for the
Toeplitz product, and the output projection reads it back with a transposed operand, so nothing is
ever copied to change layout.

Both operators have their backward pass written out: autograd differentiates a real FFT through a
complex one of full length, which alone costs more than the whole forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Backend = Literal["auto", "fft", "dense"]

# Longest sequence for which `auto` takes the Toeplitz product. Measured on one Xeon core (AVX-512,
# 8,192 × 64 float32 elements, forward + backward, ms, fft / dense): L = 32 8.0 / 1.4, 64 7.2 / 2.2,
# 128 6.4 / 6.7, 256 6.9 / 23, 512 7.5 / 84. The value for CUDA is a prediction, not measured.
DENSE_MAX_LENGTH = {"cpu": 128, "cuda": 512}


def legendre_table(order: int, window: int) -> Tensor:
    """Legendre polynomials on the window, `P_k(2τ/(W−1) − 1)`.

    Bonnet's recurrence `k P_k = (2k−1) x P_{k−1} − (k−1) P_{k−2}` is stable on [−1, 1]; it runs in
    float64. A model keeps the table as a buffer, rounded once, so that no step builds it again.

    Args:
        order: Number K of polynomials, degrees 0 … K − 1.
        window: Kernel length W in events.

    Returns:
        `[K, W]` float64.

    Raises:
        ValueError: An order or a window below 1.
    """
    if order < 1 or window < 1:
        raise ValueError(f"order {order} and window {window} must be at least 1")
    points = 2.0 * np.arange(window) / max(window - 1, 1) - 1.0
    table = np.ones((order, window))
    if order > 1:
        table[1] = points
    for k in range(2, order):
        table[k] = ((2 * k - 1) * points * table[k - 1] - (k - 1) * table[k - 2]) / k
    return torch.from_numpy(table)


def legendre_taps(coefficients: Tensor, decay: Tensor | None, table: Tensor, length: int) -> Tensor:
    """Kernel taps `h_d(τ) = e^{−a_d τ} Σ_k c_{d,k} P_k(2τ/(W−1) − 1)`, `0 ≤ τ < min(W, L)`.

    Args:
        coefficients: `[D, K]` float32 or float64.
        decay: `[D]`, ≥ 0, or None for no decay.
        table: `[K, W]` of `legendre_table`, whose W is the kernel length whatever the length L.
        length: Sequence length L; later taps reach no position.

    Returns:
        `[D, min(W, L)]`.
    """
    taps = min(table.shape[1], length)
    with torch.autocast(coefficients.device.type, enabled=False):
        polynomial = coefficients @ table[:, :taps].to(coefficients.dtype)
        if decay is None:
            return polynomial
        lags = torch.arange(taps, dtype=decay.dtype, device=decay.device)
        return polynomial * torch.exp(-decay[:, None] * lags)


def legendre_convolution(
    x: Tensor,
    coefficients: Tensor,
    decay: Tensor | None,
    skip: Tensor,
    table: Tensor,
    *,
    backend: Backend = "auto",
    check: bool = True,
) -> Tensor:
    """`y_d[t] = Σ_{s≤t} h_d(t−s) x_d[s] + D_d x_d[t]` with the kernel of `legendre_taps`.

    Computed in float32 (float64 for float64 inputs), also under autocast.

    Args:
        x: `[D, B, L]`, any L ≥ 1; beyond the window the kernel is zero.
        coefficients: `[D, K]`.
        decay: `[D]`, ≥ 0, or None for no decay.
        skip: `[D]`.
        table: `[K, W]` of `legendre_table`: the kernel length W is the same at every L.
        backend: `fft` is O(L log L), `dense` a Toeplitz product, O(L²) and faster when short,
            `auto` the faster by length (`select_backend`).
        check: Whether to look for negative decays, which costs a GPU a synchronisation; a caller
            whose decays are positive by construction passes False.

    Returns:
        `[D, B, L]` in the type of `x`.

    Raises:
        ValueError: Shapes that do not fit, a negative decay, an unknown backend.
    """
    _check(x, coefficients, decay, skip, table, check)
    taps = legendre_taps(coefficients, decay, table, x.shape[2])
    return causal_convolution(x, taps, skip, backend=backend)


def causal_convolution(x: Tensor, taps: Tensor, skip: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Depthwise causal convolution with free taps, `y_d[t] = Σ_τ h_d(τ) x_d[t−τ] + D_d x_d[t]`.

    Args:
        x: `[D, B, L]`.
        taps: `[D, T]`, T ≤ L.
        skip: `[D]`.
        backend: As in `legendre_convolution`.

    Returns:
        `[D, B, L]` in the type of `x`.
    """
    backend = select_backend(backend, x.shape[2], x.device)
    working = torch.float64 if x.dtype == torch.float64 else torch.float32
    convolve = _fourier_convolution if backend == "fft" else _toeplitz_convolution
    with torch.autocast(x.device.type, enabled=False):
        y = convolve(x.to(working), taps.to(working), skip.to(working))
    return y.to(x.dtype)


def select_backend(backend: str, length: int, device: torch.device) -> Literal["fft", "dense"]:
    """The backend that runs at a length: `auto` resolved, anything else checked.

    Raises:
        ValueError: Unknown backend.
    """
    if backend == "auto":
        return "dense" if length <= DENSE_MAX_LENGTH.get(device.type, 0) else "fft"
    if backend == "fft":
        return "fft"
    if backend == "dense":
        return "dense"
    raise ValueError(f"unknown convolution backend '{backend}'; legal: {', '.join(get_args(Backend))}")


def fourier_length(length: int, taps: int) -> int:
    """Smallest even 5-smooth FFT length that holds the linear convolution, ≥ length + taps − 1."""
    least = max(length + taps - 1, 2)
    best = 1 << (least - 1).bit_length()
    fives = 1
    while fives < best:
        odd = fives
        while odd < best:
            # The even multiple of this odd factor by the smallest sufficient power of two.
            best = min(best, odd << max((-(-least // odd) - 1).bit_length(), 1))
            odd *= 3
        fives *= 5
    return best


def short_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise causal convolution with a few free taps, `y_c[t] = Σ_j w_c[j] x_c[t−j]`.

    Args:
        x: `[C, B, L]`.
        weight: `[C, width]`, width ≥ 1; column j weighs the event j steps back.

    Returns:
        `[C, B, L]` in the type of `x`.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[0] or weight.shape[1] < 1:
        raise ValueError(f"need x [C, B, L] and weight [C, width ≥ 1], got {list(x.shape)} and {list(weight.shape)}")
    return _short_convolution(x.contiguous(), weight)


def _check(
    x: Tensor, coefficients: Tensor, decay: Tensor | None, skip: Tensor, table: Tensor, check_decay: bool
) -> None:
    if x.dim() != 3 or x.shape[2] < 1:
        raise ValueError(f"x must be [D, B, L] with L ≥ 1, got {list(x.shape)}")
    channels = x.shape[0]
    if coefficients.dim() != 2 or coefficients.shape[0] != channels or coefficients.shape[1] < 1:
        raise ValueError(f"coefficients must be [{channels}, K ≥ 1], got {list(coefficients.shape)}")
    if table.dim() != 2 or table.shape[0] != coefficients.shape[1]:
        raise ValueError(f"table must be [{coefficients.shape[1]}, W], got {list(table.shape)}; see legendre_table")
    for name, vector in (("decay", decay), ("skip", skip)):
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} must be [{channels}], got {list(vector.shape)}")
    if check_decay and decay is not None and bool((decay < 0).any()):
        raise ValueError(f"decay must be ≥ 0, got {float(decay.min())}; a negative one grows without bound")


class _FourierConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, skip: Tensor) -> Tensor:
        length = x.shape[2]
        n = fourier_length(length, taps.shape[1])
        spectrum = torch.fft.rfft(x, n)
        # The spectrum of a unit impulse is 1, so the skip term costs nothing.
        kernel = torch.fft.rfft(taps, n) + skip[:, None]
        ctx.save_for_backward(spectrum, kernel)
        ctx.taps, ctx.n = taps.shape[1], n
        y: Tensor = torch.fft.irfft(spectrum * kernel[:, None], n)
        return y[..., :length]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spectrum, kernel = ctx.saved_tensors
        outer = torch.fft.rfft(gradient, ctx.n)
        x_gradient = torch.fft.irfft(outer * kernel.conj_physical()[:, None], ctx.n)[..., : gradient.shape[2]]
        # conj(a)·b summed and conjugated once is a·conj(b), without a conjugate copy of the batch.
        cross = outer.conj_physical_().mul_(spectrum).sum(1).conj_physical_()
        taps_gradient = torch.fft.irfft(cross, ctx.n)[:, : ctx.taps]
        return x_gradient, taps_gradient, taps_gradient[:, 0]


class _ToeplitzConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, skip: Tensor) -> Tensor:
        matrix = _toeplitz(taps, skip, x.shape[2])
        ctx.save_for_backward(x, matrix)
        ctx.taps = taps.shape[1]
        return torch.bmm(x, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, matrix = ctx.saved_tensors
        gradient = gradient.contiguous()
        x_gradient = torch.bmm(gradient, matrix.transpose(1, 2))
        taps_gradient = _diagonal_sums(torch.bmm(x.transpose(1, 2), gradient))[:, : ctx.taps]
        return x_gradient, taps_gradient, taps_gradient[:, 0]


def _toeplitz(taps: Tensor, skip: Tensor, length: int) -> Tensor:
    """`[D, L, L]` with `M[s, t] = h(t − s)`, the skip term on the diagonal."""
    line = functional.pad(taps, (length - 1, length - taps.shape[1]))
    line[:, length - 1] += skip
    return line.unfold(1, length, 1).flip(1)


def _diagonal_sums(matrix: Tensor) -> Tensor:
    """`[D, L]`: for lag τ the sum over s of `M[s, s + τ]` of a `[D, L, L]` matrix."""
    channels, length, _ = matrix.shape
    padded = functional.pad(matrix, (0, length))
    skewed = padded.as_strided((channels, length, length), (2 * length * length, 2 * length + 1, 1))
    return skewed.sum(1)


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        columns = weight.to(x.dtype)[:, :, None, None].unbind(1)
        y = x * columns[0]
        for j in range(1, min(weight.shape[1], x.shape[2])):
            y[..., j:].addcmul_(x[..., :-j], columns[j])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        columns = weight.to(x.dtype)[:, :, None, None].unbind(1)
        x_gradient = gradient * columns[0]
        weight_gradient = torch.zeros_like(weight)
        weight_gradient[:, 0] = (gradient * x).sum((1, 2))
        for j in range(1, min(weight.shape[1], x.shape[2])):
            later, earlier = gradient[..., j:], x[..., :-j]
            x_gradient[..., :-j].addcmul_(later, columns[j])
            weight_gradient[:, j] = (later * earlier).sum((1, 2))
        return x_gradient, weight_gradient


# torch leaves `apply` untyped.
_fourier_convolution: Callable[..., Tensor] = _FourierConvolution.apply
_toeplitz_convolution: Callable[..., Tensor] = _ToeplitzConvolution.apply
_short_convolution: Callable[..., Tensor] = _ShortConvolution.apply
