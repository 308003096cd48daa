"""minGRU: a gated recurrent unit whose gate sees the input alone (Feng et al., 2024, section 3.1).

    z_t = σ(W_z u_t + b_z),   h̃_t = W_h u_t + b_h,   h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ h̃_t

with u = LN(x) and αD states, then a linear map back to width D and a D → 4D → D network with GELU,
each in a residual block. As neither gate nor candidate depends on h_{t−1}, the recurrence is linear
and runs in parallel over time. Departures: it multiplies factors in [0, 1] chunk by chunk instead
of adding logarithms, so the candidate may be negative, as in the paper's plain form, and needs no
positive activation; no convolution before the unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.ops import native_scans
from models.ops.blocks import Dropout, FeedForward, ResidualBlock
from models.ops.diagonal_scan import diagonal_scan, fused_diagonal_scan, fused_is_available, scan_operations


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(ModelConfig):
    """minGRU's options.

    Attributes:
        state_expansion: States α per hidden unit.
        scan: `auto` takes the kernel of the package flash-linear-attention where it is installed and
            the model on a GPU, else our own scan; `chunked` never asks for the package.
    """

    state_expansion: int = 2
    scan: Literal["auto", "chunked"] = "auto"


class MinGRUnit(nn.Module):
    """The recurrence and the way back to width D."""

    def __init__(self, width: int, states: int, scan: Literal["auto", "chunked"] = "auto") -> None:
        super().__init__()
        self.scan = scan
        self.input = nn.Linear(width, 2 * states)
        self.output = nn.Linear(states, width)

    def forward(self, u: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        gate, candidate = self.input(u).chunk(2, dim=-1)
        driven = torch.sigmoid(gate) * candidate
        # σ(−k) is 1 − σ(k) without the cancellation where the gate is almost open.
        if self.uses_fused(u.device):
            h = fused_diagonal_scan(functional.logsigmoid(-gate), driven)
        else:
            h = diagonal_scan(torch.sigmoid(-gate), driven)
        y: Tensor = self.output(h)
        return y

    def uses_fused(self, device: torch.device) -> bool:
        """Whether the scan runs in flash-linear-attention's kernel on a device."""
        return self.scan == "auto" and fused_is_available(device)


@register(
    "mingru",
    family="recurrent",
    causal=True,
    citation="Feng et al., Were RNNs all we needed?, arXiv 2410.01201",
    config=MinGRUConfig,
)
class MinGRU(SequenceModel):
    """minGRU in pre-norm blocks; see the module's docstring for the equations.

    Raises:
        ValueError: `state_expansion` below 1.
    """

    config: MinGRUConfig

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        if config.state_expansion < 1:
            raise ValueError(f"state_expansion {config.state_expansion} must be at least 1")
        self.states = config.state_expansion * width
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                width, MinGRUnit(width, self.states, config.scan), FeedForward(width, 4 * width), config.dropout
            )
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
        """Matrix products and scan of a forward pass, for S states; norms and activations are left out.

        Per block and position: gate and candidate 4DS, output 2DS, FFN 16D²; the scan's two
        multiply-adds and one product a state, and the same on a sequence C times shorter for the
        carries. Bytes: operators read inputs and write outputs once, float32; the scan reads its
        two inputs twice. State: S numbers a block.
        """
        width, states, layers = self.config.hidden_size, self.states, self.config.num_layers
        tokens = batch * length
        block = tokens * (6.0 * width * states + 16.0 * width * width) + batch * states * scan_operations(length)
        moved = 4.0 * tokens * (16 * width + 12 * states)
        return Cost(layers * block, layers * moved, float(layers * states))

    def backends(self) -> dict[str, str]:
        """The scan: `fla`, `native-scan` or `chunked-scan`."""
        weight = self.item_embedding.weight
        fused = any(m.uses_fused(weight.device) for m in self.modules() if isinstance(m, MinGRUnit))
        return {"recurrence": "fla" if fused else native_scans.describe(weight)}
