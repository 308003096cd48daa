"""HyenaRec: Hyena blocks whose long convolutions have Legendre kernels (arXiv 2603.25027).

Public are the abstract and summaries, not the full text: item embedding, a stack of Hyena blocks
(Poli et al., ICML 2023), kernels built from Legendre polynomials, gated convolutions. The rest is
our reading, each choice an option. One block is

    x ← x + W_o z + b_o,          z = Hyena(LN(x))
    x ← x + FFN(LN(x)),           FFN: D → 4D → D with GELU

and the Hyena operator of order N, channel by channel, with a short causal convolution s:

    (x_1, …, x_N, v) = s ∗ (W_i LN(x) + b_i)
    z_1 = v;   z_{n+1} = h_n ∗ u_n + δ_n ⊙ u_n,  u_n = x_n ⊙ z_n,  n = 1 … N − 1;   z = x_N ⊙ z_N
    h_{n,d}(τ) = e^{−a_{n,d} τ} Σ_{k<K} c_{n,d,k} P_k(2τ/(W−1) − 1),  0 ≤ τ < W,  a ≥ 0

W is the model's maximum length, never the batch's: else the same weights would mean another kernel
at another length. There are no positions outside the kernels. Our FFT convolution is O(L log L).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.ops.blocks import Dropout, FeedForward, ResidualBlock
from models.ops.causal_convolution import (
    fourier_length,
    legendre_convolution,
    legendre_table,
    legendre_taps,
    select_backend,
    short_convolution,
)


@dataclass(frozen=True, kw_only=True)
class HyenaRecConfig(ModelConfig):
    """HyenaRec's options.

    Attributes:
        kernel: Parameterisation of the long convolution.
        kernel_order: Number K of Legendre polynomials.
        kernel_decay: Whether kernels carry the factor e^{−aτ}.
        convolution: Backend; `auto` is `dense` for short sequences and `fft` beyond.
        order: Order N of the Hyena operator: N gates, N − 1 long convolutions.
        short_convolution: Width of the short convolution in events; 0 leaves it out.
        gates: Whether the gates x_1 … x_N exist; without them their projections go too.
        initialisation: `open`: gates start at 1, the short convolution at the identity, kernels
            smooth and positive, δ at 0. `plain`: torch's defaults, random kernels, δ from N(0, 1)
            as in Hyena. Kernels start with ‖h‖₂ = 1 either way.
    """

    kernel: Literal["legendre"] = "legendre"
    kernel_order: int = 16
    kernel_decay: bool = True
    convolution: Literal["auto", "fft", "dense"] = "auto"
    order: int = 2
    short_convolution: int = 3
    gates: bool = True
    initialisation: Literal["open", "plain"] = "open"


class LegendreKernel(nn.Module):
    """One long convolution `h ∗ u + δ ⊙ u` with its kernel's parameters."""

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__()
        width, order = config.hidden_size, config.kernel_order
        self.backend = config.convolution
        self.table: Tensor
        self.register_buffer("table", legendre_table(order, config.max_length).float(), persistent=False)
        self.coefficients = nn.Parameter(torch.empty(width, order))
        self.skip = nn.Parameter(torch.zeros(width))
        self.log_decay = nn.Parameter(torch.empty(width)) if config.kernel_decay else None
        self._initialise(config)

    def _initialise(self, config: HyenaRecConfig) -> None:
        width, order, window = config.hidden_size, config.kernel_order, config.max_length
        with torch.no_grad():
            if self.log_decay is not None:
                # Time constants from two events to the whole window, evenly in their logarithm.
                slowest, fastest = math.log(1 / max(window, 2)), math.log(0.5)
                self.log_decay.copy_(torch.linspace(fastest, slowest, width))
            if config.initialisation == "open":
                # |c_k| sums to less than c_0 = 1 and |P_k| ≤ 1, so the kernel stays positive.
                bound = 0.5 * torch.arange(1, order + 1).pow(-2.0)
                self.coefficients.copy_((2 * torch.rand(width, order) - 1) * bound)
                self.coefficients[:, 0] = 1.0
            else:
                nn.init.normal_(self.coefficients)
                nn.init.normal_(self.skip)
            taps = legendre_taps(self.coefficients, self.decay(), self.table, window)
            self.coefficients.div_(taps.norm(dim=1, keepdim=True))

    def decay(self) -> Tensor | None:
        """`[D]` decay rates a per event, positive by construction, or None."""
        return None if self.log_decay is None else self.log_decay.exp()

    def forward(self, u: Tensor) -> Tensor:
        """`[D, B, L]` to `[D, B, L]`."""
        return legendre_convolution(
            u, self.coefficients, self.decay(), self.skip, self.table, backend=self.backend, check=False
        )


