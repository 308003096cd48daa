"""What every streaming causal convolution promises; models/ops/convolution/streams/legendre.py chooses between them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from models.ops.legendre.taps import Kernel
from models.streaming import State, check_limit


class ConvolutionStream(ABC):
    """`y[t] = Σ_{τ<W} h(τ) x[t−τ] + D x[t]`, one event at a time; inference only.

    The object holds what all users share; `start` makes the state of a batch of them, whose `age` is in
    events.

    Args:
        kernel: The kernel; its present values are taken.
        limit: Most events a stream will ever have, where that is known.

    Raises:
        ValueError: A limit below 1.
    """

    def __init__(self, kernel: Kernel, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit {limit} must be at least 1 event, or None")
        self.limit, self.channels = limit, kernel.channels

    @abstractmethod
    def start(self, batch: int) -> State:
        """State before the first event."""

    def step(self, x: Tensor, state: State) -> Tensor:
        """One event.

        Args:
            x: `[B, D]`.
            state: Changed in place.

        Returns:
            `[B, D]` in the type of `x`.

        Raises:
            ValueError: More events than the limit.
        """
        check_limit(state["age"], 1, self.limit)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self._step(x, state).to(x.dtype)

    def prefill(self, x: Tensor) -> State:
        """The state after a whole history, as if stepped.

        Args:
            x: `[D, B, L]`, channel-major.

        Raises:
            ValueError: A history longer than the limit.
        """
        _, batch, age = x.shape
        check_limit(0, age, self.limit)
        state = self.start(batch)
        state["age"] = age
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            self._fill(x, state)
        return state

    @abstractmethod
    def _step(self, x: Tensor, state: State) -> Tensor:
        """`step` without its checks; counts the event in `age`."""

    @abstractmethod
    def _fill(self, x: Tensor, state: State) -> None:
        """Take the history into a state that is blank but for its `age`."""
