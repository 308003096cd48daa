"""The multi-head softmax attention layer that SASRec and BERT4Rec share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ops.attention.softmax import Kernel, bidirectional_attention, causal_attention, what_runs
from models.options import head_count
from models.streaming import State


class SelfAttention(nn.Module):
    """`W_o concat_h softmax(Q_h K_hᵀ/√E) V_h`, with one product for queries, keys and values.

    Args:
        width: Width D of input and output.
        num_heads: Heads asked for; see `head_count`. The config checks that they divide D (`models.options.Heads`).
        kernel: What computes attention.
        causal: Whether position t sees positions ≤ t only.
    """

    def __init__(self, width: int, num_heads: int, kernel: Kernel, *, causal: bool) -> None:
        super().__init__()
        self.kernel, self.causal = kernel, causal
        self.heads = head_count(width, num_heads)
        self.projection = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self._ran_on: tuple[torch.Size, torch.dtype, torch.device, bool, bool] | None = None

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`; `keep` `[B, L]` bool names the keys that count, without causality."""
        batch, length, width = x.shape
        streams = self.projection(x).view(batch, length, 3, self.heads, -1).transpose(1, 3)
        query, key, value = streams.unbind(2)
        self._ran_on = (query.shape, query.dtype, query.device, query.requires_grad, keep is not None)
        if self.causal:
            mixed = causal_attention(query, key, value, self.kernel)
        else:
            mixed = bidirectional_attention(query, key, value, self.kernel, keep)
        y: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return y

    def stream(self, batch: int, limit: int | None) -> State:
        """`age`, `keys` and `values`, `[B, H, N, E]` with room for N = `limit` events.

        Raises:
            ValueError: A layer that is not causal, or no limit.
        """
        if not self.causal or limit is None:
            raise ValueError("attention streams only if it is causal and knows how many events to keep room for")
        blank = self.output.weight.new_zeros(batch, self.heads, limit, self.output.in_features // self.heads)
        return {"age": 0, "keys": blank, "values": blank.clone()}

    def step(self, x: Tensor, state: State) -> Tensor:
        """`[B, D]` to `[B, D]`; one query is a product with all keys so far, whatever the kernel."""
        query, key, value = self.projection(x).view(len(x), 3, self.heads, -1).unbind(1)
        state["keys"][:, :, state["age"]] = key
        state["values"][:, :, state["age"]] = value
        state["age"] += 1
        keys, values = state["keys"][:, :, : state["age"]], state["values"][:, :, : state["age"]]
        scores = (query * query.shape[2] ** -0.5)[:, :, None] @ keys.transpose(2, 3)
        y: Tensor = self.output((torch.softmax(scores, 3).to(values.dtype) @ values).reshape(len(x), -1))
        return y

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward`, and the state after the last event."""
        batch, length, width = x.shape
        state = self.stream(batch, limit)
        streams = self.projection(x).view(batch, length, 3, self.heads, -1).transpose(1, 3)
        query, key, value = streams.unbind(2)
        state["keys"][:, :, :length], state["values"][:, :, :length] = key, value
        state["age"] = length
        mixed = causal_attention(query, key, value, self.kernel)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width)), state

    def ran(self) -> str:
        """What computed attention last; see `what_runs`. `not run` before the first pass."""
        if self._ran_on is None:
            return "not run"
        shape, dtype, device, needs_gradient, masked = self._ran_on
        # Whether a kernel applies does not depend on the batch; one sequence is enough to ask torch.
        query = torch.empty(1, *shape[1:], dtype=dtype, device=device, requires_grad=needs_gradient)
        keep = torch.ones(1, shape[2], dtype=torch.bool, device=device) if masked else None
        return what_runs(query, query, query, self.kernel, causal=self.causal, keep=keep)


def attention_backends(model: nn.Module) -> dict[str, str]:
    """What computed attention last in a model's layers, for `SequenceModel.backends`."""
    found = {module.ran() for module in model.modules() if isinstance(module, SelfAttention)}
    return {"attention": ", ".join(sorted(found))}
