"""Paired speed-ups: one ratio per pair of adjacent blocks, so that drift of the machine cancels.

"HyenaRec over X" is the time of X over the time of HyenaRec, from X's own cells. The ratio of a process
is the median over its pairs (of logs); intervals are Student's t over the processes, whose spread is
that of all lengths together (`statistics.related`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.statistics import Array, Estimate
from harness.analysis.estimates.timing import Group, step_seconds
from harness.analysis.rows import ControlPoint, Crossover, NoiseFloor, SpeedupPoint, Trend
from harness.records.schema import SpeedRecord


def log_ratios(record: SpeedRecord, phase: str = "step") -> Array:
    """`[pairs]` log of model time over partner time.

    A pair is two consecutive blocks, one of each side (A B | B A | A B …), each block in one pair
    only. A record that timed its sides one after the other has no pairs: the ratio of the two
    medians, `[1]`. Empty where a side is missing.
    """
    if record.timing is None:
        return np.empty(0)
    if not record.timing.paired:
        model, partner = (step_seconds(record, side, phase) for side in ("model", "partner"))
        if not (model.size and partner.size):
            return np.empty(0)
        return np.array([math.log(statistics.median(model) / statistics.median(partner))])
    blocks = [b for b in record.timing.blocks if b.phase == phase]
    found = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=False):
        if first.side != second.side:
            ratio = math.log((first.seconds / first.steps) / (second.seconds / second.steps))
            found.append(ratio if first.side == "model" else -ratio)
    return np.array(found)


def process_log_ratio(record: SpeedRecord, phase: str = "step") -> float | None:
    """Median log ratio of one process; None without a pair."""
    found = log_ratios(record, phase)
    return statistics.median(found) if found.size else None


def process_log_ratios(group: Group) -> list[float]:
    """Median log ratio of every process that has a pair."""
    return [v for r in group.records if (v := process_log_ratio(r, group.phase)) is not None]


def log_estimate(group: Group) -> Estimate | None:
    """Mean over processes of the log ratio, of this length alone; None where no process has a pair."""
    values = process_log_ratios(group)
    return statistics.estimate(values) if values else None


def controls(groups: Sequence[Group], partner: str, phase: str = "step") -> list[ControlPoint]:
    """The A/A control per sweep and length: the partner's own cells."""
    found: list[ControlPoint] = []
    for sweep in dict.fromkeys(g.sweep for g in groups):
        own = [g for g in groups if g.sweep == sweep and g.label == partner and g.phase == phase]
        timed = [(g, values) for g in own if (values := process_log_ratios(g))]
        for (group, values), estimate in zip(timed, statistics.related([v for _, v in timed]), strict=True):
            interval = statistics.exponential(estimate.interval(len(timed)))
            found.append(
                ControlPoint(
                    sweep=sweep,
                    length=group.length,
                    processes=estimate.count,
                    process_ratios=[math.exp(v) for v in values],
                    ratio=math.exp(estimate.mean),
                    simultaneous=interval,
                    covers_one=None if interval is None else interval[0] <= 1 <= interval[1],
                    width=None if interval is None else interval[1] / interval[0] - 1,
                )
            )
    return found


def noise_floors(found: Sequence[ControlPoint]) -> list[NoiseFloor]:
    """Per sweep the largest departure from 1 that the A/A intervals leave room for."""
    result = []
    for sweep in dict.fromkeys(c.sweep for c in found):
        own = [c for c in found if c.sweep == sweep]
        intervals = [c.simultaneous for c in own if c.simultaneous is not None]
        factor = None
        if len(intervals) == len(own):
            factor = max(max(high, 1 / low) for low, high in intervals)
        result.append(
            NoiseFloor(
                sweep=sweep,
                factor=factor,
                percent=None if factor is None else 100 * (factor - 1),
                lengths=[c.length for c in own],
                all_cover_one=None if factor is None else all(c.covers_one for c in own),
            )
        )
    return result


def speedups(
    groups: Sequence[Group], partner: str, floors: Sequence[NoiseFloor], phase: str = "step"
) -> list[SpeedupPoint]:
    """Speed-up of the partner over every other label; simultaneous over the lengths of a sweep."""
    result = []
    noise = {f.sweep: f.factor for f in floors}
    others = [g for g in groups if g.label != partner and g.phase == phase]
    for sweep, label in dict.fromkeys((g.sweep, g.label) for g in others):
        own = [g for g in others if (g.sweep, g.label) == (sweep, label)]
        timed = [(g, values) for g in own if (values := process_log_ratios(g))]
        floor = noise.get(sweep)
        for (group, values), estimate in zip(timed, statistics.related([v for _, v in timed]), strict=True):
            simultaneous = statistics.exponential(estimate.interval(len(timed)))
            factor = math.exp(estimate.mean)
            result.append(
                SpeedupPoint(
                    label=label,
                    partner=partner,
                    sweep=sweep,
                    length=group.length,
                    processes=estimate.count,
                    process_speedups=[math.exp(v) for v in values],
                    pairs=sum(log_ratios(r).size for r in group.records),
                    speedup=factor,
                    interval=statistics.exponential(estimate.interval()),
                    simultaneous=simultaneous,
                    paired=all(r.timing is not None and r.timing.paired for r in group.records),
                    faster=simultaneous is not None and floor is not None and simultaneous[0] > 1 and factor > floor,
                    slower=simultaneous is not None
                    and floor is not None
                    and simultaneous[1] < 1
                    and factor < 1 / floor,
                    outlying=len(values) - estimate.count,
                )
            )
    return result


