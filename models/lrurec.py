"""LRURec: linear recurrent units for sequential recommendation (Yue et al., WSDM 2024).

    h_t = Λ h_{t−1} + exp(γ) ⊙ B u_t,   y_t = Re(C h_t) + u_t,   u = LN(x)
    Λ = diag(exp(−exp(ν) + i·exp(θ)))

with 2D complex states, of the linear recurrent unit (Orvieto et al., ICML 2023, equations 2 to 7),
then a D → 4D → D network with GELU, each in a residual block. Λ starts on a ring of radius 0.8 to
0.99 with any phase, and γ at log √(1 − |Λ|²), as in the authors' code (yueqirex/LRURec).

Departures: the norm comes before the residual branch, theirs after the sum, so that the unit's u is a
second way around it, theirs the only one; dropout falls on Re(C h) + u, theirs on Re(C h); no norm of
the embeddings; no dropout inside the network; no biases of B and C, and none per item in the scores; B
and C start from Gaussians of variance 1/(2D) and 1/S a real part and linear layers as torch's do,
where theirs all start from N(0, 0.02) cut at two deviations; a chunked scan instead of log₂ L passes
over a sequence padded to a power of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.scans import native as native_scans
from models.ops.scans.complex_diagonal import linear_recurrence, recurrence_operations
from models.options import Range
from models.stack import StreamingStack
from models.streaming import State

MIN_RADIUS, MAX_RADIUS = 0.8, 0.99


@dataclass(frozen=True, kw_only=True)
class LRURecConfig(ModelConfig):
    """LRURec's options.

    Attributes:
        state_expansion: Complex states per hidden unit.
    """

    state_expansion: Annotated[int, Range(1)] = 2


class LinearRecurrentUnit(nn.Module):
    """`Re(C h) + u`; the states are channel-major, real plane first."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        radius_squared = torch.rand(states) * (MAX_RADIUS**2 - MIN_RADIUS**2) + MIN_RADIUS**2
        self.log_rate = nn.Parameter((-0.5 * radius_squared.log()).log())
        self.log_phase = nn.Parameter((2 * math.pi * torch.rand(states).clamp(min=1e-4)).log())
        self.log_gain = nn.Parameter(0.5 * (1 - radius_squared).log())
        self.input = nn.Parameter(torch.randn(states, 2, width) * (2 * width) ** -0.5)
        self.output = nn.Parameter(torch.randn(width, states, 2) * states**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        return self._read(self._states(u), u)

    def stream(self, batch: int, limit: int | None) -> State:
        """The complex states, `[B, S, 2]`, whatever the limit."""
        return {"h": self.input.new_zeros(batch, len(self.log_rate), 2)}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        modulus, angle = torch.exp(-self.log_rate.exp()), self.log_phase.exp()
        cosine, sine = modulus * angle.cos(), modulus * angle.sin()
        real, imaginary = state["h"].unbind(2)
        turned = torch.stack((cosine * real - sine * imaginary, sine * real + cosine * imaginary), 2)
        state["h"] = turned + self._drive(x).view(-1, 2, len(x)).permute(2, 0, 1)
        return self._read(state["h"].permute(1, 2, 0)[..., None], x[:, None])[:, 0]

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, and the state after the last event."""
        h = self._states(x)
        return self._read(h, x), {"h": h[..., -1].permute(2, 0, 1).clone()}

    def _drive(self, flat: Tensor) -> Tensor:
        """`exp(γ) ⊙ B u` of `[N, D]`, as `[2S, N]`, in memory as the scan likes it."""
        weight = (self.log_gain.exp()[:, None, None] * self.input).view(-1, flat.shape[1])
        return (flat @ weight.t()).t() if native_scans.takes(flat) else weight @ flat.t()

    def _states(self, u: Tensor) -> Tensor:
        """`[S, 2, B, L]`."""
        batch, length, width = u.shape
        driven = self._drive(u.reshape(-1, width)).view(-1, 2, batch, length)
        return linear_recurrence(driven, -self.log_rate.exp(), self.log_phase.exp())

    def _read(self, h: Tensor, u: Tensor) -> Tensor:
        """`Re(C h) + u`, `[B, L, D]`."""
        batch, length, width = u.shape
        # Re(C h) = Re C · Re h − Im C · Im h; the sign of Im C is a convention of the weight.
        y = h.permute(2, 3, 0, 1).reshape(batch * length, -1) @ self.output.view(width, -1).t()
        return (y + u.reshape(-1, width)).view(batch, length, width)


@register(
    "lrurec",
    family="state_space",
    causal=True,
    citation="Yue et al., Linear recurrent units for sequential recommendation, WSDM 2024",
    config=LRURecConfig,
)
class LRURec(StreamingStack):
    """LRURec in pre-norm form; see the module's docstring for the equations."""

    config: LRURecConfig

    def block(self) -> ResidualBlock:
        """`x + LRU(LN(x))`, then `x + FFN(LN(x))`."""
        width = self.config.hidden_size
        return ResidualBlock(
            width, LinearRecurrentUnit(width, self.states), FeedForward(width, 4 * width), self.config.dropout
        )

    @property
    def states(self) -> int:
        """Complex states of a block."""
        return self.config.state_expansion * self.config.hidden_size

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass, for S complex states; norms and activations are left out.

        Per block and position: into and out of the state 4DS each, FFN 16D²; the scan 8C(1 + 1/C)
        a state at chunk length C, and the same on a sequence C times shorter for the carries; the
        native scan's 8 a state are not told apart.
        Bytes: operators read inputs and write outputs once, float32; the scan writes four real
        products a state and reads them. State: 2S real numbers a block.
        """
        width, states = self.config.hidden_size, self.states
        tokens = batch * length
        block = tokens * (8.0 * width * states + 16.0 * width * width) + batch * states * recurrence_operations(length)
        moved = 4.0 * tokens * (16 * width + 14 * states)
        layers = self.config.num_layers
        return Cost(layers * block, layers * moved, 2.0 * layers * states)

    def backends(self) -> dict[str, str]:
        """The scan: `native-scan` or `chunked-scan`."""
        return {"recurrence": native_scans.describe(self.item_embedding.weight)}
