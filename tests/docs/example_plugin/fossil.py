"""Fossil (He and McAuley, ICDM 2016): the mean of the history beside a short Markov chain.

    h_t = norm(W · t^{-α} Σ_{s ≤ t} E[x_s] + Σ_{k < K} η_k ⊙ E[x_{t−k}])

The paper's model less its user vectors, with η per channel, a map W and a final LayerNorm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register


@dataclass(frozen=True, kw_only=True)
class FossilConfig(ModelConfig):
    """Fossil's options: K, the order of the Markov chain, and α, which damps long histories."""

    order: int = 3
    alpha: float = 0.5


@register(
    "fossil",
    family="convolution",
    causal=True,
    citation="He and McAuley, Fusing similarity models with Markov chains, ICDM 2016",
    config=FossilConfig,
)
class Fossil(SequenceModel):
    """See the module's docstring; `num_layers` has no meaning here."""

    def __init__(self, config: FossilConfig) -> None:
        super().__init__(config)
        width, self.order, self.alpha = config.hidden_size, config.order, config.alpha
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.chain = nn.Conv1d(width, width, self.order, groups=width, bias=False)
        self.mean = nn.Linear(width, width)
        self.dropout, self.norm = nn.Dropout(config.dropout), nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """`[B, L]` to `[B, L, D]`."""
        x = self.dropout(self.item_embedding(items))
        steps = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=torch.float32)
        recent = nn.functional.pad(x.transpose(1, 2), (self.order - 1, 0))
        return self.norm(self.mean(x.cumsum(1) * steps[:, None] ** -self.alpha) + self.chain(recent).transpose(1, 2))

    def cost(self, batch: int, length: int) -> Cost:
        """A position takes one D × D product and K products of width D; a sum and K items continue it."""
        width, tokens = self.config.hidden_size, batch * length
        return Cost(2.0 * tokens * width * (width + self.order), 24.0 * tokens * width, width * (1.0 + self.order))
