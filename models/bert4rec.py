"""BERT4Rec: sequential recommendation from both directions (Sun et al., CIKM 2019).

    x = E[s] + P[t]                                          (section 3.4)
    x ← x + W_o Attention(LN(x)),  softmax attention of H heads over all positions  (equations 1, 2)
    x ← x + W_2 GELU(W_1 LN(x)),   a D → 4D → D network at every position           (equations 3, 4)
    h = LN(GELU(W_P LN(x) + b_P)), scored against the item table                    (equation 7)

It is trained to name items hidden behind a mask, 20 % of a history, from both sides, and recommends
by a mask appended to the history. Row V + 1 of the item table is the mask. The harness hides the
items and appends the mask (`Objective(batch="masked-item")`); the loss is its own.

Two heads, the exact GELU and the places of dropout are those of the authors' code (FeiSun/BERT4Rec);
like it, but not the paper, x is normalised before the first block and h at the end.

Departures: the norm comes before the residual branch, so that one more follows the last block; no
dropout on attention weights, which would bar the fused kernels; no output bias per item, since all
models share the harness's head; linear layers start as torch's do, theirs from N(0, 0.02) cut at two
deviations and zero biases; 20 % are hidden whatever the data, theirs 60 % on Beauty and 40 % on Steam;
no copies of a history whose last item alone is hidden, theirs has one to every ten.

Padding must be kept out of a softmax that has no causal mask. Where a batch has none, nothing is
masked and the kernel runs as it is; else `bidirectional_attention` says what each kernel does. To
tell, one number is read back from the device in each forward pass; a compiled pass is cut in two there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, Objective, SequenceModel, initialise_embedding, register
from models.layers import Dropout, FeedForward, ResidualBlock
from models.ops.attention.layer import SelfAttention, attention_backends
from models.options import Heads, head_count


@dataclass(frozen=True, kw_only=True)
class BERT4RecConfig(ModelConfig):
    """BERT4Rec's options.

    Attributes:
        attention: Kernel: `math` builds the L × L matrix, `sdpa` is what torch picks, `flash` is
            flash-attn where it is installed and takes the tensors, else torch's flash kernel.
        num_heads: Heads; more are used where one would be wider than 64.
    """

    attention: Literal["math", "sdpa", "flash"] = "sdpa"
    num_heads: Annotated[int, Heads()] = 2


@register(
    "bert4rec",
    family="attention",
    causal=False,
    citation="Sun et al., BERT4Rec: sequential recommendation with bidirectional encoder representations, CIKM 2019",
    config=BERT4RecConfig,
)
class BERT4Rec(SequenceModel):
    """BERT4Rec in pre-norm form; see the module's docstring for the equations.

    Raises:
        ValueError: In `forward`, a sequence longer than
            the positions learned.
    """

    config: BERT4RecConfig

    def __init__(self, config: BERT4RecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 2, width, padding_idx=0)
        self.position_embedding = nn.Embedding(config.max_length, width)
        initialise_embedding(self.item_embedding)
        initialise_embedding(self.position_embedding)
        self.embedding_norm = nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            ResidualBlock(
                width,
                SelfAttention(width, config.num_heads, config.attention, causal=False),
                FeedForward(width, 4 * width),
                config.dropout,
            )
            for _ in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)
        self.output_norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`, mask V + 1 included; timestamps are not used."""
        length = items.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"length {length} exceeds max_length {self.config.max_length}, the positions learned")
        keep = items != 0
        # A row of padding alone would leave its softmax no key at all.
        keep[:, 0] = True
        real = None if bool(keep.all()) else keep
        x = self.item_embedding(items) + self.position_embedding.weight[:length]
        x = self.dropout(self.embedding_norm(x))
        for block in self.blocks:
            x = block(x, real)
        hidden: Tensor = self.output_norm(functional.gelu(self.output(self.norm(x))))
        return hidden

    def objective(self) -> Objective:
        """Cross-entropy on the items behind masks."""
        return Objective(loss="cross-entropy", batch="masked-item")

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass; norms, softmax and activations are left out.

        Per block and position: projection 6D², output 2D², FFN 16D². Attention per sequence and
        block: two products of 2L²D over all pairs, whatever the kernel. Once: the output layer, 2D².
        Bytes: operators read inputs and write outputs once, float32; `math` also moves the H L²
        matrix four times (scores and softmax, each written and read). State: the history itself,
        since another event changes every position.
        """
        config, width = self.config, self.config.hidden_size
        tokens, pairs = batch * length, batch * float(length) * length
        heads = head_count(width, config.num_heads)
        operations = config.num_layers * (tokens * 24.0 * width**2 + 4.0 * pairs * width) + tokens * 2.0 * width**2
        matrix = 4.0 * heads * pairs if config.attention == "math" else 0.0
        moved = 4.0 * (config.num_layers * (tokens * width * 24 + matrix) + tokens * width * 6)
        return Cost(operations, moved, float(config.max_length))

    def backends(self) -> dict[str, str]:
        """The attention kernel that ran last: `math`, `sdpa-flash` and the like, `flash-attn 2.x`, `torch-flash`."""
        return attention_backends(self)
