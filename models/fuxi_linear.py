"""FuXi-Linear: linear attention with channels of their own for time and position (Ye et al., 2026).

    x = √D · E[s] + P[t]
    x ← x + Σ_c W_c (U_c ⊙ norm(y_c)),   U_c = SiLU(W u),   u = LN(x),   c: content, position and time
    x ← x + W_2 (SiLU(W_1 LN(x)) ⊙ W_3 LN(x))

followed by a final LayerNorm. Each y_c is a causal sum over the events so far:

    content   y_t = Σ_{s≤t} e^{−r_h (t−s)} (q_t·k_s) v_s  for each head,  q, k, v = SiLU(W u),
              r_h = Π_{i≤h} 1/(1 + e^{g_i})
    position  y_t = α Σ_{s≤t} (p_t·p_s) v_s / (P/2) + β v_t,  v = W u, with a learned p of P numbers a position,
              sines and cosines at first
    time      y_t = α_h Σ_{s≤t} γ_h^{ω_h (τ_t − τ_s)} f_h(ω_h (τ_t − τ_s)) v_s + β_h v_t  for each head, v = W u

with τ the timestamps, ω_h = 2π over the head's period and f_h sine or cosine, of which each period has a head.
cos and sin of a difference are products of two features, so all three sums are retentions with a state of constant
size (models/ops/attention/retention.py). γ is learned and shared by all blocks. Without timestamps the channel of
time is left out; such histories can be streamed.

The equations are those of the authors' code (USTC-StarTeam/fuxi-linear), with the options of its files for
KuaiRec; the code has, where the paper draws one, α, β and a learned γ.

Departures: τ_t is the time of the event at t, where theirs is that of the event to be predicted, which a model here is
not told; four periods from 17 minutes to 8.5 years, every second of their eight, each with heads of the same width in
turn; dropout on what a branch adds, theirs on what goes into its maps; the norms of x learn a gain and a bias, and
the one before the network is LayerNorm, theirs RMSNorm; positions P start from N(0, 0.02), theirs N(0, 1/D); the final
LayerNorm takes the place of L2 norms of states and items, of temperature 0.05 and of 128 sampled negatives, since the
harness owns the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, cast

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

_EPSILON = 1e-6
_INITIAL_DEVIATION = 0.02
_BASE = 10_000.0
# Features of time are two numbers, so chunks are best short: C(2 + V) against a state of 2V.
_TIME_CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class FuXiLinearConfig(ModelConfig):
    """FuXi-Linear's options.

    Attributes:
        num_heads: Heads of the channel of content; more are used where one would be wider than 64.
        position_features: Numbers P a position in the channel of position.
        time_heads: Heads of the channel of time, two a period; more are used where one would be wider than 64.
        shortest_period: The first period in seconds.
        period_ratio: From one period to the next.
    """

    num_heads: Annotated[int, Heads()] = 2
    position_features: Annotated[int, Range(2)] = 32
    time_heads: Annotated[int, Heads()] = 8
    shortest_period: Annotated[int, Range(1)] = 1024
    period_ratio: Annotated[int, Range(2)] = 64


class Channels(nn.Module):
    """`Σ_c W_c (U_c ⊙ norm(y_c))`."""

    no_decay: Tensor

    def __init__(self, config: FuXiLinearConfig) -> None:
        super().__init__()
        width, features = config.hidden_size, config.position_features
        self.heads = head_count(width, config.num_heads)
        self.time_heads = head_count(width, config.time_heads)
        # q, k, v and U of content, U of position, and U of time by itself: it may be left out.
        self.projection = nn.Linear(width, 5 * width, bias=False)
        self.time_gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(2 * width, width, bias=False)
        self.time_output = nn.Linear(width, width, bias=False)
        for layer in (self.projection, self.time_gate, self.output, self.time_output):
            nn.init.normal_(layer.weight, std=_INITIAL_DEVIATION)
        self.gaps = nn.Parameter(torch.randn(self.heads) * _INITIAL_DEVIATION)
        self.position_value = nn.Linear(width, width, bias=False)
        self.positions = nn.Parameter(sinusoids(config.max_length, features))
        self.position_mix = nn.Parameter(torch.cat((torch.randn(1) * _INITIAL_DEVIATION, torch.ones(1))))
        self.register_buffer("no_decay", torch.zeros(1), persistent=False)
        self.time_value = nn.Linear(width, width, bias=False)
        mix = torch.stack((torch.randn(self.time_heads) * _INITIAL_DEVIATION, torch.ones(self.time_heads)))
        self.time_mix = nn.Parameter(mix[..., None, None])

    def forward(
        self, u: Tensor, query: Tensor | None = None, key: Tensor | None = None, log_decay: Tensor | None = None
    ) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`; features of time `[B, H, L, 2]` and their log decay `[B, H, L]`, or None."""
        content, gates = self._streams(u)
        value = self.position_value(u)
        y = self._read(retention(*content, self._log_decay()), self._by_position(value), value, gates)
        if query is None or key is None or log_decay is None:
            return y
        value = self.time_value(u).view(*u.shape[:2], self.time_heads, -1).transpose(1, 2)
        first, own = self.time_mix.to(value.dtype)
        mixed = first * retention(query, key, value, log_decay, chunk=_TIME_CHUNK) + own * value
        gated = functional.silu(self.time_gate(u)) * _normed(mixed.transpose(1, 2).flatten(2))
        return y + cast(Tensor, self.time_output(gated))

    def stream(self, batch: int, limit: int | None) -> State:
        """The events so far, and the states of content `s`, `[B, H, E, E]`, and position `p`, `[B, P, D]`."""
        width, device = self.output.out_features, self.output.weight.device
        narrow = width // self.heads
        s = torch.zeros(batch, self.heads, narrow, narrow, device=device)
        return {"age": 0, "s": s, "p": torch.zeros(batch, self.positions.shape[1], width, device=device)}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`, without time."""
        (query, key, value), gates = self._streams(x[:, None])
        decay = self._log_decay().exp()[:, None, None]
        state["s"] = decay * state["s"] + key[:, :, 0, :, None] * value[:, :, 0, None]
        placed, row = self.position_value(x), self.positions[state["age"]]
        state["p"] = state["p"] + self._scaled(row)[:, None] * placed[:, None]
        state["age"] += 1
        by_position = (row @ state["p"]).to(x.dtype)
        return self._read(query @ state["s"].to(query.dtype), by_position[:, None], placed[:, None], gates)[:, 0]

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward` without time, and the state after the last event."""
        (query, key, value), gates = self._streams(x)
        placed, rows = self.position_value(x), self.positions[: x.shape[1]]
        state = {
            "age": x.shape[1],
            "s": last_state(key, value, self._log_decay()),
            "p": last_state(self._scaled(rows)[None, None], placed[:, None], self.no_decay)[:, 0],
        }
        mixed = retention(query, key, value, self._log_decay())
        return self._read(mixed, self._by_position(placed), placed, gates), state

    def _streams(self, u: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """q, k and v of content, `[B, H, L, E]` each, and U of content and position, `[B, L, 2D]`."""
        batch, length, width = u.shape
        projected = functional.silu(self.projection(u))
        streams = projected[..., : 3 * width].view(batch, length, 3, self.heads, -1).transpose(1, 3)
        query, key, value = streams.unbind(2)
        return (query, key, value), projected[..., 3 * width :]

    def _log_decay(self) -> Tensor:
        """`−r_h`, `[H]`."""
        return -torch.exp(-functional.softplus(self.gaps).cumsum(0))

    def _scaled(self, rows: Tensor) -> Tensor:
        return rows * (2.0 / rows.shape[-1])

    def _by_position(self, value: Tensor) -> Tensor:
        """`Σ_{s≤t} (p_t·p_s) v_s / (P/2)`; its weights are the same for all users, who so are channels of one."""
        batch, length, width = value.shape
        rows = self.positions[:length]
        merged = value.transpose(0, 1).reshape(1, 1, length, batch * width)
        mixed = retention(rows[None, None], self._scaled(rows)[None, None], merged, self.no_decay)
        return mixed.view(length, batch, width).transpose(0, 1)

    def _read(self, content: Tensor, by_position: Tensor, value: Tensor, gates: Tensor) -> Tensor:
        """The channels of content, `[B, H, L, E]`, and position, `[B, L, D]`, as `[B, L, D]`."""
        first, own = self.position_mix.to(value.dtype)
        channels = (content.transpose(1, 2).flatten(2), first * by_position + own * value)
        y: Tensor = self.output(gates * torch.cat([_normed(channel) for channel in channels], dim=-1))
        return y


class _GatedNetwork(FeedForward):
    """`W_2 (SiLU(W_1 x) ⊙ W_3 x)`, D wide throughout and without biases."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.inner, self.outer, self.gate = (nn.Linear(width, width, bias=False) for _ in range(3))
        for layer in (self.inner, self.outer, self.gate):
            nn.init.normal_(layer.weight, std=_INITIAL_DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        y: Tensor = self.outer(functional.silu(self.inner(x)) * self.gate(x))
        return y


def sinusoids(length: int, features: int) -> Tensor:
    """`[L, P]` sines, then cosines, of the position times 10,000^{−i/⌈P/2⌉}."""
    half = -(-features // 2)
    angle = torch.arange(length)[:, None] * torch.exp(-math.log(_BASE) * torch.arange(half) / half)
    return torch.cat((angle.sin(), angle.cos()), dim=1)[:, :features]


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=_EPSILON)


@register(
    "fuxi-linear",
    family="attention",
    causal=True,
    citation="Ye et al., FuXi-Linear, arXiv 2602.23671",
    config=FuXiLinearConfig,
)
class FuXiLinear(StreamingStack):
    """FuXi-Linear; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than the positions
            learned.
    """

    config: FuXiLinearConfig
    SCALED = POSITIONS = True
    periods: Tensor

    def __init__(self, config: FuXiLinearConfig) -> None:
        super().__init__(config)
        heads = head_count(config.hidden_size, config.time_heads)
        # A sine and a cosine a period; with an odd number of heads the last period has a sine alone.
        self.register_buffer(
            "periods",
            torch.tensor([config.shortest_period * config.period_ratio**i for i in range(-(-heads // 2))]),
            persistent=False,
        )
        self.forgetting = nn.Parameter(torch.randn(len(self.periods)) * _INITIAL_DEVIATION)
        self._time_heads = heads
        self._knew_time: bool | None = None

    def block(self) -> ResidualBlock:
        """`x + Channels(LN(x))`, then `x + FFN(LN(x))`."""
        width = self.config.hidden_size
        return ResidualBlock(width, Channels(self.config), _GatedNetwork(width), self.config.dropout)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; `timestamps` `[B, L]` seconds add their channel."""
        self._knew_time = timestamps is not None
        if timestamps is None:
            return self._through(items)
        return self._through(items, *self._features(timestamps))

    def _features(self, timestamps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key, `[B, H, L, 2]`, and log decay, `[B, H, L]`, of the channel of time."""
        speeds = 2 * math.pi / self.periods
        # The remainder in whole seconds: float32 does not hold a timestamp.
        angle = (timestamps[:, None] % self.periods[:, None]) * speeds[:, None]
        cosine, sine = angle.cos(), angle.sin()
        key = torch.stack((cosine, sine), dim=3)
        query = torch.stack((torch.stack((sine, -cosine), dim=3), key), dim=2).flatten(1, 2)
        elapsed = functional.pad(timestamps.diff(dim=1), (1, 0)).clamp(min=0)
        log_decay = functional.logsigmoid(self.forgetting)[:, None] * (elapsed[:, None] * speeds[:, None])
        key, log_decay = key.repeat_interleave(2, dim=1), log_decay.repeat_interleave(2, dim=1)
        heads = self._time_heads
        return query[:, :heads], key[:, :heads], log_decay[:, :heads]

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products and scans of a forward pass without timestamps; gates, norms and activations are left out.

        Per block and position: projection 10D², values by position 2D², output 4D², network 6D²; the
        retentions as `retention_operations` has them, linear in L: of content with H heads, of position with P
        features and the channels of the whole batch. Bytes: operators read inputs and write outputs once, float32;
        the weights inside a chunk move four times, the states four times a chunk. State: those of content
        and position of every block.
        """
        config, width = self.config, self.config.hidden_size
        heads, features = head_count(width, config.num_heads), config.position_features
        narrow = width // heads
        chunks, rows = chunking(length)
        tokens, states = batch * length, width * (narrow + features)
        operations = tokens * 22.0 * width**2 + batch * heads * retention_operations(length, narrow, narrow)
        operations += retention_operations(length, features, batch * width)
        moved = 4.0 * (tokens * 40 * width + 4.0 * chunks * ((batch * heads + 1) * rows**2 + batch * states))
        layers = config.num_layers
        return Cost(layers * operations, layers * moved, float(layers * states))

    def backends(self) -> dict[str, str]:
        """The form in which retention is computed, and whether the last pass had timestamps."""
        channels = "content, position and time" if self._knew_time else "content and position"
        return {"attention": "retention-chunked", "channels": channels}
