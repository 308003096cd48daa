"""From blocks to one number per process, and from processes to points: time and energy against length."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.statistics import Array, Estimate
from harness.analysis.load import Folder
from harness.analysis.rows import Censored, EnergyPoint, TimePoint
from harness.records.schema import SpeedRecord

STREAM = "stream"


@dataclass(frozen=True)
class Group:
    """The processes that timed one label at one length of one sweep in one phase."""

    label: str
    sweep: str
    constant: Literal["tokens", "batch"]
    phase: str
    length: int
    batch: int
    paths: tuple[str, ...]
    records: tuple[SpeedRecord, ...]


def groups(folder: Folder) -> list[Group]:
    """All timed points, in the order of the study's labels, sweeps and lengths."""
    found: dict[tuple[str, str, str, int], list[tuple[str, SpeedRecord]]] = {}
    constants: dict[tuple[str, str, str, int], Literal["tokens", "batch"]] = {}
    for counted, record in folder.speed():
        # A cell whose memory pass ended in OOM has timed before: its timing stands.
        if record.timing is None:
            continue
        for phase in dict.fromkeys(str(b.phase) for b in record.timing.blocks if b.side == "model"):
            key = (record.label, record.sweep, phase, record.length)
            found.setdefault(key, []).append((counted.path, record))
            constants[key] = record.spec.constant
    order = {label: place for place, label in enumerate(folder.labels())}
    sweeps = {name: place for place, name in enumerate(dict.fromkeys(key[1] for key in found))}
    keys = sorted(found, key=lambda k: (sweeps[k[1]], k[2] != "step", k[2], order[k[0]], k[3]))
    return [
        Group(
            label=key[0],
            sweep=key[1],
            constant=constants[key],
            phase=key[2],
            length=key[3],
            batch=found[key][0][1].batch,
            paths=tuple(path for path, _ in found[key]),
            records=tuple(record for _, record in found[key]),
        )
        for key in keys
    ]


def stream_seconds(record: SpeedRecord) -> dict[int, Array]:
    """`[rounds]` seconds per streamed event of the model's side, by length of history."""
    blocks = record.timing.blocks if record.timing is not None else []
    found: dict[int, list[float]] = {}
    for block in blocks:
        if block.side == "model" and block.phase == STREAM:
            found.setdefault(block.history or record.length, []).append(block.seconds / block.steps)
    return {history: np.array(seconds) for history, seconds in sorted(found.items())}


def step_seconds(record: SpeedRecord, side: str, phase: str) -> Array:
    """`[blocks]` seconds per step of one side, in the order of execution; not for `stream`."""
    blocks = record.timing.blocks if record.timing is not None else []
    return np.array([b.seconds / b.steps for b in blocks if b.side == side and b.phase == phase])


def process_seconds(group: Group) -> list[float]:
    """Median seconds per step of the model's side in each process."""
    return [statistics.median(step_seconds(record, "model", group.phase)) for record in group.records]


def series(found: Iterable[Group]) -> Series:
    """Groups of one label, sweep and phase as a series over increasing lengths."""
    ordered = sorted(found, key=lambda g: g.length)
    return Series(
        tuple(g.length for g in ordered),
        tuple(g.batch * g.length for g in ordered),
        tuple(statistics.related([np.log(process_seconds(g)) for g in ordered])),
    )


def time_points(found: list[Group]) -> list[TimePoint]:
    """One row per label, sweep, phase and length."""
    longest: dict[tuple[str, str, str], tuple[int, float]] = {}
    for group in found:
        operations = _operations(group)
        if operations:
            seconds = math.exp(float(np.mean(np.log(process_seconds(group)))))
            key = (group.label, group.sweep, group.phase)
            if group.length > longest.get(key, (0, 0.0))[0]:
                longest[key] = (group.length, seconds / operations)
    rests = {(g.label, g.sweep, g.length): process_seconds(g) for g in found if g.phase == "rest"}
    arms: dict[tuple[str, str, str], list[Group]] = {}
    for group in found:
        arms.setdefault((group.label, group.sweep, group.phase), []).append(group)
    means: dict[tuple[str, str, str, int], Estimate] = {}
    for key, own in arms.items():
        logs = [np.log(process_seconds(g)) for g in own]
        means.update({(*key, g.length): mean for g, mean in zip(own, statistics.related(logs), strict=True)})
    points = []
    for group in found:
        key = (group.label, group.sweep, group.phase)
        points.append(_time_point(group, means[*key, group.length], longest.get(key, (0, None))[1]))
    return [_with_share(p, rests.get((p.label, p.sweep, p.length))) if p.phase == "step" else p for p in points]


