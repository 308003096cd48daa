"""Linear attention in SASRec's place: transformers are RNNs (Katharopoulos et al., ICML 2020).

    x = √D · E[s] + P[t]
    x ← x + W_o Attention(LN(x)),  o_t = φ(q_t)ᵀ S_t / φ(q_t)ᵀ z_t,  φ(x) = elu(x) + 1   (equation 7)
        S_t = Σ_{s≤t} φ(k_s) v_sᵀ,  z_t = Σ_{s≤t} φ(k_s)                                 (equations 8, 9)
    x ← x + W_2 ReLU(W_1 LN(x)),   a D → D → D network at every position

followed by a final LayerNorm: SASRec with another attention, so that the two can be compared; by
default it has two heads, SASRec one, and nothing else differs. S and z are a state of constant size;
training computes them in chunks.

Departures: the paper's code (idiap/fast-transformers) normalises after the residual sum, has a D → 4D
→ D network and drops out inside it too. The 1e-6 added to the normaliser is theirs.

LinRec (Liu et al., SIGIR 2023) is linear attention made for recommendation. Its own form applies elu
without the 1, divides each query by its norm over channels and each *channel of the keys by its norm
over the whole sequence*, and multiplies keys by values first; its code
(Applied-Machine-Learning-Lab/LinRec) divides each key by its norm over channels instead. Keys times
values are summed over the whole sequence without a mask: every position sees the future, so that form
cannot be trained on every next item. This model is its causal form, in which the running sum z_t takes
the norms' place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.attention.linear import (
    LEAST_NORMALISER,
    chunking,
    fused_is_available,
    fused_linear_attention,
    linear_attention,
    positive_features,
)
from models.options import Heads, head_count
from models.stack import StreamingStack
from models.streaming import State


@dataclass(frozen=True, kw_only=True)
class LinearAttentionConfig(ModelConfig):
    """Linear attention's options.

    Attributes:
        num_heads: Heads; more are used where one would be wider than 64.
        kernel: `auto` takes the kernel of the package flash-linear-attention where it is installed
            and the model on a GPU, else the chunked form; `chunked` never asks for the package.
    """

    num_heads: Annotated[int, Heads()] = 2
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
        return self._joined(self._attend(*self._streams(x)))

    def stream(self, batch: int, limit: int | None) -> State:
        """`s`, `[B, H, E, E]`, and `z`, `[B, H, E]`, whatever the limit."""
        width = self.output.in_features // self.heads
        s = torch.zeros(batch, self.heads, width, width, device=self.output.weight.device)
        return {"s": s, "z": torch.zeros_like(s[..., 0])}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`."""
        query, key, value = (stream[:, :, 0] for stream in self._streams(x[:, None]))
        feature, own = positive_features(query), positive_features(key)
        state["s"] = state["s"] + own[..., None] * value[:, :, None]
        state["z"] = state["z"] + own
        normaliser = (feature * state["z"]).sum(2, keepdim=True) + LEAST_NORMALISER
        mixed = (feature[..., None] * state["s"]).sum(2) / normaliser
        return self._joined(mixed.to(value.dtype)[:, :, None])[:, 0]

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward`, and the state after the last event."""
        query, key, value = self._streams(x)
        own = positive_features(key)
        with torch.autocast(x.device.type, enabled=False):
            state = {"s": own.mT @ value.to(own.dtype), "z": own.sum(2)}
        return self._joined(self._attend(query, key, value)), state

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """`[B, H, L, E]` each, to the same."""
        run = fused_linear_attention if self.uses_fused(query.device) else linear_attention
        return run(query, key, value)

    def _streams(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, `[B, H, L, E]` each."""
        batch, length, _ = x.shape
        query, key, value = self.projection(x).view(batch, length, 3, self.heads, -1).transpose(1, 3).unbind(2)
        return query, key, value

    def _joined(self, mixed: Tensor) -> Tensor:
        """`[B, H, L, E]` to `[B, L, D]`."""
        y: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
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
class LinearAttention(StreamingStack):
    """SASRec's stack with linear attention; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than
            the positions learned.
    """

    config: LinearAttentionConfig
    SCALED = POSITIONS = True

    def block(self) -> ResidualBlock:
        """`x + Attention(LN(x))`, then `x + FFN(LN(x))`."""
        config, width = self.config, self.config.hidden_size
        mixer = LinearSelfAttention(width, config.num_heads, config.kernel)
        return ResidualBlock(width, mixer, FeedForward(width, width, "relu"), config.dropout)

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
