"""Streaming causal convolution with any taps: the last T inputs, and one product an event.

O(T) time an event and O(T) state, whatever the age of the stream. For short kernels nothing beats
it; for a long Legendre kernel there is models/ops/legendre_stream.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.kernels import Kernel
from models.ops.stream_state import State, check_limit


class RingStream:
    """`y[t] = Σ_{τ<T} h(τ) x[t−τ] + D x[t]`, one event at a time; inference only.

    The object holds what all users share; `start` makes the state of a batch of them.

    Args:
        kernel: The kernel; its present values are taken.
        limit: Most events a stream will ever have, where that is known.

    Raises:
        ValueError: A limit below 1.
    """

    def __init__(self, kernel: Kernel, *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit {limit} must be at least 1 event, or None")
        self.length = kernel.window if limit is None else min(kernel.window, limit)
        self.limit = limit
        with torch.no_grad():
            taps = kernel.taps(self.length)
            if kernel.skip is not None:
                taps = torch.cat((taps[:, :1] + kernel.skip[:, None], taps[:, 1:]), 1)
            # Slot q holds the input of lag (p − q) mod T when slot p was written last: with the taps
            # reversed and repeated, the weights of all slots are one contiguous slice.
            reverse = taps.flip(1).roll(1, 1)
            self._weights = torch.cat((reverse, reverse), 1)
        self.channels = kernel.channels

    def start(self, batch: int) -> State:
        """State before the first event: `ring`, `[B, D, T]`, and `age` in events."""
        return {"age": 0, "ring": self._weights.new_zeros(batch, self.channels, self.length)}

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
        place = state["age"] % self.length
        ring: Tensor = state["ring"]
        with torch.no_grad(), torch.autocast(ring.device.type, enabled=False):
            ring[:, :, place] = x
            y = (ring * self._weights[:, self.length - place : 2 * self.length - place]).sum(2)
        state["age"] += 1
        return y.to(x.dtype)

    def prefill(self, x: Tensor) -> State:
        """The state after a whole history, as if stepped.

        Args:
            x: `[D, B, L]`, channel-major.

        Raises:
            ValueError: A history longer than the limit.
        """
        age = x.shape[2]
        check_limit(0, age, self.limit)
        state = self.start(x.shape[1])
        kept = min(age, self.length)
        places = torch.arange(age - kept, age, device=x.device) % self.length
        state["ring"][:, :, places] = x[:, :, age - kept :].detach().transpose(0, 1).to(state["ring"].dtype)
        state["age"] = age
        return state
