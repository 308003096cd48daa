"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024).

    x = √D · E[s]
    U, V, Q, K = split(SiLU(W LN(x)))                                            (equation 1)
    A V with A_ij = SiLU(q_i·k_j + rab_ij) / n for j ≤ i, without a softmax      (equation 2)
    x ← x + W_o (U ⊙ LN(A V))                                                    (equation 3)

followed by a final LayerNorm; no feed-forward network. The relative bias is rab_ij = p[i − j] +
w[b(t_i − t_j)], b(Δ) = min(⌊ln(max(1, |Δ|)) / 0.301⌋, 128): a table by distance, and one by time
where the data has timestamps. Both are shared by the heads; each block has its own.

The L × L weights are computed in chunks of queries and again in the backward pass, so memory is
linear in L at a fixed number of events; the operations stay quadratic.

Dropout, SiLU and initial weights are those of the authors' code
(facebookresearch/generative-recommenders).

Departures: two heads, where theirs has one with two blocks and two with eight; the table by distance
holds the n entries that a causal mask leaves of the 2n − 1; the division by n is left to the norm that
follows, whose ε would swamp short sums at large n; t_i is the time of the event at i, where theirs is
that of the event to be predicted, which a model here is not told; no learned positions besides rab,
where theirs adds them to x; the norms learn a gain and a bias; the final LayerNorm takes the place of
L2 norms of states and items, of temperature 0.05 and of 128 sampled negatives, since the harness owns
the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, register
from models.layers import Dropout
from models.ops.attention.pointwise import pointwise_attention, weights_computed
from models.options import Heads, Range, head_count
from models.stack import BlockStack

_INITIAL_DEVIATION = 0.02
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class HSTUConfig(ModelConfig):
    """HSTU's options.

    Attributes:
        num_heads: Heads; more are used where one would be wider than 64.
        time_buckets: Largest bucket of a time difference, or 0 for no bias by time.
    """

    num_heads: Annotated[int, Heads()] = 2
    time_buckets: Annotated[int, Range(0)] = 128


class TransductionUnit(nn.Module):
    """One block, `x + W_o (U ⊙ LN(A V))`.

    Args:
        config: Width, heads, buckets, and n = `max_length`.
    """

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = head_count(width, config.num_heads)
        self.norm = nn.LayerNorm(width, _EPSILON)
        self.projection = nn.Linear(width, 4 * width, bias=False)
        nn.init.normal_(self.projection.weight, std=_INITIAL_DEVIATION)
        self.position_bias = nn.Parameter(torch.randn(config.max_length) * _INITIAL_DEVIATION)
        self.time_bias = (
            nn.Parameter(torch.randn(config.time_buckets + 1) * _INITIAL_DEVIATION) if config.time_buckets else None
        )
        self.mixed_norm = nn.LayerNorm(width, _EPSILON)
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.output.weight)

    def forward(self, x: Tensor, timestamps: Tensor | None) -> Tensor:
        """`[B, L, D]` and `[B, L]` or None to `[B, L, D]`."""
        batch, length, width = x.shape
        streams = functional.silu(self.projection(self.norm(x))).view(batch, length, 4, self.heads, -1)
        gate = streams[:, :, 0].flatten(2)
        value, query, key = streams[:, :, 1:].transpose(1, 3).unbind(2)
        mixed = pointwise_attention(query, key, value, self.position_bias, self.time_bias, timestamps)
        normed = self.mixed_norm(mixed.transpose(1, 2).reshape(batch, length, width))
        y: Tensor = x + self.output(self.dropout(gate * normed))
        return y


@register(
    "hstu",
    family="attention",
    causal=True,
    citation="Zhai et al., Actions speak louder than words (HSTU), ICML 2024",
    config=HSTUConfig,
)
class HSTU(BlockStack):
    """HSTU; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, a negative number of buckets, or (in
            `forward`) a sequence longer than the distances learned.
    """

    config: HSTUConfig
    SCALED = True

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__(config)
        self._knew_time: bool | None = None

    def block(self) -> TransductionUnit:
        """`x + W_o (U ⊙ LN(A V))`."""
        return TransductionUnit(self.config)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; `timestamps` `[B, L]` seconds add their bias."""
        length = items.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"length {length} exceeds max_length {self.config.max_length}, the distances learned")
        self._knew_time = timestamps is not None
        return self._through(items, timestamps)

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass; biases, SiLU, norms and gates are left out.

        Per block and position: projection 8D², output 2D². Attention per sequence and block: two
        products of 2D for each weight, and weights are computed for the lower triangle with the
        whole chunks on its diagonal: (L² + RL)/2 with R rows a chunk. Bytes: operators read inputs
        and write outputs once, float32; the H matrices of weights move six times (scores, bias,
        SiLU, product). State: keys, values and the times of all events.
        """
        config, width = self.config, self.config.hidden_size
        heads = head_count(width, config.num_heads)
        tokens, weights = batch * length, float(batch * weights_computed(length))
        operations = tokens * 10.0 * width**2 + 4.0 * weights * width
        moved = 4.0 * (tokens * width * 22 + 6.0 * heads * weights)
        state = (2.0 * width + 1.0) * config.max_length
        return Cost(config.num_layers * operations, config.num_layers * moved, config.num_layers * state)

    def backends(self) -> dict[str, str]:
        """The form in which attention is computed, and whether the last pass had timestamps."""
        bias = "position and time" if self._knew_time and self.config.time_buckets else "position"
        return {"attention": "pointwise-chunked", "bias": bias}
