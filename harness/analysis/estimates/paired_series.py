"""Step times against length from paired processes: what stood beside a label says how slow its process was as a whole.

Processes differ by several per cent, both sides of one alike: that is why ratios are paired. A cost against length
can gain by it too. Every process of a sweep times the timing partner, whoever its label is: so many count for the
partner's level at a length, not its own alone. And how much slower a label's processes were than all of them, by their
partner's side, is taken off the label's own times as far as the two sides move together.

Source: Cochran, Sampling Techniques, third edition 1977, section 12.7 (double sampling for regression).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from harness.analysis.estimates import statistics, timing
from harness.analysis.estimates.circumstances import machine
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.statistics import Array, Estimate
from harness.analysis.estimates.timing import Group, step_seconds

# Below this the partner is said to take another time beside other labels, and nothing is shared.
UNLIKE = 0.01
# Degrees of freedom over all lengths that a slope needs.
_LEAST_FREEDOM = 4


@dataclass(frozen=True)
class Arm:
    """The processes of one sweep in one phase, by length.

    Attributes:
        partner: Per label and length the log seconds of the partner's side, one a process; without labels that have
            a process on another machine than the partner's own, or one that timed its sides one after the other.
        p_value: Of the hypothesis that the partner takes the same time beside every label; 1 where nothing can tell.
    """

    partner: Mapping[str, Mapping[int, Array]]
    p_value: float

    @property
    def shared(self) -> bool:
        """Whether the labels' processes count together."""
        return bool(self.partner) and not self.unlike

    @property
    def unlike(self) -> bool:
        """Whether the partner takes another time beside some labels."""
        return self.p_value < UNLIKE

    def levels(self) -> dict[int, Estimate]:
        """The partner's mean log seconds per length, over the processes of all labels."""
        samples = _by_length(self.partner.values())
        return dict(zip(samples, statistics.related([np.concatenate(s) for s in samples.values()]), strict=True))


def arms(found: Iterable[Group], partner: str) -> dict[tuple[str, str], Arm]:
    """(sweep, phase) → the processes that may count together; streamed events are no steps."""
    by_place: dict[tuple[str, str], list[Group]] = {}
    for group in found:
        if group.phase != timing.STREAM:
            by_place.setdefault((group.sweep, group.phase), []).append(group)
    return {place: _arm(own, partner) for place, own in by_place.items()}


def _arm(groups: Sequence[Group], partner: str) -> Arm:
    here = {machine(r) for g in groups if g.label == partner for r in g.records}
    found: dict[str, dict[int, Array]] = {}
    apart = set()
    for group in groups:
        sides = [step_seconds(r, "partner", group.phase) for r in group.records]
        paired = all(r.timing is not None and r.timing.paired for r in group.records)
        if paired and all(s.size for s in sides) and {machine(r) for r in group.records} <= here:
            found.setdefault(group.label, {})[group.length] = np.log([statistics.median(s) for s in sides])
        else:
            apart.add(group.label)
    found = {label: own for label, own in found.items() if label not in apart}
    return Arm(found, _p_value(found.values()))


def _by_length(labels: Collection[Mapping[int, Array]]) -> dict[int, list[Array]]:
    """Length, increasing → the values of every label that has it."""
    lengths = sorted({length for own in labels for length in own})
    return {length: [own[length] for own in labels if length in own] for length in lengths}


def _p_value(labels: Collection[Mapping[int, Array]]) -> float:
    """F test of the labels' means within the lengths, over all lengths; outlying processes are left out."""
    samples = list(_by_length(labels).values())
    far = statistics.outlying([np.concatenate(s) for s in samples])
    between = within = freedom_between = freedom_within = 0.0
    for own, gone in zip(samples, far, strict=True):
        ends = np.cumsum([len(v) for v in own])[:-1]
        kept = [v[~g] for v, g in zip(own, np.split(gone, ends), strict=True)]
        kept = [v for v in kept if v.size]
        mean = np.concatenate(kept).mean()
        between += sum(v.size * (v.mean() - mean) ** 2 for v in kept)
        within += sum(((v - v.mean()) ** 2).sum() for v in kept)
        freedom_between += len(kept) - 1
        freedom_within += sum(v.size - 1 for v in kept)
    if not freedom_between or not freedom_within:
        return 1.0
    if within == 0:
        return 1.0 if between == 0 else 0.0
    return float(special.fdtrc(freedom_between, freedom_within, between / freedom_between / (within / freedom_within)))


