"""A model to begin with: each block adds a gated causal convolution and a feed-forward network. Replace it by yours.

    x ← x + W_o (σ(W_g n) ⊙ conv_K(n)),   x ← x + FFN(LayerNorm(x)),   with n = LayerNorm(x)

`python -m harness check my-model` holds it against what every model promises.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.options import Range


@dataclass(frozen=True, kw_only=True)
class MyConfig(ModelConfig):
    """Options beside the shared ones (hidden_size, num_layers, dropout); a study may set each.

    Attributes:
        width: Width of the convolution in events.
    """

    width: Annotated[int, Range(1)] = 5


class Block(nn.Module):
    """One block."""

    def __init__(self, config: MyConfig) -> None:
        super().__init__()
        size, self.reach = config.hidden_size, config.width - 1
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.convolution = nn.Conv1d(size, size, config.width, groups=size)
        self.gate, self.output = nn.Linear(size, size), nn.Linear(size, size)
        self.network = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`; position t sees t − K + 1 … t."""
        n = self.before(x)
        past = nn.functional.pad(n.transpose(1, 2), (self.reach, 0))
        x = x + self.dropout(self.output(torch.sigmoid(self.gate(n)) * self.convolution(past).transpose(1, 2)))
        output: Tensor = x + self.dropout(self.network(self.between(x)))
        return output


@register("my-model", family="convolution", causal=True, citation="ours", config=MyConfig)
class MyModel(SequenceModel):
    """See the module's docstring."""

    config: MyConfig

    def __init__(self, config: MyConfig) -> None:
        super().__init__(config)
        self.item_embedding = nn.Embedding(config.num_items + 1, config.hidden_size, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Items `[B, L]`, 0 is padding on the right, to hidden states `[B, L, D]`."""
        x = self.dropout(self.item_embedding(items))
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def cost(self, batch: int, length: int) -> Cost:
        """Ten D × D products a position and block, and K products of width D; a block streams from K − 1 events."""
        size, tokens = self.config.hidden_size, batch * length * self.config.num_layers
        reach = self.config.width - 1
        return Cost(2.0 * tokens * size * (10 * size + reach + 1), 60.0 * tokens * size, float(size * reach))
