"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    x = √D · E[s] + P[t]
    x ← x + W_o Attention(LN(x)),   causal softmax attention of H heads (equations 2 to 4)
    x ← x + W_2 ReLU(W_1 LN(x)),    a D → D → D network at every position (equation 6)

followed by a final LayerNorm. Departures: the norm comes before the residual branch for queries,
keys and values alike (the paper's code normalises the queries only); an output projection after the
heads; no dropout on attention weights, which would bar the fused kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.ops.attention import causal_attention, picked_backend
from models.ops.blocks import Dropout, FeedForward, ResidualBlock

MAX_HEAD_WIDTH = 64


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(ModelConfig):
    """SASRec's options.

    Attributes:
        attention: Kernel: `math` builds the L × L matrix, `sdpa` is what torch picks.
        num_heads: Heads; more are used where one would be wider than 64.
    """

    attention: Literal["math", "sdpa"] = "sdpa"
    num_heads: int = 2


class SelfAttention(nn.Module):
    """Causal multi-head attention with one product for queries, keys and values."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.kernel = config.attention
        self.heads = max(config.num_heads, math.ceil(width / MAX_HEAD_WIDTH))
        if config.num_heads < 1 or width % self.heads:
            raise ValueError(f"hidden_size {width} is no multiple of {self.heads} heads (num_heads {config.num_heads})")
        self.projection = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.picked = "not run"
        self._picked_for: tuple[object, ...] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        batch, length, width = x.shape
        streams = self.projection(x).view(batch, length, 3, self.heads, -1).transpose(1, 3)
        query, key, value = streams.unbind(2)
        if self.kernel == "sdpa" and not torch.compiler.is_compiling():
            self._note_backend(query, key, value)
        mixed = causal_attention(query, key, value, self.kernel)
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return y

    def _note_backend(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        asked = (query.shape, query.dtype, query.device, query.requires_grad)
        if asked != self._picked_for:
            self._picked_for, self.picked = asked, picked_backend(query, key, value)


@register(
    "sasrec",
    family="attention",
    causal=True,
    citation="Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018",
    config=SASRecConfig,
)
class SASRec(SequenceModel):
    """SASRec in pre-norm form; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than
            the positions learned.
    """

    config: SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, width)
        initialise_embedding(self.item_embedding)
        initialise_embedding(self.position_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, SelfAttention(config), FeedForward(width, width, "relu"), config.dropout)
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        length = items.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"length {length} exceeds max_length {self.config.max_length}, the positions learned")
        x = self.item_embedding(items) * math.sqrt(self.config.hidden_size)
        x = self.dropout(x + self.position_embedding.weight[:length])
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass; norms, softmax and activations are left out.

        Per block and position: projection 6D², output 2D², FFN 4D². Attention per sequence and
        block: two products of 2L²D, of which a fused kernel does the half below the diagonal and
        `math` all. Bytes: operators read inputs and write outputs once, float32; `math` also moves
        the H L² matrix six times (scores, mask, softmax, each written and read). State: the keys
        and values of all blocks.
        """
        config, width = self.config, self.config.hidden_size
        tokens, pairs = batch * length, batch * float(length) * length
        explicit = config.attention == "math"
        heads = max(config.num_heads, math.ceil(width / MAX_HEAD_WIDTH))
        operations = tokens * 12.0 * width * width + pairs * width * (4.0 if explicit else 2.0)
        moved = 4.0 * (tokens * width * 18 + (6.0 * heads * pairs if explicit else 0.0))
        state = 2.0 * config.max_length * width
        return Cost(config.num_layers * operations, config.num_layers * moved, config.num_layers * state)

    def backends(self) -> dict[str, str]:
        """The attention kernel that ran last: `math`, or torch's choice, such as `sdpa-flash`."""
        if self.config.attention == "math":
            return {"attention": "math"}
        kernels = {module.picked for module in self.modules() if isinstance(module, SelfAttention)}
        return {"attention": ", ".join(f"sdpa-{kernel}" for kernel in sorted(kernels))}
