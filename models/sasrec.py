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

from models.base import Cost, ModelConfig, StreamingModel, initialise_embedding, register
from models.ops.blocks import Dropout, FeedForward, ResidualBlock, prefill_blocks, step_blocks, stream_blocks
from models.ops.ring_stream import check_limit
from models.ops.self_attention import SelfAttention, attention_backends, head_count
from models.ops.stream_state import State


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(ModelConfig):
    """SASRec's options.

    Attributes:
        attention: Kernel: `math` builds the L × L matrix, `sdpa` is what torch picks, `flash` is
            flash-attn where it is installed and takes the tensors, else torch's flash kernel.
        num_heads: Heads; more are used where one would be wider than 64.
        feed_forward: Hidden width of the feed-forward network, in units of D: 1 as published, 4 to
            match the other models' size.
    """

    attention: Literal["math", "sdpa", "flash"] = "sdpa"
    num_heads: int = 2
    feed_forward: int = 1


@register(
    "sasrec",
    family="attention",
    causal=True,
    citation="Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018",
    config=SASRecConfig,
)
class SASRec(StreamingModel):
    """SASRec in pre-norm form; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than
            the positions learned.
    """

    config: SASRecConfig

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__(config)
        if config.feed_forward < 1:
            raise ValueError(f"feed_forward {config.feed_forward} must be at least 1")
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, width)
        initialise_embedding(self.item_embedding)
        initialise_embedding(self.position_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                width,
                SelfAttention(width, config.num_heads, config.attention, causal=True),
                FeedForward(width, config.feed_forward * width, "relu"),
                config.dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        length = items.shape[1]
        self._check_length(length)
        x = self.item_embedding(items) * math.sqrt(self.config.hidden_size)
        x = self.dropout(x + self.position_embedding.weight[:length])
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def stream(self, batch: int, limit: int | None = None) -> State:
        """Room for the keys and values of `limit` events, at most and by default `max_length`.

        Here a step's time and what it reads grow with the history.
        """
        return stream_blocks(self.blocks, batch, self._room(limit))

    @torch.no_grad()
    def step(self, items: Tensor, state: State) -> Tensor:
        """Hidden states `[B, D]` after one more event `[B]`."""
        check_limit(state["age"], 1, state["blocks"][0]["keys"].shape[2] if state["blocks"] else None)
        x = self.item_embedding(items) * math.sqrt(self.config.hidden_size)
        x = x + self.position_embedding.weight[state["age"]]
        hidden: Tensor = self.norm(step_blocks(self.blocks, x, state))
        return hidden

    @torch.no_grad()
    def prefill(self, items: Tensor, limit: int | None = None) -> tuple[Tensor, State]:
        """Hidden states `[B, L, D]` of `items` `[B, L]`, and the state after them."""
        length = items.shape[1]
        check_limit(0, length, self._room(limit))
        x = self.item_embedding(items) * math.sqrt(self.config.hidden_size)
        x, state = prefill_blocks(self.blocks, x + self.position_embedding.weight[:length], self._room(limit))
        return self.norm(x), state

    def _check_length(self, length: int) -> None:
        if length > self.config.max_length:
            raise ValueError(f"length {length} exceeds max_length {self.config.max_length}, the positions learned")

    def _room(self, limit: int | None) -> int:
        longest = self.config.max_length
        if limit is not None and not 1 <= limit <= longest:
            raise ValueError(f"limit {limit} must lie in 1 … {longest}, the positions learned")
        return longest if limit is None else limit

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass; norms, softmax and activations are left out.

        Per block and position: projection 6D², output 2D², FFN 4F·D² with F = `feed_forward`.
        Attention per sequence and block: two products of 2L²D, of which a fused kernel does the
        half below the diagonal and `math` all. Bytes: operators read inputs and write outputs once,
        float32; `math` also moves the H L² matrix six times (scores, mask, softmax, each written
        and read). State: the keys and values of all blocks.
        """
        config, width = self.config, self.config.hidden_size
        tokens, pairs = batch * length, batch * float(length) * length
        explicit = config.attention == "math"
        heads = head_count(width, config.num_heads)
        operations = tokens * (8.0 + 4.0 * config.feed_forward) * width * width
        operations += pairs * width * (4.0 if explicit else 2.0)
        moved = 4.0 * (tokens * width * (14 + 4 * config.feed_forward) + (6.0 * heads * pairs if explicit else 0.0))
        state = 2.0 * config.max_length * width
        return Cost(config.num_layers * operations, config.num_layers * moved, config.num_layers * state)

    def backends(self) -> dict[str, str]:
        """The attention kernel that ran last: `math`, `sdpa-flash` and the like, `flash-attn 2.x`, `torch-flash`."""
        return attention_backends(self)
