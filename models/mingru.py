"""minGRU: a gated recurrent unit whose gate sees the input alone (Feng et al., 2024, section 3.1).

    z_t = σ(W_z u_t + b_z),   h̃_t = W_h u_t + b_h,   h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ h̃_t

with u = LN(x) and αD states, then a linear map back to width D and a D → 4D → D network with GELU,
each in a residual block. As neither gate nor candidate depends on h_{t−1}, the recurrence is linear
and runs in parallel over time.

The paper has no recommender; gate, candidate, the map back, their biases and the pre-norm blocks are
those of its code (BorealisAI/minRNNs).

Departures: it multiplies factors in [0, 1] chunk by chunk instead of adding logarithms, so the
candidate may be negative, as in the paper's plain form, and needs no positive activation; no
convolution before the unit and no learned first state, both options of theirs; LayerNorm, theirs
RMSNorm or BatchNorm; dropout on the embeddings and after the unit and the network, theirs in the
network alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.scans import native as native_scans
from models.ops.scans.diagonal import diagonal_scan, fused_diagonal_scan, fused_is_available, scan_operations
from models.options import Range
from models.stack import StreamingStack
from models.streaming import State


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(ModelConfig):
    """minGRU's options.

    Attributes:
        state_expansion: States α per hidden unit.
        scan: `auto` takes the kernel of the package flash-linear-attention where it is installed and
            the model on a GPU, else our own scan; `chunked` never asks for the package.
    """

    state_expansion: Annotated[int, Range(1)] = 2
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
        y: Tensor = self.output(self._states(u))
        return y

    def stream(self, batch: int, limit: int | None) -> State:
        """The states h, `[B, S]`, whatever the limit."""
        return {"h": self.output.weight.new_zeros(batch, self.output.in_features)}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        gate, driven = self._gated(x)
        state["h"] = torch.sigmoid(-gate) * state["h"] + driven
        y: Tensor = self.output(state["h"])
        return y

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, and the state after the last event."""
        h = self._states(x)
        return self.output(h), {"h": h[:, -1].to(self.output.weight.dtype, copy=True)}

    def _states(self, u: Tensor) -> Tensor:
        """`[B, L, S]`."""
        gate, driven = self._gated(u)
        # σ(−k) is 1 − σ(k) without the cancellation where the gate is almost open.
        if self.uses_fused(u.device):
            return fused_diagonal_scan(functional.logsigmoid(-gate), driven)
        return diagonal_scan(torch.sigmoid(-gate), driven)

    def _gated(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The gate's logits k = W_z u + b_z, and `σ(k) ⊙ h̃`; `[..., S]` each."""
        gate, candidate = self.input(u).chunk(2, dim=-1)
        return gate, torch.sigmoid(gate) * candidate

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
class MinGRU(StreamingStack):
    """minGRU in pre-norm blocks; see the module's docstring for the equations."""

    config: MinGRUConfig

    def block(self) -> ResidualBlock:
        """`x + MinGRU(LN(x))`, then `x + FFN(LN(x))`."""
        config, width = self.config, self.config.hidden_size
        mixer = MinGRUnit(width, self.states, config.scan)
        return ResidualBlock(width, mixer, FeedForward(width, 4 * width), config.dropout)

    @property
    def states(self) -> int:
        """States αD of a block."""
        return self.config.state_expansion * self.config.hidden_size

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
