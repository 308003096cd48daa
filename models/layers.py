"""The parts around a mixer: dropout, feed-forward network, residual block."""

from __future__ import annotations

from typing import Literal, Protocol, cast

from torch import Tensor, nn
from torch.nn import functional

from models.ops.dropout.dropout import dropout
from models.streaming import State


class Dropout(nn.Module):
    """Inverted dropout; zeroes each element with the given probability, in training only.

    Raises:
        ValueError: Probability outside [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout {probability} must lie in [0, 1)")
        self.probability = probability

    def forward(self, x: Tensor, *, onto: Tensor | None = None) -> Tensor:
        """`x` of any shape, in its shape and type; `onto + drop(x)` in one pass with `onto` of that shape."""
        if self.training and self.probability > 0.0:
            return dropout(x, self.probability, onto=onto)
        return x if onto is None else onto + x


class FeedForward(nn.Module):
    """`W_2 σ(W_1 x + b_1) + b_2` at every position.

    Args:
        width: Width D of input and output.
        hidden: Width between the two layers.
        activation: σ, `gelu` (exact: on a CPU the tanh form takes 2.5 times as long) or `relu`.
    """

    def __init__(self, width: int, hidden: int, activation: Literal["gelu", "relu"] = "gelu") -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)
        self.activation = functional.gelu if activation == "gelu" else functional.relu

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        y: Tensor = self.outer(self.activation(self.inner(x)))
        return y


class StreamingMixer(Protocol):
    """What a mixer needs for its block to stream; states as in models/streaming.py."""

    def stream(self, batch: int, limit: int | None) -> State:
        """The state of `batch` users before the first event."""

    def step(self, x: Tensor, state: State) -> Tensor:
        """One event, `[B, D]` to `[B, D]`; changes the state."""

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`[B, L, D]` to `[B, L, D]`, as `forward`, and the state after the last event."""


class ResidualBlock(nn.Module):
    """Pre-norm block: `x + drop(mixer(LN(x)))`, then `x + drop(ffn(LN(x)))`.

    Args:
        width: Width D.
        mixer: What mixes positions, `[B, L, D]` to `[B, L, D]`; takes `context` besides.
        feed_forward: What mixes channels.
        dropout: Probability after either.
    """

    def __init__(self, width: int, mixer: nn.Module, feed_forward: FeedForward, dropout: float) -> None:
        super().__init__()
        self.mixer_norm = nn.LayerNorm(width)
        self.mixer = mixer
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`; `context` goes to the mixer as it is."""
        x = self.dropout(self.mixer(self.mixer_norm(x), *context), onto=x)
        y: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(x)), onto=x)
        return y

    def step(self, x: Tensor, state: State) -> Tensor:
        """One event without dropout, `[B, D]` to `[B, D]`; needs a `StreamingMixer`."""
        x = x + cast(StreamingMixer, self.mixer).step(self.mixer_norm(x), state)
        y: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return y

    def prefill(self, x: Tensor, limit: int | None) -> tuple[Tensor, State]:
        """`forward` without dropout, and the mixer's state after the last event."""
        mixed, state = cast(StreamingMixer, self.mixer).prefill(self.mixer_norm(x), limit)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), state


class PostNormBlock(nn.Module):
    """Post-norm block: `LN(x + drop(mixer(x)))`, then `LN(x + drop(ffn(x)))`.

    Args:
        width: Width D.
        mixer: What mixes positions, `[B, L, D]` to `[B, L, D]`.
        feed_forward: What mixes channels.
        dropout: Probability after either.
    """

    def __init__(self, width: int, mixer: nn.Module, feed_forward: FeedForward, dropout: float) -> None:
        super().__init__()
        self.mixer = mixer
        self.mixer_norm = nn.LayerNorm(width)
        self.feed_forward = feed_forward
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        x = self.mixer_norm(self.dropout(self.mixer(x), onto=x))
        y: Tensor = self.feed_forward_norm(self.dropout(self.feed_forward(x), onto=x))
        return y
