"""RetNet: attention replaced by retention, which decays with distance (Sun et al., 2023).

    x = √D · E[s]
    Q = rot(W_Q u),  K = rot(W_K u) / √E,  V = W_V u,  G = SiLU(W_G u),  u = LN(x)       (equation 5)
    o_t = q_tᵀ S_t,  S_t = γ_h S_{t−1} + k_t v_tᵀ,  γ_h = 1 − 2^{−5−h}                   (equations 6, 8)
    x ← x + W_O (G ⊙ concat_h norm(o_h)),   x ← x + W_2 GELU(W_1 LN(x))

followed by a final LayerNorm; V and G are 2D wide, and so is the network between its layers. rot turns the
pairs of channels of a head by the position times 10,000^{−i/(E/2−1)}, i = 0 … E/2 − 1, so that a product of query
and key knows their distance; no positions are learned. S is a state of constant size; training computes
it in chunks (equation 7, models/ops/attention/retention.py).

The paper has no recommender; it stands in tables of recommenders (FuXi-Linear, arXiv 2602.23671) as it is for
language. Rotation, initial weights and the norm of each head without a gain are those of the authors' code
(microsoft/torchscale).

Departures: two heads of D/2 channels, where theirs are 256 wide, so that γ takes two values, 0.969 and 0.984; the
sums are not divided by their decays' nor by their own size, which the norm that follows makes no
difference of; LayerNorm, where the code has RMSNorm (the paper LayerNorm and GroupNorm); biases in the network,
and none in their code, which also gates it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.attention.linear import chunking
from models.ops.attention.retention import last_state, retention, retention_operations
from models.options import Heads, Range, head_count
from models.stack import StreamingStack
from models.streaming import State

_BASE = 10_000.0
_EPSILON = 1e-6
# Smallest distance of γ from 1 as a power of a half: 1/32 of the first head.
_FIRST_POWER = 5


@dataclass(frozen=True, kw_only=True)
class RetNetConfig(ModelConfig):
    """RetNet's options.

    Attributes:
        num_heads: Heads; more are used where one would be wider than 64.
        value_expansion: Width of values and gate per hidden unit.
    """

    num_heads: Annotated[int, Heads()] = 2
    value_expansion: Annotated[int, Range(1)] = 2


class MultiScaleRetention(nn.Module):
    """`W_O (G ⊙ concat_h norm(o_h))`, with one product for queries, keys, values and gate."""

    log_decay: Tensor
    speeds: Tensor

    def __init__(self, width: int, num_heads: int, value_expansion: int) -> None:
        super().__init__()
        self.heads, self.values = head_count(width, num_heads), value_expansion * width
        self.projection = nn.Linear(width, 2 * width + 2 * self.values, bias=False)
        self.output = nn.Linear(self.values, width, bias=False)
        for weight in torch.split(self.projection.weight.detach(), [width, width, self.values, self.values]):
            nn.init.xavier_uniform_(weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.output.weight, gain=0.5)
        powers = -_FIRST_POWER - torch.arange(self.heads, dtype=torch.float64)
        self.register_buffer("log_decay", torch.log1p(-torch.exp2(powers)).float(), persistent=False)
        # An odd channel that is left over is not turned.
        pairs = width // self.heads // 2
        self.register_buffer("speeds", _BASE ** -torch.linspace(0, 1, pairs), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        query, key, value, gate = self._streams(u, 0)
        return self._read(retention(query, key, value, self.log_decay), gate)

    def stream(self, batch: int, limit: int | None) -> State:
        """The events so far, and `s`, `[B, H, E, V]`, whatever the limit."""
        width = self.output.out_features // self.heads
        s = torch.zeros(batch, self.heads, width, self.values // self.heads, device=self.output.weight.device)
        return {"age": 0, "s": s}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        query, key, value, gate = self._streams(x[:, None], state["age"])
        decay = self.log_decay.exp()[:, None, None]
        state["s"] = decay * state["s"] + key[:, :, 0, :, None] * value[:, :, 0, None]
        state["age"] += 1
        mixed = query @ state["s"].to(query.dtype)
        return self._read(mixed, gate)[:, 0]

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward`, and the state after the last event."""
        query, key, value, gate = self._streams(x, 0)
        state = {"age": x.shape[1], "s": last_state(key, value, self.log_decay)}
        return self._read(retention(query, key, value, self.log_decay), gate), state

    def _streams(self, u: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries and keys `[B, H, L, E]` turned from position `start` on, values `[B, H, L, V]`, gate `[B, L, HV]`."""
        batch, length, width = u.shape
        query, key, value, gate = self.projection(u).split([width, width, self.values, self.values], dim=2)
        query, key, value = (
            stream.view(batch, length, self.heads, -1).transpose(1, 2)
            for stream in (query, key * (width // self.heads) ** -0.5, value)
        )
        positions = torch.arange(start, start + length, device=u.device, dtype=self.speeds.dtype)
        angle = positions[:, None] * self.speeds
        cosine, sine = angle.cos().to(query.dtype), angle.sin().to(query.dtype)
        return rotated(query, cosine, sine), rotated(key, cosine, sine), value, functional.silu(gate)

    def _read(self, mixed: Tensor, gate: Tensor) -> Tensor:
        """`[B, H, L, V]` and `[B, L, HV]` to `[B, L, D]`."""
        normed = functional.layer_norm(mixed, mixed.shape[3:], eps=_EPSILON)
        y: Tensor = self.output(gate * normed.transpose(1, 2).flatten(2))
        return y


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Channel i and i + P of `[..., L, E]` turned together by the angle i, for P angles `[L, P]`; the others as is."""
    pairs = cosine.shape[1]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine, rest), dim=-1)


@register(
    "retnet",
    family="attention",
    causal=True,
    citation="Sun et al., Retentive network: a successor to transformer, arXiv 2307.08621",
    config=RetNetConfig,
)
class RetNet(StreamingStack):
    """RetNet; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width.
    """

    config: RetNetConfig
    SCALED = True

    def block(self) -> ResidualBlock:
        """`x + Retention(LN(x))`, then `x + FFN(LN(x))`."""
        config, width = self.config, self.config.hidden_size
        mixer = MultiScaleRetention(width, config.num_heads, config.value_expansion)
        return ResidualBlock(width, mixer, FeedForward(width, 2 * width), config.dropout)

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products and scan of a forward pass; decays, rotation, norms and activations are left out.

        Per block and position, for values of width V = 2D in all: projection 4D² + 4DV, output 2DV, FFN
        8D²; retention as `retention_operations` has it, linear in L. Bytes: operators read inputs and write
        outputs once, float32; the weights inside a chunk move four times (written, decayed, read), the states
        four times a chunk. State: S of every head and block.
        """
        config, width = self.config, self.config.hidden_size
        heads = head_count(width, config.num_heads)
        key_width, values = width // heads, config.value_expansion * width
        chunks, rows = chunking(length)
        tokens, states = batch * length, key_width * values
        operations = tokens * (12.0 * width**2 + 6.0 * width * values)
        operations += batch * heads * retention_operations(length, key_width, values // heads)
        moved = 4.0 * (tokens * (20 * width + 9 * values) + 4.0 * batch * chunks * (heads * rows**2 + states))
        layers = config.num_layers
        return Cost(layers * operations, layers * moved, float(layers * states))

    def backends(self) -> dict[str, str]:
        """The form in which retention is computed."""
        return {"attention": "retention-chunked"}
