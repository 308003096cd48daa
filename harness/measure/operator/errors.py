"""Errors of a backend against float64, computed apart from models/: nothing is shared but the inputs.

With h the taps, g the incoming gradient and V the Legendre table on the window:

    y[t] = Σ_τ h(τ) x[t − τ] + D x[t]        ∂x[s] = Σ_t g[t] h(t − s) + D g[s]
    ∂h(τ) = Σ_t g[t] x[t − τ]                 ∂c = Vᵀ (e^{−aτ} ∂h),  ∂a = −Σ_τ τ h(τ) ∂h(τ)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy import signal

from harness.measure.operator.workloads import Inputs, convolution, inputs, omission
from harness.records.operator import Error, Omission, Reference
from models.ops.convolution.causal import Name as Backend

# Direct sums cost L² a line; beyond, a float64 FFT is far more exact than what it judges.
DIRECT_LIMIT = 2048
_CHANNELS, _BATCH = 4, 2

Array = NDArray[np.float64]


def errors(
    length: int, order: int, backends: Sequence[Backend], device: torch.device
) -> tuple[list[Error], list[Omission]]:
    """Relative L2 errors of float32 backends, in channel-major layout; four channels, two sequences.

    Args:
        length: Events L, also the window.
        order: Polynomials K.
        backends: Which.
        device: Where the backends run.

    Returns:
        One error per backend, and the backends that refused this length or kernel order.
    """
    data = inputs(
        batch=_BATCH, length=length, channels=_CHANNELS, order=order, layout="channel_major", device=device, seed=1
    )
    reference: Reference = "direct" if length <= DIRECT_LIMIT else "fft"
    true = _reference(data, reference)
    found: list[Error] = []
    omitted: list[Omission] = []
    for backend in backends:
        try:
            with torch.no_grad():
                output = data.apply(backend)
            convolution(data, backend, "forward_backward")()
        except ValueError as error:
            omitted.append(omission(data, backend, "forward_backward", str(error)))
            continue
        measured = (output, data.x.grad, data.coefficients.grad, data.decay.grad)
        y, x, coefficients, decay = (_relative(m, t) for m, t in zip(measured, true, strict=True))
        found.append(
            Error(
                backend=backend,
                length=length,
                kernel_order=order,
                reference=reference,
                output=y,
                x_gradient=x,
                coefficients_gradient=coefficients,
                decay_gradient=decay,
            )
        )
    return found, omitted


def _relative(measured: torch.Tensor | None, true: Array) -> float:
    assert measured is not None
    difference = measured.detach().cpu().double().numpy() - true
    return float(np.linalg.norm(difference) / np.linalg.norm(true))


def _reference(data: Inputs, method: Reference) -> tuple[Array, Array, Array, Array]:
    """y, ∂x, ∂c and ∂a in float64."""
    x, gradient, coefficients, decay, skip = (
        t.detach().cpu().double().numpy() for t in (data.x, data.gradient, data.coefficients, data.decay, data.skip)
    )
    length, order = x.shape[2], coefficients.shape[1]
    lags = np.arange(length, dtype=np.float64)
    table = legendre.legvander(2 * lags / max(length - 1, 1) - 1, order - 1)
    fading = np.exp(-decay[:, None] * lags)
    taps = fading * (coefficients @ table.T)
    y, x_gradient, taps_gradient = np.empty_like(x), np.empty_like(x), np.zeros_like(taps)
    for d in range(x.shape[0]):
        for b in range(x.shape[1]):
            reversed_gradient = gradient[d, b, ::-1]
            y[d, b] = _convolve(x[d, b], taps[d], method) + skip[d] * x[d, b]
            x_gradient[d, b] = _convolve(reversed_gradient, taps[d], method)[::-1] + skip[d] * gradient[d, b]
            taps_gradient[d] += _convolve(reversed_gradient, x[d, b], method)[::-1]
    return y, x_gradient, (fading * taps_gradient) @ table, -(lags * taps * taps_gradient).sum(1)


def _convolve(a: Array, b: Array, method: Reference) -> Array:
    full = signal.convolve(a, b, method=method)
    return np.asarray(full[: a.size], dtype=np.float64)
