"""Mamba4Rec: selective state spaces for sequential recommendation (Liu et al., 2024, section 3).

A layer is a Mamba block and a D → 4D → D network with GELU, each followed by dropout, residual and
LayerNorm; the item embeddings pass a LayerNorm first. The block (Gu and Dao, 2023), with E = 2D:

    (u, g) = W_in x,   u ← SiLU(conv_4(u)),   (r, B_t, C_t) = W_x u,   δ_t = softplus(W_δ r + b_δ)
    h_t = exp(δ_t A) ⊙ h_{t−1} + (δ_t u_t) ⊗ B_t,   y_t = h_t C_t + D ⊙ u_t,   W_out (y ⊙ SiLU(g))

A = −exp(log A) has 32 states a channel and starts at −1 … −32, r has ⌈D/16⌉ entries, δ starts between
0.001 and 0.1, evenly in its logarithm, as in state-spaces/mamba.

Departures from the authors' code (chengkai-liu/Mamba4Rec): the residual around the block is there with
one layer too, where theirs leaves it out; linear layers start as torch's and mamba's do, where theirs
overwrites all, W_δ included, with N(0, 0.02) and zero biases, so that δ starts near ln 2; no dropout
inside the D → 4D → D network; ε of the norms is 1e-5, theirs 1e-12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.layers import Dropout, FeedForward, PostNormBlock
from models.ops.scans import native as native_scans
from models.ops.scans.selective import (
    fused_is_available,
    fused_selective_scan,
    selective_scan,
    selective_scan_operations,
    slab_size,
)
from models.options import Range

MIN_STEP, MAX_STEP = 1e-3, 1e-1
RANK_DIVISOR = 16


@dataclass(frozen=True, kw_only=True)
class Mamba4RecConfig(ModelConfig):
    """Mamba4Rec's options.

    Attributes:
        scan: `auto` takes the kernel of the package mamba-ssm where it is installed and the model
            on a GPU, else the chunked scan, which is native on a CPU; `chunked` never asks for the
            package.
        state_size: States N a channel.
        expansion: Channels E per hidden unit.
        convolution_width: Width of the depthwise convolution in events.
    """

    scan: Literal["auto", "chunked"] = "auto"
    state_size: Annotated[int, Range(1)] = 32
    expansion: Annotated[int, Range(1)] = 2
    convolution_width: Annotated[int, Range(1)] = 4


class MambaMixer(nn.Module):
    """The Mamba block."""

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__()
        width, states = config.hidden_size, config.state_size
        channels, self.rank = config.expansion * width, math.ceil(width / RANK_DIVISOR)
        self.scan, self.states, self.reach = config.scan, states, config.convolution_width - 1
        self.input = nn.Linear(width, 2 * channels, bias=False)
        self.convolution = nn.Conv1d(channels, channels, config.convolution_width, groups=channels, padding=self.reach)
        self.selection = nn.Linear(channels, self.rank + 2 * states, bias=False)
        self.step = nn.Linear(self.rank, channels)
        self.log_rates = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(channels, 1))
        self.skip = nn.Parameter(torch.ones(channels))
        self.output = nn.Linear(channels, width, bias=False)
        with torch.no_grad():
            nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
            steps = torch.empty(channels).uniform_(math.log(MIN_STEP), math.log(MAX_STEP)).exp()
            # The inverse of softplus, so that δ starts at `steps` where r is zero.
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        u, gate = self.input(x).chunk(2, dim=-1)
        convolved = self.convolution(u.transpose(1, 2))[..., : x.shape[1]]
        u = functional.silu(convolved.transpose(1, 2))
        rank, write, read = self.selection(u).split((self.rank, self.states, self.states), dim=-1)
        delta = functional.softplus(self.step(rank))
        run = fused_selective_scan if self.uses_fused(x.device) else selective_scan
        y = run(u, delta, -self.log_rates.exp(), write, read, self.skip)
        mixed: Tensor = self.output(y * functional.silu(gate))
        return mixed

    def uses_fused(self, device: torch.device) -> bool:
        """Whether the scan runs in mamba-ssm's kernel on a device."""
        return self.scan == "auto" and fused_is_available(device)


@register(
    "mamba4rec",
    family="state_space",
    causal=True,
    citation="Liu et al., Mamba4Rec, arXiv 2403.03900; Gu and Dao, Mamba, arXiv 2312.00752",
    config=Mamba4RecConfig,
)
class Mamba4Rec(SequenceModel):
    """Mamba4Rec; see the module's docstring for the equations."""

    config: Mamba4RecConfig

    def __init__(self, config: Mamba4RecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PostNormBlock(width, MambaMixer(config), FeedForward(width, 4 * width), config.dropout)
            for _ in range(config.num_layers)
        )

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        x: Tensor = self.norm(self.dropout(self.item_embedding(items)))
        for block in self.blocks:
            x = block(x)
        return x

    def cost(self, batch: int, length: int) -> Cost:
        """Products, convolution and scan of a forward pass; norms and activations are left out.

        Per block and position, for E channels, N states a channel and rank R: W_in 4DE, the
        convolution of width w 2wE, W_x 2E(R + 2N), W_δ 2RE, W_out 2ED, FFN 16D². The scan per
        state: exp(δA) 2, the input 1, the output 2, and two multiply-adds and a product of the
        chunked scan. Bytes: operators read inputs and write outputs once, float32; of the EN
        states the chunked scan moves about ten numbers each through the cache, mamba-ssm's kernel
        and the native scan none. State: EN numbers and w − 1 inputs of the convolution a block.
        """
        config, width = self.config, self.config.hidden_size
        channels, states, reach = config.expansion * width, config.state_size, config.convolution_width
        rank, tokens, device = math.ceil(width / RANK_DIVISOR), batch * length, self.item_embedding.weight.device
        products = 6.0 * width * channels + 2.0 * channels * (2 * rank + 2 * states + reach) + 16.0 * width * width
        _, steps = slab_size(batch, length, channels * states, device)
        scan = batch * channels * states * selective_scan_operations(length, steps)
        through_cache = 0 if self.backends()["selective-scan"] != "chunked-scan" else 10 * channels * states
        moved = 4.0 * tokens * (18 * width + 14 * channels + 2 * (rank + 2 * states) + through_cache)
        state = channels * (states + reach - 1)
        layers = config.num_layers
        return Cost(layers * (tokens * products + scan), layers * moved, float(layers * state))

    def backends(self) -> dict[str, str]:
        """The scan: `mamba-ssm`, `native-scan` or `chunked-scan`."""
        return {"selective-scan": "mamba-ssm" if self._fused() else native_scans.describe(self.item_embedding.weight)}

    def _fused(self) -> bool:
        device = self.item_embedding.weight.device
        return any(block.uses_fused(device) for block in self.modules() if isinstance(block, MambaMixer))
