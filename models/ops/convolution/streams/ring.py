"""Streaming causal convolution with any taps: the last T inputs, and one product an event.

O(T) time an event and O(T) state, whatever the age of the stream. For short kernels nothing beats
it; for a long Legendre kernel there is models/ops/convolution/streams/legendre.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops.convolution.streams.base import ConvolutionStream
from models.ops.legendre.taps import Kernel
from models.streaming import State


class RingStream(ConvolutionStream):
    """A stream that keeps the last T = min(W, limit) inputs: `{"age", "ring": [B, D, T]}`.

    Args:
        kernel: The kernel; its present values are taken.
        limit: Most events a stream will ever have, where that is known.

    Raises:
        ValueError: A limit below 1.
    """

    def __init__(self, kernel: Kernel, *, limit: int | None = None) -> None:
        super().__init__(kernel, limit)
        self.length = kernel.window if limit is None else min(kernel.window, limit)
        with torch.no_grad():
            taps = kernel.taps(self.length)
            if kernel.skip is not None:
                taps = torch.cat((taps[:, :1] + kernel.skip[:, None], taps[:, 1:]), 1)
            # Slot q holds the input of lag (p − q) mod T when slot p was written last: with the taps
            # reversed and repeated, the weights of all slots are one contiguous slice.
            reverse = taps.flip(1).roll(1, 1)
            self._weights = torch.cat((reverse, reverse), 1)

    def start(self, batch: int) -> State:
        """State before the first event."""
        return {"age": 0, "ring": self._weights.new_zeros(batch, self.channels, self.length)}

    def _step(self, x: Tensor, state: State) -> Tensor:
        place = state["age"] % self.length
        ring: Tensor = state["ring"]
        ring[:, :, place] = x
        state["age"] += 1
        return (ring * self._weights[:, self.length - place : 2 * self.length - place]).sum(2)

    def _fill(self, x: Tensor, state: State) -> None:
        age = state["age"]
        kept = min(age, self.length)
        places = torch.arange(age - kept, age, device=x.device) % self.length
        state["ring"][:, :, places] = x[:, :, age - kept :].transpose(0, 1).to(state["ring"].dtype)
