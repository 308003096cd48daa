"""NextItNet: dilated causal convolutions (Yuan et al., WSDM 2019, equation 4 and figure 3b).

A residual block of dilation l holds two full convolutions of width 3,

    x ← x + ReLU(LN(C_2l(ReLU(LN(C_l(x)))))),   C_l(x)_t = W_0 x_t + W_1 x_{t−l} + W_2 x_{t−2l} + b

and a layer is the paper's run of dilations 1, 2, 4, 8: blocks of dilation 1 and 4. Position t sees
the last 30·num_layers + 1 events and no more. A convolution is one matrix product with the three
shifted inputs side by side.

Departures from the authors' code (fajieyuan/WSDM2019-nextitnet): scores tied with the item table
behind a final LayerNorm, theirs a ReLU and a matrix of its own with biases; dropout on the embeddings
and on what a block adds, theirs has none; ε of the norms is 1e-5, theirs 1e-8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding, register
from models.layers import Dropout

KERNEL_WIDTH = 3
BLOCK_DILATIONS = (1, 4)


class DilatedConvolution(nn.Module):
    """Causal convolution over all channels, with zeros before the first event."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.taps = nn.Linear(KERNEL_WIDTH * width, width)
        # As the authors: torch's biases would drown embeddings, which start small.
        nn.init.trunc_normal_(self.taps.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.taps.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        length, reach = x.shape[1], (KERNEL_WIDTH - 1) * self.dilation
        padded = functional.pad(x, (0, 0, reach, 0))
        shifted = [padded.narrow(1, reach - j * self.dilation, length) for j in range(KERNEL_WIDTH)]
        y: Tensor = self.taps(torch.cat(shifted, dim=-1))
        return y


class DilatedBlock(nn.Module):
    """Two convolutions, the second twice as dilated, around which the input passes."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(DilatedConvolution(width, dilation * factor) for factor in (1, 2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.convolutions)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        y = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = functional.relu(norm(convolution(y)))
        mixed: Tensor = self.dropout(y, onto=x)
        return mixed


@register(
    "nextitnet",
    family="convolution",
    causal=True,
    citation="Yuan et al., A simple convolutional generative network for next item recommendation, WSDM 2019",
)
class NextItNet(SequenceModel):
    """NextItNet; see the module's docstring for the equations."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            DilatedBlock(width, dilation, config.dropout)
            for _ in range(config.num_layers)
            for dilation in BLOCK_DILATIONS
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        x = self.dropout(self.item_embedding(items))
        for block in self.blocks:
            x = block(x)
        hidden: Tensor = self.norm(x)
        return hidden

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass; norms and activations are left out.

        Per layer and position four convolutions of 6D² each, the products with zeros before the
        first event included. Bytes: operators read inputs and write outputs once, float32; a
        convolution also writes and reads its three shifted inputs. State: the two events between
        the taps of every dilation l, 2l · D a convolution.
        """
        width, layers = self.config.hidden_size, self.config.num_layers
        tokens, dilations = batch * length, [d * factor for d in BLOCK_DILATIONS for factor in (1, 2)]
        operations = tokens * len(dilations) * 2.0 * KERNEL_WIDTH * width * width
        moved = 4.0 * tokens * width * len(dilations) * (2 * KERNEL_WIDTH + 8)
        state = (KERNEL_WIDTH - 1) * sum(dilations) * width
        return Cost(layers * operations, layers * moved, float(layers * state))

    def backends(self) -> dict[str, str]:
        """How the convolutions run."""
        return {"convolution": "matrix-product"}
