"""Linear attention in SASRec's place: transformers are RNNs (Katharopoulos et al., ICML 2020).

    x = √D · E[s] + P[t]
    x ← x + W_o Attention(LN(x)),  o_t = φ(q_t)ᵀ S_t / φ(q_t)ᵀ z_t,  φ(x) = elu(x) + 1   (equation 7)
        S_t = Σ_{s≤t} φ(k_s) v_sᵀ,  z_t = Σ_{s≤t} φ(k_s)                                 (equations 8, 9)
    x ← x + W_2 ReLU(W_1 LN(x)),   a D → D → D network at every position

followed by a final LayerNorm: SASRec with another attention and nothing else changed, so that the
two can be compared. S and z are a state of constant size; training computes them in chunks.

LinRec (Liu et al., SIGIR 2023) is linear attention made for recommendation. Its own form applies
elu without the 1, divides each query by its norm over channels and each *channel of the keys by its
norm over the whole sequence*, and multiplies keys by values first. The norm over the sequence lets
every position see the future, so that form is not causal and cannot be trained on every next item;
this model is its causal form, in which the running sum z_t takes that norm's place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.ops.blocks import Dropout, FeedForward, ResidualBlock
from models.ops.linear_attention import chunking, fused_is_available, fused_linear_attention, linear_attention
from models.ops.self_attention import head_count


@dataclass(frozen=True, kw_only=True)
class LinearAttentionConfig(ModelConfig):
    """Linear attention's options.

    Attributes:
        num_heads: Heads; more are used where one would be wider than 64.
        kernel: `auto` takes the kernel of the package flash-linear-attention where it is installed
            and the model on a GPU, else the chunked form; `chunked` never asks for the package.
    """

    num_heads: int = 2
    kernel: Literal["auto", "chunked"] = "auto"


class LinearSelfAttention(nn.Module):
    """`W_o concat_h o_h`, with one product for queries, keys and values."""

    def __init__(self, width: int, num_heads: int, kernel: Literal["auto", "chunked"] = "auto") -> None:
        super().__init__()
        self.kernel = kernel
        self.heads = head_count(width, num_heads)
        self.projection = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        batch, length, width = x.shape
        streams = self.projection(x).view(batch, length, 3, self.heads, -1).transpose(1, 3)
        run = fused_linear_attention if self.uses_fused(x.device) else linear_attention
        mixed = run(*streams.unbind(2))
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return y

    def uses_fused(self, device: torch.device) -> bool:
        """Whether attention runs in flash-linear-attention's kernel on a device."""
        return self.kernel == "auto" and fused_is_available(device)


@register(
    "linear-attention",
    family="attention",
    causal=True,
    citation="Katharopoulos et al., Transformers are RNNs, ICML 2020; Liu et al., LinRec, SIGIR 2023",
    config=LinearAttentionConfig,
)
class LinearAttention(SequenceModel):
    """SASRec's stack with linear attention; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than
            the positions learned.
    """

    config: LinearAttentionConfig

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, width)
        initialise_embedding(self.item_embedding)
        initialise_embedding(self.position_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                width,
                LinearSelfAttention(width, config.num_heads, config.kernel),
                FeedForward(width, width, "relu"),
                config.dropout,
            )
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
        """Matrix products of a forward pass; features, norms and activations are left out.

        Per block and position: projection 6D², output 2D², FFN 4D². Attention per block, position
        and channel, for heads of width E and chunks of C positions: the weights inside a chunk 2C,
        their product with the values 2C, and beyond one chunk the state 2E and its product with the
        query 2E; linear in L. Bytes: operators read inputs and write outputs once, float32; the
        weights move four times (written, masked, read), the E × E states six times a chunk. State: S
        and z of every head and block.
        """
        config, width = self.config, self.config.hidden_size
        heads = head_count(width, config.num_heads)
        head_width = width // heads
        chunks, rows = chunking(length)
        tokens, padded = batch * length, batch * chunks * rows
        states = 4.0 * head_width if chunks > 1 else 0.0
        operations = tokens * 12.0 * width**2 + padded * width * (4.0 * rows + states)
        moved = 4.0 * (tokens * width * 26 + 4.0 * heads * padded * rows + 6.0 * batch * chunks * width * head_width)
        state = float(width * head_width + width)
        return Cost(config.num_layers * operations, config.num_layers * moved, config.num_layers * state)

    def backends(self) -> dict[str, str]:
        """The form in which attention is computed: `fla` or `linear-chunked`."""
        device = self.item_embedding.weight.device
        fused = any(m.uses_fused(device) for m in self.modules() if isinstance(m, LinearSelfAttention))
        return {"attention": "fla" if fused else "linear-chunked"}