def estimates(points: Sequence[SpeedupPoint]) -> list[Estimate]:
    """Log speed-ups over the processes of each point; points are all of one label and sweep."""
    return statistics.related([np.log(p.process_speedups) for p in points])


def trend(points: Sequence[SpeedupPoint], among: Sequence[SpeedupPoint] | None = None) -> tuple[Trend, Estimate] | None:
    """Least-squares slope of the log speed-up in log length, as a contrast of the lengths' means.

    A contrast's error is that of the means alone, so a curve that is not straight does not pass for
    noise. Points are of one label and sweep, with their spread from `among`, all points of these (default: those
    given); None with fewer than two lengths.
    """
    if len(points) < 2:
        return None
    logs = np.log([p.length for p in points])
    centred = logs - logs.mean()
    known = {p.length: e for p, e in zip(among or points, estimates(among or points), strict=True)}
    found = statistics.combine([float(w) for w in centred / (centred @ centred)], [known[p.length] for p in points])
    row = Trend(
        label=points[0].label,
        sweep=points[0].sweep,
        slope=found.mean,
        interval=found.interval(),
        window=(points[0].length, points[-1].length),
        points=len(points),
    )
    return row, found


def crossover(points: Sequence[SpeedupPoint]) -> Crossover:
    """The length at which the estimates cross 1, log-log interpolated between measured lengths.

    Of several crossings the last one counts; the sentence goes by the points' flags. Points are of one
    label and sweep, lengths increasing.
    """
    lengths = np.array([p.length for p in points], dtype=np.float64)
    logs = np.log([p.speedup for p in points])
    state, length, bracket = _cross(lengths, logs)
    window = (points[0].length, points[-1].length)
    interval: tuple[float | None, float | None] | None = None
    resampled = statistics.draws(estimates(points))
    if resampled is not None and state in ("crosses", "falls"):
        low, high = statistics.quantiles(_positions(lengths, resampled, state))
        interval = (low if low > 0 else None, high if math.isfinite(high) else None)
    return Crossover(
        label=points[0].label,
        partner=points[0].partner,
        sweep=points[0].sweep,
        state=state,
        length=length,
        bracket=bracket,
        interval=interval,
        window=window,
        sentence=_in_words(points, length),
    )


def _in_words(points: Sequence[SpeedupPoint], crossing: float | None) -> str:
    """Where the partner is faster and slower beyond doubt: of equal models some point lies above 1 too."""
    partner, label, lengths = points[0].partner, points[0].label, [p.length for p in points]
    span = f"{lengths[0]:,} to {lengths[-1]:,}"
    if all(p.faster for p in points):
        return f"{partner} is faster than {label} at every measured length, {span}; any crossover lies below."
    if all(p.slower for p in points):
        return f"{partner} is slower than {label} at every measured length, {span}."
    if not any(p.faster or p.slower for p in points):
        return f"{partner} and {label} are not told apart at any measured length, {span}."
    sides = (
        (f"faster than {label}", [p.length for p in points if p.faster]),
        ("slower" if any(p.faster for p in points) else f"slower than {label}", [p.length for p in points if p.slower]),
        ("not told apart", [p.length for p in points if not (p.faster or p.slower)]),
    )
    where = ", ".join(f"{words} at {_among(own, lengths)}" for words, own in sides if own)
    cross = "" if crossing is None else f"; the estimates cross at about {crossing:,.0f}"
    return f"{partner} is {where}{cross}, within {span}."


def _among(own: Sequence[int], lengths: Sequence[int]) -> str:
    """Lengths in words, three or more neighbours as a range."""
    start, end = lengths.index(own[0]), lengths.index(own[-1])
    if len(own) > 2 and end - start == len(own) - 1:
        return f"{own[0]:,} to {own[-1]:,}"
    return ", ".join(f"{length:,}" for length in own)


def _cross(
    lengths: Array, logs: Array
) -> tuple[Literal["crosses", "below", "above", "falls"], float | None, tuple[int, int] | None]:
    faster = logs > 0
    changes = np.flatnonzero(faster[1:] != faster[:-1])
    if not changes.size:
        return ("below" if faster[-1] else "above"), None, None
    last = int(changes[-1])
    share = logs[last] / (logs[last] - logs[last + 1])
    length = math.exp(math.log(lengths[last]) + share * math.log(lengths[last + 1] / lengths[last]))
    return ("crosses" if faster[-1] else "falls"), length, (int(lengths[last]), int(lengths[last + 1]))


def _positions(lengths: Array, logs: Array, expected: str) -> Array:
    """`[R]` crossovers of resamples `[R, n]`; 0 and infinity where one lies outside the measured lengths."""
    faster = logs > 0
    changes = faster[:, 1:] != faster[:, :-1]
    rows, last = np.arange(len(logs)), changes.shape[1] - 1 - np.argmax(changes[:, ::-1], axis=1)
    before, after = logs[rows, last], logs[rows, last + 1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = lengths[last] * (lengths[last + 1] / lengths[last]) ** (before / (before - after))
    below = faster[:, -1] == (expected == "crosses")
    return np.where(changes.any(axis=1), crossing, np.where(below, 0.0, math.inf))
