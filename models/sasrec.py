"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

    x = √D · E[s] + P[t]
    x ← x + W_o Attention(LN(x)),   causal softmax attention of H heads (equations 2 to 4)
    x ← x + W_2 ReLU(W_1 LN(x)),    a D → D → D network at every position (equation 6)

followed by a final LayerNorm. Departures: the norm comes before the residual branch for queries,
keys and values alike (the paper's code normalises the queries only); an output projection after the
heads; no dropout on attention weights, which would bar the fused kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from models.base import Cost, ModelConfig, register
from models.layers import FeedForward, ResidualBlock
from models.ops.attention.layer import SelfAttention, attention_backends
from models.options import Heads, Range, head_count
from models.stack import StreamingStack


@dataclass(frozen=True, kw_only=True)
class SASRecConfig(ModelConfig):
    """SASRec's options.

    Attributes:
        attention: Kernel: `math` builds the L × L matrix, `sdpa` is what torch picks, `flash` is
            flash-attn where it is installed and takes the tensors, else torch's flash kernel.
        num_heads: Heads, one as in the authors' code; more are used where one would be wider than 64.
        feed_forward: Hidden width of the feed-forward network, in units of D: 1 as published, 4 to
            match the other models' size.
    """

    attention: Literal["math", "sdpa", "flash"] = "sdpa"
    num_heads: Annotated[int, Heads()] = 1
    feed_forward: Annotated[int, Range(1)] = 1


@register(
    "sasrec",
    family="attention",
    causal=True,
    citation="Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018",
    config=SASRecConfig,
)
class SASRec(StreamingStack):
    """SASRec in pre-norm form; see the module's docstring for the equations.

    Raises:
        ValueError: Heads that do not divide the width, or (in `forward`) a sequence longer than
            the positions learned.
    """

    config: SASRecConfig
    SCALED = POSITIONS = True

    def block(self) -> ResidualBlock:
        """`x + Attention(LN(x))`, then `x + FFN(LN(x))`; a stream keeps the keys and values of all its events."""
        config, width = self.config, self.config.hidden_size
        return ResidualBlock(
            width,
            SelfAttention(width, config.num_heads, config.attention, causal=True),
            FeedForward(width, config.feed_forward * width, "relu"),
            config.dropout,
        )

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
