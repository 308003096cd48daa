"""The streamed step against the length of history, paired within each process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.timing import STREAM, Group, stream_seconds
from harness.analysis.rows import StreamPoint
from harness.records.schema import SpeedRecord


def points(groups: Sequence[Group]) -> list[StreamPoint]:
    """One row per label, sweep, length and history that all processes of the group timed."""
    return [_point(g, history) for g in groups if g.phase == STREAM for history in _histories(g)]


def longest(found: Sequence[StreamPoint], label: str, sweep: str) -> list[StreamPoint]:
    """The rows of one label at its longest model that timed two histories or more, shortest history first."""
    own = [p for p in found if (p.label, p.sweep) == (label, sweep) and p.history > p.shortest]
    if not own:
        return []
    length = max(p.length for p in own)
    rows = [p for p in found if (p.label, p.sweep, p.length) == (label, sweep, length)]
    return sorted(rows, key=lambda p: p.history)


def events(groups: Sequence[Group], point: StreamPoint) -> int:
    """How many events of the second half of a point's history one process timed at most."""
    of_point = [g for g in groups if (g.label, g.sweep, g.length) == (point.label, point.sweep, point.length)]
    blocks = [r.timing.blocks for g in of_point for r in g.records if r.timing is not None]
    timed = [sum(b.steps for b in own if b.phase == STREAM and b.history == point.history) for own in blocks]
    # Beyond its end a stream begins again.
    return min(max(timed), point.history - point.history // 2)


def _histories(group: Group) -> list[int]:
    timed = [set(stream_seconds(record)) for record in group.records]
    return sorted(set.intersection(*timed))


def _point(group: Group, history: int) -> StreamPoint:
    shortest = _histories(group)[0]
    # Means, not medians: some blocks hold the work that falls due only now and then.
    means = [float(np.mean(stream_seconds(record)[history])) for record in group.records]
    logs = statistics.estimate(np.log(means))
    ratios = [_log_ratio(record, history, shortest) for record in group.records]
    ratio = statistics.estimate(ratios)
    spreads = [np.ptp(s) / np.median(s) for r in group.records if len(s := stream_seconds(r)[history]) > 1]
    return StreamPoint(
        label=group.label,
        sweep=group.sweep,
        length=group.length,
        history=history,
        shortest=shortest,
        processes=len(means),
        event_seconds=math.exp(logs.mean),
        event_interval=statistics.exponential(logs.interval()),
        process_ratios=[math.exp(r) for r in ratios],
        ratio=math.exp(ratio.mean),
        ratio_interval=statistics.exponential(ratio.interval()),
        block_spread=float(np.median(spreads)) if spreads else None,
    )


def _log_ratio(record: SpeedRecord, history: int, shortest: int) -> float:
    """Every round times each history once, so the first k blocks of two histories were timed together."""
    seconds = stream_seconds(record)
    rounds = min(len(seconds[history]), len(seconds[shortest]))
    return float(np.log(np.mean(seconds[history][:rounds]) / np.mean(seconds[shortest][:rounds])))