def _with_share(point: TimePoint, rest_seconds: list[float] | None) -> TimePoint:
    """The point with the part of its step that embedding, head, loss and optimiser do not explain."""
    if rest_seconds is None:
        return point
    return msgspec.structs.replace(
        point, mixer_share=1 - math.exp(float(np.mean(np.log(rest_seconds)))) / point.step_seconds
    )


def _time_point(group: Group, logs: Estimate, seconds_per_operation: float | None) -> TimePoint:
    medians = process_seconds(group)
    interval = statistics.exponential(logs.interval())
    tokens = group.batch * group.length
    seconds = math.exp(logs.mean)
    operations = _operations(group)
    predicted = operations * seconds_per_operation if operations and seconds_per_operation else None
    moved = next((r.model.bytes_moved for r in group.records if r.model is not None), None)
    spreads = [np.ptp(s) / np.median(s) for r in group.records if len(s := step_seconds(r, "model", group.phase)) > 1]
    return TimePoint(
        label=group.label,
        sweep=group.sweep,
        constant=group.constant,
        phase=group.phase,
        length=group.length,
        batch=group.batch,
        tokens=tokens,
        processes=len(medians),
        outlying=len(medians) - logs.count,
        process_seconds=medians,
        step_seconds=seconds,
        step_interval=interval,
        microseconds_per_token=1e6 * seconds / tokens,
        microseconds_per_token_interval=None
        if interval is None
        else (1e6 * interval[0] / tokens, 1e6 * interval[1] / tokens),
        block_spread=float(np.median(spreads)) if spreads else None,
        operations=operations,
        bytes_moved=moved,
        predicted_seconds=predicted,
        flagged=sum(1 for record in group.records if record.flags),
    )


def _operations(group: Group) -> float | None:
    # A model's prediction is about its layers, which `rest` leaves out.
    if group.phase == "rest":
        return None
    return next((r.model.operations for r in group.records if r.model is not None), None)


def energy_estimates(found: Iterable[Group], label: str, sweep: str) -> dict[int, Estimate]:
    """Log joules a step over the processes of a label, by length where the energy was read."""
    joules: dict[int, list[float]] = {}
    for group in found:
        if (group.label, group.sweep, group.phase) == (label, sweep, "step"):
            read = [r.energy.energy_joules / r.energy.steps for r in group.records if r.energy is not None]
            if read and min(read) > 0:
                joules[group.length] = read
    means = statistics.related([np.log(values) for values in joules.values()])
    return dict(zip(joules, means, strict=True))


def energy_points(found: list[Group]) -> list[EnergyPoint]:
    """Mean energy per step of the groups that measured it."""
    result = []
    for group in found:
        energies = [r.energy for r in group.records if r.energy is not None and group.phase == "step"]
        if energies:
            result.append(
                EnergyPoint(
                    label=group.label,
                    sweep=group.sweep,
                    length=group.length,
                    processes=len(energies),
                    joules_per_step=float(np.mean([e.energy_joules / e.steps for e in energies])),
                    watts=float(np.mean([e.energy_joules / e.seconds for e in energies])),
                )
            )
    return result


def censored(folder: Folder) -> list[Censored]:
    """Cells that ended in OOM or time-out, or whose training diverged."""
    return [
        Censored(
            kind=c.cell.kind,
            label=c.cell.label,
            where=c.cell.spec.where,
            length=c.cell.spec.length,
            replicate=c.cell.spec.number,
            status=c.status,
            detail=c.detail or "",
        )
        for c in folder.counted
        if c.status == "oom" or c.status == "timeout" or c.status == "diverged"
    ]