class HyenaOperator(nn.Module):
    """The gated operator of order N; activations are channel-major inside."""

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.gates = config.order if config.gates else 0
        self.projection = nn.Linear(width, (self.gates + 1) * width)
        self.kernels = nn.ModuleList(LegendreKernel(config) for _ in range(config.order - 1))
        self.output = nn.Linear(width, width)
        self.short = None
        if config.short_convolution:
            taps = torch.empty((self.gates + 1) * width, config.short_convolution)
            self.short = nn.Parameter(nn.init.uniform_(taps, -(taps.shape[1] ** -0.5), taps.shape[1] ** -0.5))
        if config.initialisation == "open":
            with torch.no_grad():
                self.projection.weight[: self.gates * width].normal_(std=0.02)
                self.projection.bias[: self.gates * width].fill_(1.0)
                if self.short is not None:
                    self.short.zero_()[:, 0] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        batch, length, width = x.shape
        # W Xᵀ lands channel-major, and the output product reads the transpose: no layout copies.
        flat = torch.addmm(self.projection.bias[:, None], self.projection.weight, x.reshape(-1, width).t())
        streams = flat.view(-1, batch, length)
        if self.short is not None:
            streams = short_convolution(streams, self.short)
        *gates, z = streams.view(-1, width, batch, length).unbind(0)
        for n, kernel in enumerate(self.kernels):
            z = kernel(gates[n] * z if gates else z)
        if gates:
            z = gates[-1] * z
        y: Tensor = self.output(z.reshape(width, -1).t())
        return y.view(batch, length, width)


@register(
    "hyenarec",
    family="convolution",
    causal=True,
    citation="HyenaRec, arXiv 2603.25027 (our reading); Poli et al., Hyena Hierarchy, ICML 2023",
    config=HyenaRecConfig,
)
class HyenaRec(SequenceModel):
    """Our reading of HyenaRec; see the module's docstring for the equations.

    Raises:
        ValueError: An option outside its range.
    """

    config: HyenaRecConfig

    def __init__(self, config: HyenaRecConfig) -> None:
        super().__init__(config)
        if config.order < 2:
            raise ValueError(f"order {config.order} must be at least 2: order N has N − 1 long convolutions")
        if config.kernel_order < 1:
            raise ValueError(f"kernel_order {config.kernel_order} must be at least 1")
        if config.short_convolution < 0:
            raise ValueError(f"short_convolution {config.short_convolution} must be a width ≥ 1, or 0 for none")
        if config.kernel != "legendre":
            raise ValueError(f"unknown kernel '{config.kernel}'; legal: legendre")
        select_backend(config.convolution, 1, torch.device("cpu"))
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, HyenaOperator(config), FeedForward(width, 4 * width), config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        x = self.dropout(self.item_embedding(items))
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products and convolutions of a forward pass; norms and activations are left out.

        Per block and position: projection 2D·(G+1)D with G = N gates (0 without), output 2D²,
        FFN 16D², short convolution 2·width·(G+1)D, gates (N)·D. Per long convolution: the taps
        2K·D·T, T = min(L, W); then with n the FFT length a real transform of 2.5 n log₂ n for
        every signal, forth and back, and for every kernel once, and 6 operations for each of the
        n/2 complex products; or 2L² a signal as a Toeplitz product. Bytes: each operator reads
        its inputs and writes its outputs once, float32. State: W inputs per long convolution and
        width − 1 per short one, channel by channel.
        """
        config, width = self.config, self.config.hidden_size
        streams = (config.order if config.gates else 0) + 1
        tokens, taps, convolutions = batch * length, min(length, config.max_length), config.order - 1
        pointwise = 2.0 * width * width * (streams + 1 + 8)
        pointwise += 2.0 * config.short_convolution * streams * width + (streams - 1) * width
        if self._backend(length) == "dense":
            convolution = 2.0 * tokens * length * width
            convolution_bytes = 4.0 * width * (2 * tokens + length * length)
        else:
            n = fourier_length(length, taps)
            transforms = (2 * batch + 1) * width
            convolution = transforms * 2.5 * n * math.log2(n) + 3.0 * batch * width * n
            convolution_bytes = 4.0 * width * (2 * tokens + (4 * batch + 2) * n)
        convolution += 2.0 * config.kernel_order * width * taps
        block = tokens * pointwise + convolutions * convolution
        block_bytes = 4.0 * tokens * width * (3 * streams + 16) + convolutions * convolution_bytes
        state = convolutions * config.max_length * width + max(config.short_convolution - 1, 0) * streams * width
        return Cost(config.num_layers * block, config.num_layers * block_bytes, float(config.num_layers * state))

    def backends(self) -> dict[str, str]:
        """The convolution backend at the maximum length."""
        return {"convolution": self._backend(self.config.max_length)}

    def _backend(self, length: int) -> str:
        return select_backend(self.config.convolution, length, self.item_embedding.weight.device)
