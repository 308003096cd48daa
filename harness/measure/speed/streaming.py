"""What one more event costs after short and after long histories, alternately in one process.

A stream of one user runs through the last thousand events of each history, through its second half
where that is shorter, block by block, again and again from a copy of the state before them; the
histories take turns in the order 1 2 … k k … 2 1, so that the ratio of a long to a short one is paired
and a drifting machine cancels. The stretch is long enough for costs that fall due only now and then
to be in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from harness.measure import runtime
from harness.measure.speed.stopwatch import Clock
from harness.records.schema import Block
from harness.records.spec import SpeedSpec
from models.base import StreamingModel
from models.streaming import State, clone

_RATIO = 4
_SHORTEST = 128
_LEAST_HISTORIES = 2
_HISTORIES = 4
_BLOCK_EVENTS = 64
_BUDGET_SECONDS = 1.0
_MAXIMUM_ROUNDS = 16
_SEED = 0


def histories(length: int) -> list[int]:
    """Lengths of history to time, shortest first: the cell's length and its quarter, then quarters of 128 or more."""
    found = [length // _RATIO**k for k in range(_HISTORIES)]
    kept = [n for k, n in enumerate(found) if n >= _SHORTEST or (k < _LEAST_HISTORIES and n > 1)]
    return sorted(kept) or [length]


def measure(model: StreamingModel, spec: SpeedSpec, device: torch.device) -> list[Block]:
    """Time the streamed step, one user, after histories up to the cell's length.

    Args:
        model: The model's side; it is left in the mode it came in.
        spec: Resolved spec of a speed cell.
        device: Where the model is.

    Returns:
        Blocks of phase `stream` in the order in which they ran, each with its `history`; an even
        number of rounds, each with one block of every history.
    """
    clock, training = Clock(device), model.training
    items = torch.randint(
        1, spec.catalogue_items + 1, (1, spec.length), generator=torch.Generator().manual_seed(_SEED)
    ).to(device)
    model.eval()
    try:
        with runtime.without_garbage_collection(), torch.no_grad(), runtime.autocast(device, spec.precision):
            chosen = histories(spec.length)
            # Blocks of one size: a disturbance of a fixed length would else weigh more on shorter ones.
            steps = max(1, min(_BLOCK_EVENTS, chosen[0] // 2))
            streams = [_Stream(model, items, history, steps) for history in chosen]
            return _rounds(streams, clock)
    finally:
        model.train(training)


def _rounds(streams: list[_Stream], clock: Clock) -> list[Block]:
    # The first round pays for lazy initialisation and is not kept.
    for stream in streams:
        stream.block(clock)
    blocks: list[Block] = []
    begin = time.perf_counter()
    for done in range(_MAXIMUM_ROUNDS):
        if done >= 2 and done % 2 == 0 and time.perf_counter() - begin > _BUDGET_SECONDS * done / (done + 2):
            break
        for stream in streams if done % 2 == 0 else reversed(streams):
            blocks.append(stream.block(clock))
    return blocks


class _Stream:
    """One user's stream, confined to the last events of a history."""

    def __init__(self, model: StreamingModel, items: Tensor, history: int, steps: int) -> None:
        self.model, self.items, self.history, self.steps = model, items, history, steps
        # As many events as there are blocks to time, the first one not kept.
        self.begin = max(history // 2, history - (_MAXIMUM_ROUNDS + 1) * steps)
        limit = items.shape[1]
        self.start = model.prefill(items[:, : self.begin], limit)[1] if self.begin else model.stream(1, limit)
        self.state: State = {}
        self.events: Iterator[Tensor] = iter(())
        self.left = 0

    def block(self, clock: Clock) -> Block:
        """Time the next events of the stream."""
        if self.left < self.steps:
            self.state = clone(self.start)
            self.events = iter(self.items[:, self.begin : self.history].unbind(1))
            self.left = self.history - self.begin
        seconds, faults = clock.time(self._step, self.steps)
        self.left -= self.steps
        return Block(
            side="model",
            phase="stream",
            steps=self.steps,
            seconds=seconds,
            minor_faults=faults,
            history=self.history,
        )

    def _step(self) -> None:
        self.model.step(next(self.events), self.state)
