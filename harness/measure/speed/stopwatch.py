"""Paired timing: two sides alternately, block by block, in balanced order, in one process.

Machines drift by more than the effects we report. The ratio of two neighbouring blocks does not:
whatever slowed one slowed the other. So the model and the study's timing partner run A B B A A B
B A …, every block is kept, and all statistics come later, from the record.
"""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from harness.measure.runtime import without_garbage_collection
from harness.records.schema import Block, Warmup
from harness.records.spec import Phase

SideName = Literal["model", "partner"]

MAXIMUM_PAIRS = 16
_WARMUP_SECONDS = 2.0
_WARMUP_STEPS = 50
# However slow a step is: the first two touch fresh memory and take twice as long as the others.
_LEAST_WARMUP_STEPS = 5
_STABLE = 0.10
_MEASURE_AGAIN = "close other programs, delete the record and run `make report` again"


@dataclass(frozen=True)
class Side:
    """One side of a pair: what to run for each phase, and what building it took."""

    name: SideName
    run: dict[Phase, Callable[[], None]]
    build_seconds: float


@dataclass(frozen=True)
class Plan:
    """How many steps a block of each side holds, and how many pairs of such blocks are enough."""

    pairs: int
    model_steps: int
    partner_steps: int


@dataclass(frozen=True)
class Limits:
    """How long a cell measures.

    Attributes:
        minimum_seconds: Least a side measures.
        minimum_steps: Least number of steps a side measures.
        budget_seconds: Most both sides measure together.
    """

    minimum_seconds: float
    minimum_steps: int
    budget_seconds: float


