"""GRU4Rec: a gated recurrent unit over the session (Hidasi et al., ICLR 2016, equations 1 to 4).

    r_t = σ(W_r x_t + U_r h_{t−1}),  z_t = σ(W_z x_t + U_z h_{t−1})
    n_t = tanh(W_n x_t + r_t ⊙ (U_n h_{t−1})),  h_t = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}

and a linear map back to the embedding's width, then a final LayerNorm. torch's fused GRU computes
it.

Departures from the paper and the authors' code (hidasib/GRU4Rec): r gates U_n h, theirs h before U_n,
and z is their 1 − z; every gate has biases, as in the code but not the paper; an embedding tied with
the scores, which the code offers, while the paper feeds one-hot vectors; the linear map and the
LayerNorm, theirs scores h itself and adds a bias per item; 128 units, theirs 100 by default; dropout
on embeddings and after the linear map, theirs on embeddings and on h, which goes on to the next step;
whole histories and their whole gradients, where theirs runs sessions side by side and cuts the gradient
after every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from models.base import Cost, ModelConfig, StreamingModel, initialise_embedding, register
from models.layers import Dropout
from models.options import Range
from models.streaming import State, check_limit, own_limit


@dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(ModelConfig):
    """GRU4Rec's options; the shared `num_layers` is not used, the paper's one layer is the default.

    Attributes:
        gru_hidden: Width of the recurrent state.
        gru_layers: Stacked GRU layers.
    """

    gru_hidden: Annotated[int, Range(1)] = 128
    gru_layers: Annotated[int, Range(1)] = 1


@register(
    "gru4rec",
    family="recurrent",
    causal=True,
    citation="Hidasi et al., Session-based recommendations with recurrent neural networks, ICLR 2016",
    config=GRU4RecConfig,
)
class GRU4Rec(StreamingModel):
    """GRU4Rec; see the module's docstring for the equations."""

    config: GRU4RecConfig

    def __init__(self, config: GRU4RecConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1, width, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(width, config.gru_hidden, config.gru_layers, batch_first=True)
        self.output = nn.Linear(config.gru_hidden, width)
        self.norm = nn.LayerNorm(width)
        # As the authors: embeddings start small, and torch's biases would drown them.
        for name, parameter in self.gru.named_parameters():
            if name.startswith("bias"):
                nn.init.zeros_(parameter)
            else:
                for gate in parameter.detach().chunk(3):
                    nn.init.xavier_uniform_(gate)
        nn.init.zeros_(self.output.bias)

    def forward(self, items: Tensor, timestamps: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]` of `items` `[B, L]`; timestamps are not used."""
        states, _ = self.gru(self.dropout(self.item_embedding(items)))
        hidden: Tensor = self.norm(self.dropout(self.output(states)))
        return hidden

    def stream(self, batch: int, limit: int | None = None) -> State:
        """The recurrent states, `[B, layers, S]`, as many whatever the limit."""
        layers, width = self.config.gru_layers, self.config.gru_hidden
        return {"age": 0, "limit": own_limit(limit), "hidden": self.output.weight.new_zeros(batch, layers, width)}

    @torch.no_grad()
    def step(self, items: Tensor, state: State) -> Tensor:
        """Hidden states `[B, D]` after one more event `[B]`."""
        check_limit(state["age"], 1, state["limit"])
        states, last = self.gru(self.item_embedding(items)[:, None], state["hidden"].transpose(0, 1).contiguous())
        state["hidden"], state["age"] = last.transpose(0, 1), state["age"] + 1
        hidden: Tensor = self.norm(self.output(states[:, 0]))
        return hidden

    @torch.no_grad()
    def prefill(self, items: Tensor, limit: int | None = None) -> tuple[Tensor, State]:
        """Hidden states `[B, L, D]` of `items` `[B, L]`, and the state after them."""
        check_limit(0, items.shape[1], own_limit(limit))
        states, last = self.gru(self.item_embedding(items))
        state = {"age": items.shape[1], "limit": limit, "hidden": last.transpose(0, 1)}
        return self.norm(self.output(states)), state

    def cost(self, batch: int, length: int) -> Cost:
        """Matrix products of a forward pass, for state width S; gates and norms are left out.

        Per position: the first layer 6S(D + S), further ones 12S², the way back 2SD. Bytes: besides
        inputs and outputs, every step of a layer reads its 3S² recurrent weights. State: S a layer.
        """
        width, hidden, layers = self.config.hidden_size, self.config.gru_hidden, self.config.gru_layers
        tokens = batch * length
        operations = tokens * (6.0 * hidden * (width + hidden) + (layers - 1) * 12.0 * hidden**2 + 2.0 * hidden * width)
        moved = 4.0 * (tokens * (3 * width + layers * 9 * hidden) + layers * length * 3 * hidden**2)
        return Cost(operations, moved, float(layers * hidden))

    def backends(self) -> dict[str, str]:
        """Where the recurrence runs: cuDNN on a GPU, torch's own loop on a CPU."""
        return {"gru": "cudnn" if self.item_embedding.weight.is_cuda else "aten"}
