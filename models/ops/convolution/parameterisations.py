"""Ways to parameterise a long convolution's kernel, for the ablation of HyenaRec's.

Each is a module whose `forward()` yields the kernel over the model's window W: the parameters, and
nothing of a batch, decide it. All start with ‖h_d‖₂ = 1 in every channel d, the skip term aside.
`open` starts smooth and positive with no skip term, `plain` random with a skip term from N(0, 1).

    legendre      h_d(τ) = e^{−a_d τ} Σ_{k<K} c_{d,k} P_k(x_τ),   x_τ = 2τ/(W−1) − 1,  0 ≤ τ < W
    chebyshev     the same with T_k: the same functions, other coordinates for the optimiser
    fourier-mlp   h_d(τ) = e^{−a_d τ} MLP(τ/(W−1), e^{2πi j τ/(W−1)}, j ≤ K/2)_d
    legendre-mlp  the same, with P_0(x_τ) … P_{K−1}(x_τ) in place of τ/(W−1)
    explicit      h_d(τ), W numbers a channel
    exponential   h_d(τ) = Σ_{k<K} c_{d,k} e^{−a_{d,k} τ}

The decay e^{−a_d τ} is an option of the first four: `legendre` without it is an ablation too.
`fourier-mlp` is Hyena's own filter (Poli et al., ICML 2023, section 3.3), an MLP with sines.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor, nn

from models.ops.legendre.basis import Matrix, legendre_values
from models.ops.legendre.taps import ExplicitKernel, Kernel, LegendreKernel

Name = Literal["legendre", "chebyshev", "legendre-mlp", "fourier-mlp", "explicit", "exponential"]
Initialisation = Literal["open", "plain"]

MLP_WIDTH = 64
SINE_FREQUENCY = 10.0
FASTEST_RATE = 0.5


class Parameterisation(nn.Module, ABC):
    """The parameters of one long convolution.

    Attributes:
        skip: `[D]`, the skip term.
        log_decay: `[D]`, log a_d, or None where there is no such factor.
    """

    def __init__(self, channels: int, window: int, *, decay: bool, initialisation: Initialisation) -> None:
        super().__init__()
        self.channels, self.window = channels, window
        self.skip = nn.Parameter(torch.zeros(channels) if initialisation == "open" else torch.randn(channels))
        self.log_decay = nn.Parameter(_log_rates(channels, window)) if decay else None

    @abstractmethod
    def forward(self) -> Kernel:
        """The kernel over the window, D channels, in float32 at least, also under autocast."""

    @abstractmethod
    def operations(self, taps: int) -> float:
        """Matrix products of the first `taps` taps of all channels, a multiply-add counting two."""

    def decay(self) -> Tensor | None:
        """`[D]` rates a_d per event, positive by construction, or None."""
        return None if self.log_decay is None else self.log_decay.exp()

    @torch.no_grad()
    def _normalise(self, *linear: Tensor) -> None:
        """Scale parameters `[D, ...]` in which the taps are linear to ‖h_d‖₂ = 1."""
        kernel: Kernel = self()
        norm = kernel.taps(self.window).norm(dim=1, keepdim=True)
        for parameter in linear:
            parameter.view(self.channels, -1).div_(norm)


class PolynomialKernel(Parameterisation):
    """Legendre or Chebyshev coefficients; either way a `LegendreKernel`, so that every backend applies."""

    def __init__(
        self,
        channels: int,
        window: int,
        order: int,
        *,
        basis: Literal["legendre", "chebyshev"] = "legendre",
        decay: bool = True,
        initialisation: Initialisation = "open",
    ) -> None:
        super().__init__(channels, window, decay=decay, initialisation=initialisation)
        self.change: Tensor | None
        change = torch.from_numpy(chebyshev_in_legendre(order)).float() if basis == "chebyshev" else None
        self.register_buffer("change", change, persistent=False)
        if initialisation == "open":
            # |c_k| sums to less than c_0 = 1 and |P_k|, |T_k| ≤ 1, so the kernel stays positive.
            coefficients = (2 * torch.rand(channels, order) - 1) * 0.5 * torch.arange(1, order + 1).pow(-2.0)
            coefficients[:, 0] = 1.0
        else:
            coefficients = torch.randn(channels, order)
        self.coefficients = nn.Parameter(coefficients)
        self._normalise(self.coefficients)

    def forward(self) -> LegendreKernel:
        """The kernel over the window."""
        coefficients: Tensor = self.coefficients
        if self.change is not None:
            with torch.autocast(coefficients.device.type, enabled=False):
                coefficients = coefficients @ self.change
        return LegendreKernel(coefficients, self.window, self.decay(), self.skip)

    def operations(self, taps: int) -> float:
        """2DK a tap, and the change of basis."""
        order = self.coefficients.shape[1]
        return 2.0 * self.channels * order * (taps + (0 if self.change is None else order))


class ImplicitKernel(Parameterisation):
    """Features of the lag through two hidden layers of sines with learned frequencies."""

    def __init__(
        self,
        channels: int,
        window: int,
        order: int,
        *,
        features: Literal["fourier", "legendre"],
        decay: bool = True,
        initialisation: Initialisation = "open",
    ) -> None:
        super().__init__(channels, window, decay=decay, initialisation=initialisation)
        table = torch.from_numpy(lag_features(order, window, legendre_features=features == "legendre")).float()
        self.features: Tensor
        self.register_buffer("features", table, persistent=False)
        self.inner = nn.ModuleList((nn.Linear(table.shape[1], MLP_WIDTH), nn.Linear(MLP_WIDTH, MLP_WIDTH)))
        self.frequencies = nn.Parameter(torch.full((len(self.inner), MLP_WIDTH), SINE_FREQUENCY))
        self.outer = nn.Linear(MLP_WIDTH, channels)
        if initialisation == "open":
            # |Σ w sin| ≤ 1/2 beside a bias of 1: positive.
            nn.init.uniform_(self.outer.weight, -0.5 / MLP_WIDTH, 0.5 / MLP_WIDTH)
            nn.init.ones_(self.outer.bias)
        self._normalise(self.outer.weight, self.outer.bias)

    def forward(self) -> ExplicitKernel:
        """The kernel over the window."""
        with torch.autocast(self.skip.device.type, enabled=False):
            hidden = self.features
            for layer, frequency in zip(self.inner, self.frequencies, strict=True):
                hidden = torch.sin(frequency * layer(hidden))
            taps = torch.addmm(self.outer.bias[:, None], self.outer.weight, hidden.t())
            decay = self.decay()
            if decay is not None:
                lags = torch.arange(self.window, dtype=taps.dtype, device=taps.device)
                taps = taps * torch.exp(-decay[:, None] * lags)
        return ExplicitKernel(taps, self.skip)

    def operations(self, taps: int) -> float:
        """The MLP at every lag of the window, whatever the taps asked for."""
        return 2.0 * self.window * MLP_WIDTH * (self.features.shape[1] + MLP_WIDTH + self.channels)


class FreeKernel(Parameterisation):
    """W free taps a channel; `open` starts them at a decay from e^{−τ/2} to e^{−τ/W}."""

    def __init__(self, channels: int, window: int, *, initialisation: Initialisation = "open") -> None:
        super().__init__(channels, window, decay=False, initialisation=initialisation)
        if initialisation == "open":
            values = torch.exp(-_log_rates(channels, window).exp()[:, None] * torch.arange(window))
        else:
            values = torch.randn(channels, window)
        self.values = nn.Parameter(values)
        self._normalise(self.values)

    def forward(self) -> ExplicitKernel:
        """The kernel over the window."""
        return ExplicitKernel(self.values, self.skip)

    def operations(self, taps: int) -> float:
        """None."""
        return 0.0


class ExponentialKernel(Parameterisation):
    """A sum of K exponentials a channel; rates start between 1/2 and 1/W per event.

    With τ = iC + j and C ≈ √W, e^{−aτ} is e^{−aiC} e^{−aj}: a matrix product of two small tables
    instead of D·K·W exponentials.
    """

    def __init__(self, channels: int, window: int, order: int, *, initialisation: Initialisation = "open") -> None:
        super().__init__(channels, window, decay=False, initialisation=initialisation)
        draw = torch.rand if initialisation == "open" else torch.randn
        self.log_rates = nn.Parameter(_log_rates(order, window).repeat(channels, 1))
        self.coefficients = nn.Parameter(draw(channels, order))
        self._normalise(self.coefficients)

    def forward(self) -> ExplicitKernel:
        """The kernel over the window."""
        block = math.isqrt(self.window - 1) + 1
        with torch.autocast(self.skip.device.type, enabled=False):
            lags = torch.arange(block, dtype=self.skip.dtype, device=self.skip.device)
            rates = self.log_rates.exp()
            near = torch.exp(-rates[:, :, None] * lags)
            far = self.coefficients[:, :, None] * torch.exp(-rates[:, :, None] * (lags * block))
            taps = torch.bmm(far.transpose(1, 2), near).flatten(1)
        return ExplicitKernel(taps[:, : self.window], self.skip)

    def operations(self, taps: int) -> float:
        """2DK a lag of the window, whatever the taps asked for."""
        return 2.0 * self.coefficients.numel() * self.window


def build_parameterisation(
    name: Name,
    channels: int,
    window: int,
    order: int,
    *,
    decay: bool = True,
    initialisation: Initialisation = "open",
) -> Parameterisation:
    """A parameterisation by name.

    Args:
        name: See the module's docstring.
        channels: D.
        window: Kernel length W in events.
        order: K: polynomials, exponentials, or twice the complex exponentials.
        decay: Whether the kernel carries e^{−aτ}; `explicit` and `exponential` never do.
        initialisation: `open` or `plain`.

    Raises:
        ValueError: An unknown name, or an order or a window below 1.
    """
    if order < 1 or window < 1:
        raise ValueError(f"order {order} and window {window} must be at least 1")
    match name:
        case "legendre" | "chebyshev":
            return PolynomialKernel(channels, window, order, basis=name, decay=decay, initialisation=initialisation)
        case "legendre-mlp":
            return ImplicitKernel(
                channels, window, order, features="legendre", decay=decay, initialisation=initialisation
            )
        case "fourier-mlp":
            return ImplicitKernel(
                channels, window, order, features="fourier", decay=decay, initialisation=initialisation
            )
        case "explicit":
            return FreeKernel(channels, window, initialisation=initialisation)
        case "exponential":
            return ExponentialKernel(channels, window, order, initialisation=initialisation)
        case _:
            raise ValueError(f"unknown kernel '{name}'; legal: {', '.join(get_args(Name))}")


def chebyshev_in_legendre(order: int) -> Matrix:
    """The matrix M with `T_k = Σ_j M[k, j] P_j`, by Gauss's K nodes, exact to degree 2K − 1.

    Coefficients c of T_k are coefficients c M of P_j. Going through powers of x instead would lose
    all digits at K = 64.

    Returns:
        `[K, K]` float64.
    """
    nodes, weights = legendre.leggauss(order)
    degrees = np.arange(order)
    chebyshev = np.cos(degrees[:, None] * np.arccos(nodes))
    return (chebyshev * weights) @ legendre.legvander(nodes, order - 1) * (degrees + 0.5)


def lag_features(order: int, window: int, *, legendre_features: bool) -> Matrix:
    """What the MLP sees of every lag: a polynomial part and ⌊K/2⌋ complex exponentials of the window.

    Returns:
        `[W, F]` float64: P_0 … P_{K−1} or τ/(W−1), then cosines and sines.
    """
    lags = np.arange(window, dtype=np.float64)
    time = lags / max(window - 1, 1)
    polynomial = legendre_values(lags, order, window) if legendre_features else time[:, None]
    phases = 2 * np.pi * time[:, None] * np.arange(1, order // 2 + 1)
    return np.concatenate((polynomial, np.cos(phases), np.sin(phases)), axis=1)


def _log_rates(count: int, window: int) -> Tensor:
    """Time constants from two events to the whole window, evenly in their logarithm."""
    return torch.linspace(math.log(FASTEST_RATE), -math.log(max(window, 2)), count)