class Clock:
    """Times a window of steps: CUDA events on a GPU, `perf_counter` on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def time(self, run: Callable[[], None], steps: int) -> tuple[float, int]:
        """Seconds and minor page faults of `steps` consecutive runs."""
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            torch.cuda.synchronize(self.device)
            start.record()
            for _ in range(steps):
                run()
            end.record()
            torch.cuda.synchronize(self.device)
            seconds = start.elapsed_time(end) / 1e3
        else:
            begin = time.perf_counter()
            for _ in range(steps):
                run()
            seconds = time.perf_counter() - begin
        return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def warm_up(side: Side, phase: Phase, clock: Clock) -> tuple[Warmup, float]:
    """Run until two consecutive windows agree within 10 %, at most two seconds or five steps.

    Returns:
        What happened, and the seconds of one step: the median of the last three windows, since a
        single disturbed one would plan too few blocks.
    """
    run = side.run[phase]
    first, _ = clock.time(run, 1)
    total, steps, last, stable = first, 1, first, False
    seen: list[float] = []
    while not stable and (steps < _LEAST_WARMUP_STEPS or (total < _WARMUP_SECONDS and steps < _WARMUP_STEPS)):
        window = max(1, min(10, int(0.05 / max(last, 1e-6))))
        seconds, _ = clock.time(run, window)
        step = seconds / window
        # The first step pays for lazy initialisation; it is never one of the two that agree.
        stable = steps > 1 and abs(step - last) <= _STABLE * min(step, last)
        total, steps, last = total + seconds, steps + window, step
        seen.append(step)
    warmup = Warmup(
        side=side.name,
        build_seconds=side.build_seconds,
        compile_seconds=max(0.0, first - min(seen)),
        steps=steps,
        seconds=total,
        stable=stable,
    )
    return warmup, statistics.median(seen[-3:])


def plan(model_seconds: float, partner_seconds: float, limits: Limits) -> Plan:
    """Size of the blocks for two step times: an even number of pairs in which both sides reach their minimum.

    The side that needs fewer steps gets one a block, unless it needs more than `MAXIMUM_PAIRS`. The
    budget is kept while measuring, where the true step times are known.
    """
    model = max(limits.minimum_steps, math.ceil(limits.minimum_seconds / model_seconds))
    partner = max(limits.minimum_steps, math.ceil(limits.minimum_seconds / partner_seconds))
    pairs = min(model, partner, MAXIMUM_PAIRS)
    pairs += pairs % 2
    return Plan(pairs, math.ceil(model / pairs), math.ceil(partner / pairs))


def measure_pair(model: Side, partner: Side, phase: Phase, clock: Clock, plan_: Plan, limits: Limits) -> list[Block]:
    """Time both sides in balanced order: A B B A, again and again.

    The plan's pairs, and more while a side is short of its minimum, since step times seen in the
    warm-up are estimates; fewer where the next pair would not end within the budget, never less
    than two.
    """
    with without_garbage_collection():
        # One step each, not kept: the model's caches went cold while the partner warmed up.
        for side in (model, partner):
            clock.time(side.run[phase], 1)
        return _measure([(model, plan_.model_steps), (partner, plan_.partner_steps)], phase, clock, plan_, limits)


def measure_alone(side: Side, phase: Phase, clock: Clock, plan_: Plan, limits: Limits) -> list[Block]:
    """Time one side by itself, for a pair that does not fit in memory together; half the budget is its own."""
    half = replace(limits, budget_seconds=limits.budget_seconds / 2)
    with without_garbage_collection():
        return _measure([(side, plan_.model_steps)], phase, clock, plan_, half)


def _measure(order: list[tuple[Side, int]], phase: Phase, clock: Clock, plan_: Plan, limits: Limits) -> list[Block]:
    """Rounds of one block a side, every second round in reverse."""
    names = [side.name for side, _ in order]
    blocks: list[Block] = []
    rounds = 0
    while rounds < 2 or (
        (rounds < plan_.pairs or _short(blocks, names, limits))
        and _next_round_ends(blocks, len(order), limits.budget_seconds)
    ):
        for side, steps in order if rounds % 2 == 0 else reversed(order):
            blocks.append(_block(side, phase, clock, steps))
        rounds += 1
    return blocks


def _short(blocks: list[Block], names: list[SideName], limits: Limits) -> bool:
    """Whether a side has not yet run its least steps and seconds."""
    for name in names:
        own = [b for b in blocks if b.side == name]
        if sum(b.steps for b in own) < limits.minimum_steps or sum(b.seconds for b in own) < limits.minimum_seconds:
            return True
    return False


def _next_round_ends(blocks: list[Block], sides: int, budget_seconds: float) -> bool:
    """Whether one more round, as long as the last, ends within the budget."""
    return sum(b.seconds for b in blocks) + sum(b.seconds for b in blocks[-sides:]) <= budget_seconds


def _block(side: Side, phase: Phase, clock: Clock, steps: int) -> Block:
    seconds, faults = clock.time(side.run[phase], steps)
    return Block(side=side.name, phase=phase, steps=steps, seconds=seconds, minor_faults=faults)


def flags(
    blocks: Iterable[Block],
    warmups: Iterable[Warmup],
    limits: Limits,
    *,
    page_bytes: int,
    peak_bytes: int | None,
) -> list[str]:
    """What a reader must know about these blocks; nothing is dropped because of it.

    Args:
        blocks: All blocks of a cell.
        warmups: Its warm-ups.
        limits: How long the cell was to measure.
        page_bytes: Bytes of one page fault.
        peak_bytes: Peak resident bytes of the process above its baseline, if known.
    """
    found = [
        f"{w.side}: warm-up did not settle within {_STABLE:.0%}; {_MEASURE_AGAIN}" for w in warmups if not w.stable
    ]
    groups: dict[tuple[str, str], list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.side, block.phase), []).append(block)
    for (side, phase), group in groups.items():
        where = f"{side} {phase}"
        times = [b.seconds / b.steps for b in group]
        median = statistics.median(times)
        if len(times) >= 4:
            low, _, high = statistics.quantiles(times, n=4)
            if high - low > 0.10 * median:
                found.append(f"{where}: quartiles {(high - low) / median:.0%} of the median apart; {_MEASURE_AGAIN}")
        off = max(abs(t - median) / median for t in times)
        if off > 0.50:
            found.append(f"{where}: a block is {off:.0%} off the median; {_MEASURE_AGAIN}")
        if len(times) > 2 and times[0] > 1.10 * max(times[1:]):
            found.append(f"{where}: the first block is slower than all others; {_MEASURE_AGAIN}")
        steps, seconds = sum(b.steps for b in group), sum(b.seconds for b in group)
        if steps < limits.minimum_steps or seconds < 0.8 * limits.minimum_seconds:
            found.append(
                f"{where}: only {steps} steps in {seconds:.1f} s fitted the budget; raise budget_seconds in the study"
            )
        faults = [b.minor_faults / b.steps for b in group if b.minor_faults is not None]
        if faults and peak_bytes and statistics.median(faults) * page_bytes > 0.10 * peak_bytes:
            share = statistics.median(faults) * page_bytes / peak_bytes
            found.append(
                f"{where}: each step faults in {share:.0%} of the peak, so the allocator is being timed; use glibc's, "
                "without LD_PRELOAD, delete the record and run `make report` again"
            )
    return found
