"""Paired timing of all backends of one length, kernel order, layout and pass, in one process.

Machines drift by more than backends differ. So a group's backends run in turn, round by round, in
an order that is reversed every other round; what was faster follows later, from ratios within rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from harness.measure.operator.workloads import ATTENTION, BACKENDS, attention, convolution, inputs, omission
from harness.measure.runtime import without_garbage_collection
from harness.measure.speed.stopwatch import Clock
from harness.records.operator import Layout, Omission, Pass, Row, Sample, Settings
from models.ops.convolution.cost import bytes_moved, operations

# The first calls touch fresh memory; a call that takes long has done so within one.
_WARMUP_CALLS, _WARMUP_SECONDS = 3, 0.5


class Bench:
    """Times one group after the other and remembers where attention became too slow.

    Attributes:
        rows: What was measured.
        omitted: What was not, and why.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.clock = Clock(device)
        self.rows: list[Row] = []
        self.omitted: list[Omission] = []
        self._attention_limit: dict[Pass, int] = dict.fromkeys(settings.passes, settings.attention_limit)

    def group(self, length: int, order: int, layout: Layout, pass_: Pass) -> None:
        """Time every backend at one point; attention joins the first kernel order, channel-major."""
        settings = self.settings
        batch = settings.elements // length
        size = {"batch": batch, "length": length, "channels": settings.channels}
        data = inputs(**size, order=order, layout=layout, device=self.device)
        calls: dict[str, Callable[[], None]] = {}
        for backend in BACKENDS:
            if backend == "dense" and length > settings.dense_limit:
                continue
            call = convolution(data, backend, pass_)
            try:
                call()
            except ValueError as error:
                self.omitted.append(omission(data, backend, pass_, str(error)))
                continue
            calls[backend] = call
        own = (order, layout) == (settings.kernel_orders[0], settings.layouts[0])
        if own and length <= self._attention_limit[pass_]:
            calls[ATTENTION] = attention(**size, heads=settings.heads, device=self.device, pass_=pass_)
        samples = self._rounds(calls)
        if ATTENTION in samples and _seconds(samples[ATTENTION]) > settings.attention_seconds:
            self._attention_limit[pass_] = length
        for name, found in samples.items():
            is_attention = name == ATTENTION
            self.rows.append(
                Row(
                    kind="attention" if is_attention else "convolution",
                    backend=name,
                    length=length,
                    batch=batch,
                    kernel_order=None if is_attention else order,
                    layout="batch_length_channel" if is_attention else layout,
                    pass_=pass_,
                    operations=operations(name, **size, order=order, backward=pass_ == "forward_backward"),
                    bytes=bytes_moved(name, **size, order=order, backward=pass_ == "forward_backward"),
                    samples=found,
                )
            )

    def _rounds(self, calls: dict[str, Callable[[], None]]) -> dict[str, list[Sample]]:
        repeats = {}
        for backend, call in calls.items():
            seen: list[float] = []
            while len(seen) < _WARMUP_CALLS and sum(seen) < _WARMUP_SECONDS:
                seen.append(self.clock.time(call, 1)[0])
            repeats[backend] = max(1, math.ceil(self.settings.block_seconds / max(min(seen), 1e-6)))
        samples: dict[str, list[Sample]] = {backend: [] for backend in calls}
        order = list(calls)
        with without_garbage_collection():
            begin = time.perf_counter()
            for number in range(self.settings.rounds):
                late = time.perf_counter() - begin > self.settings.group_seconds
                if late and number >= self.settings.minimum_rounds:
                    break
                for backend in order if number % 2 == 0 else reversed(order):
                    seconds, faults = self.clock.time(calls[backend], repeats[backend])
                    samples[backend].append(Sample(calls=repeats[backend], seconds=seconds, minor_faults=faults))
        return samples


def _seconds(samples: Sequence[Sample]) -> float:
    """Of one call, as far as it decides whether to go on; the record keeps the samples."""
    return statistics.median(sample.seconds / sample.calls for sample in samples)