def series(
    found: Sequence[Group], partner: str, places: Mapping[tuple[str, str], Arm]
) -> dict[tuple[str, str, str], Series]:
    """(label, sweep, phase) → log step times over increasing lengths; `places` as `arms` gives them.

    Let m be a label's mean log time at a length, p that of the partner's side of the same processes, P the partner's
    over the processes of all labels, and β the slope of the one side on the other within the lengths, from 0 to 1.
    The label's is m − β·p + β·P: m where the sides have nothing in common, and the ratio to the partner times the
    partner's time where they move as one. The partner's own is P. Where the partner takes another time beside some
    labels (`Arm.unlike`), each label has its own processes alone.
    """
    steps = [g for g in found if g.phase != timing.STREAM]
    levels = {place: arm.levels() for place, arm in places.items() if arm.shared}
    result = {}
    for key in dict.fromkeys((g.label, g.sweep, g.phase) for g in steps):
        label, sweep, phase = key
        place = (sweep, phase)
        own = sorted((g for g in steps if (g.label, g.sweep, g.phase) == key), key=lambda g: g.length)
        plain = timing.series(own)
        beside = places[place].partner.get(label)
        if place not in levels or beside is None:
            result[key] = plain
            continue
        level = [levels[place][g.length] for g in own]
        if label == partner:
            logs: Sequence[Estimate] = [_of_own(e, g) for e, g in zip(level, own, strict=True)]
        else:
            logs = _adjusted(own, [beside[g.length] for g in own], level, plain)
        result[key] = replace(plain, logs=tuple(logs))
    return result


def _of_own(level: Estimate, group: Group) -> Estimate:
    """The level with the number of its own processes: in those a study, and so what would decide, is stated."""
    few = len(group.records) < statistics.MINIMUM_PROCESSES
    return replace(level, count=len(group.records), error=None if few else level.error)


def _adjusted(
    groups: Sequence[Group], beside: Sequence[Array], level: Sequence[Estimate], plain: Series
) -> Sequence[Estimate]:
    model = [np.log(timing.process_seconds(g)) for g in groups]
    slope, freedom = _slope(model, beside)
    if slope == 0:
        return plain.logs
    left = statistics.related([m - slope * p for m, p in zip(model, beside, strict=True)])
    # The slope took one degree of freedom, and its own error moves the means: each by about one part in so many.
    wider = math.sqrt((freedom + 1) / (freedom - 1))
    widened = [e if e.error is None else replace(e, error=e.error * wider) for e in left]
    return [statistics.combine([1.0, slope], [own, whole]) for own, whole in zip(widened, level, strict=True)]


def _slope(model: Sequence[Array], partner: Sequence[Array]) -> tuple[float, int]:
    """β and its degrees of freedom, from processes that neither side puts apart."""
    products = squares = 0.0
    freedom = 0
    far = zip(statistics.outlying(model), statistics.outlying(partner), strict=True)
    for m, p, (one, other) in zip(model, partner, far, strict=True):
        kept = ~(one | other)
        if not kept.any():
            continue
        moved = p[kept] - p[kept].mean()
        products += float(moved @ m[kept])
        squares += float(moved @ moved)
        freedom += int(kept.sum()) - 1
    if freedom < _LEAST_FREEDOM or squares == 0:
        return 0.0, freedom
    return min(1.0, max(0.0, products / squares)), freedom
