"""Peak memory against length. Only a constant batch can show how memory grows with length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from harness.analysis.estimates.growth import Growth, growth
from harness.analysis.load import Folder
from harness.analysis.rows import Exponent, LocalSlope, MemoryPoint

MINIMUM_LENGTHS = 4


def points(folder: Folder) -> list[MemoryPoint]:
    """One row per memory pass, in the order of the study's labels, sweeps and lengths."""
    order = {label: place for place, label in enumerate(folder.labels())}
    found = [
        MemoryPoint(
            label=record.label,
            sweep=record.sweep,
            constant=record.spec.constant,
            length=record.length,
            batch=record.batch,
            method=record.memory.method,
            peak_bytes=record.memory.peak_bytes,
            tiny_peak_bytes=record.memory.tiny_peak_bytes,
            net_bytes=record.memory.peak_bytes - record.memory.tiny_peak_bytes,
            reserved_bytes=record.memory.reserved_bytes,
            device_peak_bytes=record.memory.device_peak_bytes,
            state=None if record.model is None else record.model.state,
        )
        for counted, record in folder.speed()
        if record.memory is not None
    ]
    sweeps = {name: place for place, name in enumerate(dict.fromkeys(p.sweep for p in found))}
    return sorted(found, key=lambda p: (sweeps[p.sweep], order[p.label], p.length))


def series(found: Sequence[MemoryPoint], label: str, sweep: str) -> list[MemoryPoint]:
    """The points of one label in one sweep that rose above the peak at a tiny batch."""
    return [p for p in found if (p.label, p.sweep) == (label, sweep) and p.net_bytes > 0]


def growing(found: Sequence[MemoryPoint]) -> Growth | None:
    """The law m = c + a·L^b of the net peak, b free, at a constant batch.

    A peak hardly varies from process to process, so it is read once; the error is the scatter about the law, with
    n − 3 degrees of freedom. The log-log slope of the whole would hide L log L, or L², under a constant. None with
    fewer than four lengths.
    """
    if len(found) < MINIMUM_LENGTHS:
        return None
    measured, ones = np.array([p.net_bytes for p in found], float), np.ones(len(found))
    return growth(ones[:, None], ones, [p.length for p in found], measured)


def exponents(found: Sequence[MemoryPoint]) -> list[Exponent]:
    """The exponent of every label in every sweep at a constant batch."""
    result = []
    for label, sweep in dict.fromkeys((p.label, p.sweep) for p in found if p.constant == "batch"):
        own = series(found, label, sweep)
        law = growing(own)
        if law is not None:
            result.append(
                Exponent(
                    label=label,
                    sweep=sweep,
                    quantity="memory",
                    exponent=law.exponent,
                    interval=law.interval,
                    constant=law.linear[0],
                    coefficient=law.coefficient / own[-1].length ** law.exponent,
                    window=(own[0].length, own[-1].length),
                    points=len(own),
                    method="power with constant",
                )
            )
    return result


def local_slopes(found: Sequence[MemoryPoint]) -> list[LocalSlope]:
    """Exponents between neighbouring lengths at a constant batch."""
    return [
        LocalSlope(
            label=label,
            sweep=sweep,
            quantity="memory",
            lengths=(first.length, second.length),
            slope=math.log(second.net_bytes / first.net_bytes) / math.log(second.length / first.length),
            interval=None,
        )
        for label, sweep in dict.fromkeys((p.label, p.sweep) for p in found if p.constant == "batch")
        for first, second in itertools.pairwise(series(found, label, sweep))
    ]
