"""What a child of the bench measures: times, peaks or errors over all lengths."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from harness.measure.operator.errors import errors
from harness.measure.operator.timing import Bench
from harness.measure.operator.workloads import BACKENDS, Inputs, convolution, inputs, omission
from harness.measure.peak_memory import Peak
from harness.records.operator import Omission, PeakMemory, Settings
from models.ops.convolution.causal import Name as Backend

# The dense product's L × L matrices would say nothing about the long lengths read here.
_MEMORY_BACKENDS: tuple[Backend, ...] = ("fft", "tree")
_TINY = 2


def measure(what: str, settings: Settings, device: torch.device) -> dict[str, Any]:
    """Fields of the child's result.

    Args:
        what: `time`, `memory` or `errors`.
        settings: What to measure.
        device: Where.
    """
    if what == "memory":
        return _memory(settings, device)
    return _time(settings, device) if what == "time" else _errors(settings, device)


def _time(settings: Settings, device: torch.device) -> dict[str, Any]:
    bench = Bench(settings, device)
    begin = time.monotonic()
    first, *others = settings.kernel_orders
    combinations = [(first, layout) for layout in settings.layouts]
    combinations += [(order, settings.layouts[0]) for order in others]
    for length in _fitting(settings.lengths, settings):
        for order, layout in combinations:
            for pass_ in settings.passes:
                bench.group(length, order, layout, pass_)
        print(f"{time.monotonic() - begin:6.1f} s  timed length {length:,}", file=sys.stderr, flush=True)
    return {"rows": bench.rows, "omitted": bench.omitted}


def _memory(settings: Settings, device: torch.device) -> dict[str, Any]:
    order = settings.kernel_orders[0]
    found: list[PeakMemory] = []
    omitted: list[Omission] = []
    for length in _fitting(settings.memory_lengths, settings):
        for backend in _MEMORY_BACKENDS:
            tiny = _channel_major(1, length, _TINY, order, device)
            try:
                # Libraries load, and constants of this length are cached, on the first call.
                convolution(tiny, backend, "forward_backward")()
            except ValueError as error:
                omitted.append(omission(tiny, backend, "forward_backward", str(error)))
                continue
            data = _channel_major(settings.elements // length, length, settings.channels, order, device)
            call = convolution(data, backend, "forward_backward")
            peak = Peak(device)
            if peak.method is None:
                return {"peak_memory": [], "omitted": omitted}
            peak.reset()
            call()
            extra = peak.read() or 0
            own = data.x.numel() * data.x.element_size()
            found.append(
                PeakMemory(
                    backend=backend,
                    length=length,
                    kernel_order=order,
                    method=peak.method,
                    extra_bytes=extra,
                    input_bytes=own,
                    relative_to_x=extra / own,
                )
            )
            del data, call
    return {"peak_memory": found, "omitted": omitted}


def _errors(settings: Settings, device: torch.device) -> dict[str, Any]:
    found, omitted = [], []
    for length in _fitting(settings.error_lengths, settings):
        for order in settings.kernel_orders:
            backends = [b for b in BACKENDS if b != "dense" or length <= settings.dense_limit]
            one, other = errors(length, order, backends, device)
            found += one
            omitted += other
    return {"errors": found, "omitted": omitted}


def _channel_major(batch: int, length: int, channels: int, order: int, device: torch.device) -> Inputs:
    return inputs(batch=batch, length=length, channels=channels, order=order, layout="channel_major", device=device)


def _fitting(lengths: list[int], settings: Settings) -> list[int]:
    return [length for length in lengths if length <= settings.elements]
