"""What a long convolution is made of: Legendre coefficients and a decay, or free taps."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.ops.legendre.basis import legendre_values


@dataclass(frozen=True)
class LegendreKernel:
    """`h_d(τ) = e^{−a_d τ} Σ_{k<K} c_{d,k} P_k(2τ/(W−1) − 1)`, 0 ≤ τ < W, and the skip term D_d.

    The window W belongs to the kernel, not to a batch: the same coefficients mean the same taps at
    every length and on every backend. Beyond W the kernel is zero.

    Attributes:
        coefficients: `[D, K]`, K ≥ 1.
        window: Kernel length W in events.
        decay: `[D]` rates a per event, ≥ 0, or None for no decay.
        skip: `[D]`, added to the tap at lag 0, or None.

    Raises:
        ValueError: Shapes that do not fit, types that are no real floating ones, a window below 1.
    """

    coefficients: Tensor
    window: int
    decay: Tensor | None = None
    skip: Tensor | None = None

    def __post_init__(self) -> None:
        if self.coefficients.dim() != 2 or self.coefficients.shape[1] < 1:
            raise ValueError(f"coefficients must be [D, K ≥ 1], got {list(self.coefficients.shape)}")
        if self.window < 1:
            raise ValueError(f"window {self.window} must be at least 1 event")
        _check_vectors(self.channels, decay=self.decay, skip=self.skip)
        check_floating(coefficients=self.coefficients, decay=self.decay, skip=self.skip)

    @property
    def channels(self) -> int:
        """Number of channels D."""
        return self.coefficients.shape[0]

    @property
    def order(self) -> int:
        """Number of polynomials K."""
        return self.coefficients.shape[1]

    def check_decay(self) -> None:
        """Look for rates that no kernel has, at the price of a synchronisation on a GPU.

        Raises:
            ValueError: A rate that is negative, which would grow without bound, infinite, or no number.
        """
        if self.decay is None:
            return
        # As wide as taps are computed at least: a float64 rate may be finite there alone.
        rates = self.decay.detach().float()
        if not bool(((rates >= 0) & (rates < torch.inf)).all()):
            low, high = float(rates.min()), float(rates.max())
            raise ValueError(
                f"decay must be ≥ 0 and finite, got {low} … {high}; a negative one grows without bound, and e^(−∞·0) "
                "at lag 0 is no number: for the tap at lag 0 alone use window=1"
            )

    def taps(self, length: int) -> Tensor:
        """The taps h(0) … h(length − 1), without the skip term, float32 at least.

        Args:
            length: Number of taps, 1 … W.

        Returns:
            `[D, length]`.

        Raises:
            ValueError: More taps than the window has.
        """
        if not 1 <= length <= self.window:
            raise ValueError(f"{length} taps asked for, legal: 1 … {self.window}, the kernel's window")
        with torch.autocast(self.coefficients.device.type, enabled=False):
            coefficients = _working(self.coefficients)
            table = _table(self.order, self.window, length, coefficients.dtype, coefficients.device)
            polynomial = coefficients @ table
            if self.decay is None:
                return polynomial
            decay = self.decay.to(polynomial.dtype)
            lags = torch.arange(length, dtype=decay.dtype, device=decay.device)
            return polynomial * torch.exp(-decay[:, None] * lags)


@dataclass(frozen=True)
class ExplicitKernel:
    """Free taps h_d(0) … h_d(T − 1), from any other parameterisation, and the skip term D_d.

    Attributes:
        values: `[D, T]`, T ≥ 1.
        skip: `[D]`, added to the tap at lag 0, or None.

    Raises:
        ValueError: Shapes that do not fit, types that are no real floating ones.
    """

    values: Tensor
    skip: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.values.shape[1] < 1:
            raise ValueError(f"taps must be [D, T ≥ 1], got {list(self.values.shape)}")
        _check_vectors(self.channels, skip=self.skip)
        check_floating(taps=self.values, skip=self.skip)

    @property
    def channels(self) -> int:
        """Number of channels D."""
        return self.values.shape[0]

    @property
    def window(self) -> int:
        """Number of taps T."""
        return self.values.shape[1]

    def taps(self, length: int) -> Tensor:
        """The taps h(0) … h(length − 1), without the skip term, float32 at least: `[D, length]`.

        Raises:
            ValueError: More taps than there are.
        """
        if not 1 <= length <= self.window:
            raise ValueError(f"{length} taps asked for, legal: 1 … {self.window}, the taps given")
        return _working(self.values)[:, :length]


Kernel = LegendreKernel | ExplicitKernel


def check_floating(**tensors: Tensor | None) -> None:
    """Refuse integers, which would cut what they are multiplied with, and complex numbers.

    Raises:
        ValueError: A tensor of a type that is no real floating one.
    """
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} is of type {tensor.dtype}; legal: float32, float64, bfloat16, float16")


def _check_vectors(channels: int, **vectors: Tensor | None) -> None:
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            raise ValueError(f"{name} must be [{channels}], one number a channel, got {list(vector.shape)}")


def _working(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@functools.lru_cache(maxsize=64)
def _table(order: int, window: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[K, length]`: rounded once from float64, so that no step builds it again."""
    values = legendre_values(np.arange(length, dtype=np.float64), order, window)
    return torch.from_numpy(np.ascontiguousarray(values.T)).to(dtype).to(device)
