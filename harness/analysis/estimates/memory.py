"""Peak memory against length. Only a constant batch can show how memory grows with length."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from harness.analysis.estimates.statistics import Estimate
from harness.analysis.load import Folder
from harness.analysis.rows import Exponent, LocalSlope, MemoryPoint

MINIMUM_LENGTHS = 4
# By how much the longest may exceed the line through the others, where no claim says otherwise.
CHALLENGE_TOLERANCE = 0.05


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


def slope(found: Sequence[MemoryPoint]) -> Estimate | None:
    """Log-log slope of the net peak in length, at a constant batch.

    A peak hardly varies from process to process, so it is read once; the error here is the scatter
    about the line, with n − 2 degrees of freedom. None with fewer than four lengths.
    """
    if len(found) < MINIMUM_LENGTHS:
        return None
    x = np.log([p.length for p in found])
    y = np.log([p.net_bytes for p in found])
    x -= x.mean()
    gradient = float(x @ y / (x @ x))
    residuals = y - y.mean() - gradient * x
    freedom = len(found) - 2
    error = math.sqrt(float(residuals @ residuals) / freedom / float(x @ x))
    return Estimate(gradient, error, freedom, len(found))


def challenge(found: Sequence[MemoryPoint]) -> float:
    """Net peak at the longest length over that of a line a + b·L through the others, least relative errors.

    Hidden under a constant, a growth faster than linear leaves the slope over all lengths near 1; the
    line misses it, for it must bend where the constant no longer hides it. Needs three points.
    """
    lengths, measured = (np.array([getattr(p, name) for p in found], float) for name in ("length", "net_bytes"))
    columns = np.stack([np.ones_like(lengths), lengths], axis=1)
    line, *_ = np.linalg.lstsq(columns[:-1] / measured[:-1, None], np.ones(len(found) - 1), rcond=None)
    predicted = float(columns[-1] @ line)
    return float(measured[-1]) / predicted if predicted > 0 else math.inf


def exponents(found: Sequence[MemoryPoint]) -> list[Exponent]:
    """The slope of every label in every sweep at a constant batch."""
    result = []
    for label, sweep in dict.fromkeys((p.label, p.sweep) for p in found if p.constant == "batch"):
        own = series(found, label, sweep)
        estimate = slope(own)
        if estimate is not None:
            middle = float(np.mean(np.log([p.net_bytes for p in own])))
            centre = float(np.mean(np.log([p.length for p in own])))
            result.append(
                Exponent(
                    label=label,
                    sweep=sweep,
                    quantity="memory",
                    exponent=estimate.mean,
                    interval=estimate.interval(),
                    constant=None,
                    coefficient=math.exp(middle - estimate.mean * centre),
                    window=(own[0].length, own[-1].length),
                    points=len(own),
                    method="log-log slope",
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
