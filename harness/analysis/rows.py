"""Rows of analysis.json about cost: time, speed-up, scaling, memory, energy, censoring.

Field names carry units. Intervals are 95 % and written `[lower, upper]`; null means that the records
do not give one (fewer than three processes, an open end), never zero.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from harness.records.operator import Error, Layout, Omission, Pass, PeakMemory, Sample, Settings
from harness.records.schema import Environment, Provenance, Status

Interval = tuple[float, float]
OpenInterval = tuple[float | None, float | None]
Law = Literal["constant", "log", "linear"]
Outcome = Literal["passed", "contradicted", "undecided"]


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in analysis.json."""


class TimePoint(Row, frozen=True):
    """Time of one label at one length; the mean is that of the logs over the processes.

    Attributes:
        phase: `step` (forward, loss, backward, optimiser), `forward`, `stream` (one more event), or
            `rest` (embedding, loss and optimiser of a step, without the layers).
        constant: What the sweep keeps constant: `tokens` or `batch`.
        tokens: Tokens per step, batch × length.
        processes: Number of processes.
        process_seconds: Median seconds per step of each process.
        block_spread: Median over processes of (largest − smallest block) / median block.
        operations: Predicted floating-point operations of the forward pass.
        bytes_moved: Predicted bytes moved by the forward pass.
        predicted_seconds: Step time if it were proportional to `operations`, through this label's
            longest measured point; null without a prediction.
        flagged: Number of processes with an instability flag.
        mixer_share: Part of a step that is not `rest`; null for other phases, or where that was not timed.
        outlying: Processes that lie far from the others, in `process_seconds` but in no mean.
    """

    label: str
    sweep: str
    constant: Literal["tokens", "batch"]
    phase: str
    length: int
    batch: int
    tokens: int
    processes: int
    process_seconds: list[float]
    step_seconds: float
    step_interval: Interval | None
    microseconds_per_token: float
    microseconds_per_token_interval: Interval | None
    block_spread: float | None
    operations: float | None
    bytes_moved: float | None
    predicted_seconds: float | None
    flagged: int
    mixer_share: float | None = None
    outlying: int = 0


class StreamPoint(Row, frozen=True):
    """Time of one more event of one user within a history, of a model built for `length`.

    Attributes:
        history: The events timed lie in its second half, where it is long among its last thousand.
        shortest: Shortest history timed in the same processes.
        event_seconds: Seconds per event.
        process_ratios: Per process the mean time within this history over that within the shortest one,
            in the same rounds.
        ratio: Their geometric mean; 1 where this is the shortest.
        block_spread: Median over processes of (largest − smallest block) / median block.
    """

    label: str
    sweep: str
    length: int
    history: int
    shortest: int
    processes: int
    event_seconds: float
    event_interval: Interval | None
    process_ratios: list[float]
    ratio: float
    ratio_interval: Interval | None
    block_spread: float | None


class SpeedupPoint(Row, frozen=True):
    """Time of `label` over time of the timing partner, from the label's own paired cells.

    Attributes:
        speedup: Above 1: the timing partner ("HyenaRec over X") is faster.
        interval: Pointwise 95 %.
        simultaneous: 95 % for all lengths of this sweep together (of max |t|).
        process_speedups: Median of the pair ratios of each process.
        pairs: Number of pairs of adjacent blocks over all processes.
        paired: False where some cell timed the two sides one after the other (memory).
        faster: Whether the partner is faster: simultaneous interval above 1 and the effect above
            the noise floor; `slower` likewise.
        outlying: Processes whose ratio lies far from the others', in `process_speedups` but in no mean.
    """

    label: str
    partner: str
    sweep: str
    length: int
    processes: int
    process_speedups: list[float]
    pairs: int
    speedup: float
    interval: Interval | None
    simultaneous: Interval | None
    paired: bool
    faster: bool
    slower: bool
    outlying: int = 0


class ControlPoint(Row, frozen=True):
    """A/A control: the timing partner against a second copy of itself at one length.

    Attributes:
        ratio: Should be 1.
        simultaneous: 95 % for all lengths together.
        covers_one: Whether it does; null without an interval.
        width: Upper over lower end, less 1; null without an interval.
    """

    sweep: str
    length: int
    processes: int
    process_ratios: list[float]
    ratio: float
    simultaneous: Interval | None
    covers_one: bool | None
    width: float | None


class NoiseFloor(Row, frozen=True):
    """The largest departure from 1 that the A/A intervals allow.

    Attributes:
        factor: An effect between 1/factor and factor is inconclusive; null without intervals.
        percent: The same as a percentage, 100·(factor − 1).
        lengths: Lengths with a control.
        all_cover_one: Whether every simultaneous interval covers 1.
    """

    sweep: str
    factor: float | None
    percent: float | None
    lengths: list[int]
    all_cover_one: bool | None


class Crossover(Row, frozen=True):
    """Where the speed-up over `label`, by its point estimates, crosses 1.

    Attributes:
        state: `crosses` upwards within the window; `below` (above 1 at every measured length); `above`
            (at no measured length up to the longest); `falls` (above 1 at short lengths only).
        length: Interpolated in log-log; null unless the state is `crosses` or `falls`.
        bracket: The two measured lengths around it.
        interval: 95 %; an end outside the measured lengths is null.
        window: Shortest and longest measured length.
        sentence: At which lengths the intervals, and the noise floor, show it faster or slower.
    """

    label: str
    partner: str
    sweep: str
    state: Literal["crosses", "below", "above", "falls"]
    length: float | None
    bracket: tuple[int, int] | None
    interval: OpenInterval | None
    window: tuple[int, int]
    sentence: str


class Trend(Row, frozen=True):
    """Slope of log speed-up in log length: an exponent; 1 doubles the speed-up with the length."""

    label: str
    sweep: str
    slope: float
    interval: Interval | None
    window: tuple[int, int]
    points: int


class Fit(Row, frozen=True):
    """One law s(L) = f + T·(u + v·w(L)), f, u, v ≥ 0, fitted to relative errors.

    Attributes:
        law: w = 0 (`constant`), log₂ L (`log`) or L (`linear`).
        fixed_seconds: f; null where all points have the same number of tokens, which cannot tell f
            from T·u: then `per_token_seconds` holds f/T + u.
        per_token_seconds: u.
        growth_seconds: v, seconds per token and per unit of w.
        growth_interval: 95 % of v by the fit with free signs, so that it may reach below 0, stretched to
            `growth_seconds` where bound signs moved that out; null with fewer than three processes a point.
        fixed_interval: 95 % of f likewise; null where f cannot be told from T·u.
        relative_error: Root mean square of the relative residuals.
        residuals: measured / fitted − 1 at each of the law's lengths.
        fitted_seconds: Fitted step time at each of the law's lengths.
    """

    law: Law
    fixed_seconds: float | None
    per_token_seconds: float
    growth_seconds: float
    growth_interval: Interval | None
    relative_error: float
    residuals: list[float]
    fitted_seconds: list[float]
    fixed_interval: Interval | None = None


class Challenge(Row, frozen=True):
    """A law fitted on the smaller lengths, held against the largest (Empirical Scaling Analyzer).

    Attributes:
        fitted_lengths: At most a quarter of `length`.
        ratio: measured / predicted.
        tolerance: Relative error that is let pass.
        outcome: `passed` where the whole interval of the ratio lies within [1/(1 + tolerance),
            1 + tolerance], `contradicted` where it lies outside, else, and without one, `undecided`.
    """

    law: Law
    fitted_lengths: list[int]
    length: int
    predicted_seconds: float
    measured_seconds: float
    ratio: float
    interval: Interval | None
    tolerance: float
    outcome: Outcome


class ScalingLaw(Row, frozen=True):
    """How the step time of one label grows with length in one sweep.

    Attributes:
        lengths: Lengths fitted; longer ones that ended in OOM or time-out are in `censored_lengths`.
        chosen: The law that the data single out; null: not told apart.
        best: The law with the smallest error, a growing law only where its growth is above 0; for
            drawing, not for ruling.
        challenges: One per law that could be challenged.
        rise: Cost per token at the longest length over that at most an eighth of it.
        rise_window: Those two lengths; null where the lengths do not span a factor of eight.
    """

    label: str
    sweep: str
    lengths: list[int]
    measured_seconds: list[float]
    processes: int
    fits: list[Fit]
    chosen: Law | None
    best: Law
    challenges: list[Challenge]
    rise: float | None
    rise_interval: Interval | None
    rise_window: tuple[int, int] | None
    censored_lengths: list[int]


class Exponent(Row, frozen=True):
    """The exponent b of the part that grows; valid within its window only.

    Attributes:
        quantity: `time`, seconds per sequence t = c·L + a·L^b (and a fixed cost a step, where the lengths tell it
            apart), or `memory`, bytes at a constant batch m = c + a·L^b.
        exponent: b: 2 where the cost per token grows as length; of a cost per token that does not grow b is
            anything, and the interval open.
        interval: 95 %; an end beyond the exponents tried is null.
        constant: c, in seconds per token or in bytes, of any sign.
        coefficient: a.
        method: `power beside a linear part` or `power with constant`.
    """

    label: str
    sweep: str
    quantity: Literal["time", "memory"]
    exponent: float
    interval: OpenInterval | None
    constant: float
    coefficient: float
    window: tuple[int, int]
    points: int
    method: str


class LocalSlope(Row, frozen=True):
    """Exponent between two neighbouring lengths: of time per sequence, or of memory."""

    label: str
    sweep: str
    quantity: Literal["time", "memory"]
    lengths: tuple[int, int]
    slope: float
    interval: Interval | None


class MemoryPoint(Row, frozen=True):
    """Peak memory of one label at one length, from a pass with only this model alive.

    Attributes:
        peak_bytes: Peak over training steps, baseline subtracted.
        tiny_peak_bytes: Peak on one short sequence.
        net_bytes: peak_bytes − tiny_peak_bytes, what grows with the batch.
        device_peak_bytes: The device's own view (GPU).
    """

    label: str
    sweep: str
    constant: Literal["tokens", "batch"]
    length: int
    batch: int
    method: str
    peak_bytes: int
    tiny_peak_bytes: int
    net_bytes: int
    reserved_bytes: int | None
    device_peak_bytes: int | None
    state: float | None


class EnergyPoint(Row, frozen=True):
    """Energy of one label at one length, mean over processes."""

    label: str
    sweep: str
    length: int
    processes: int
    joules_per_step: float
    watts: float


class Censored(Row, frozen=True):
    """A cell that ended in OOM or time-out, or whose training diverged: a bound, not a gap."""

    kind: Literal["speed", "training"]
    label: str
    where: str
    length: int | None
    replicate: int
    status: Literal["oom", "timeout", "diverged"]
    detail: str


class OperatorRow(Row, frozen=True):
    """One backend of the operator bench at one length, kernel order, layout and pass.

    Attributes:
        kind: `convolution`, or `attention` for comparison: causal, without projections.
        backend: `fft`, `tree`, `dense`; `sdpa` for attention.
        kernel_order: K; null for attention.
        seconds: Median over the rounds of the time of one call.
        speedup_over_fft: Median over the rounds of FFT time / this time, both of the same round. Attention is paired
            with the FFT of the first kernel order in the first layout.
        speedup_low: Lower end of the median's 95 % interval from order statistics over the rounds; it describes this
            process, not others. Null with fewer than six rounds.
        speedup_high: Upper end.
        operations: Predicted floating-point operations of one call.
        bytes: Predicted bytes that one call reads and writes.
        samples: One per round, in the order in which they ran.
    """

    kind: Literal["convolution", "attention"]
    backend: str
    length: int
    batch: int
    kernel_order: int | None
    layout: Layout
    pass_: Pass = msgspec.field(name="pass")
    seconds: float
    speedup_over_fft: float
    speedup_low: float | None
    speedup_high: float | None
    operations: float
    bytes: float
    samples: list[Sample]


class OperatorSlope(Row, frozen=True):
    """Slope of log seconds per sequence in log length: 1 is linear, 2 quadratic.

    An FFT's is above 1 by about 1 / ln L, attention's goes from 1 to 2.

    Attributes:
        interval: 95 % over the rounds of this process, lengths independent; null where a length
            has fewer than three rounds.
        window: Shortest and longest length.
        points: Number of lengths.
    """

    slope: float
    interval: Interval | None
    window: tuple[int, int]
    points: int


class OperatorBench(Row, frozen=True):
    """What operator.json holds, and what follows from its samples; also what `bench --json` prints.

    Attributes:
        status: How the bench ended; after another end than `ok`, `detail` says why something is missing.
        slopes: Backend → slope.
    """

    status: Status
    detail: str | None
    settings: Settings
    environment: Environment
    provenance: Provenance
    rows: list[OperatorRow]
    slopes: dict[str, OperatorSlope]
    peak_memory: list[PeakMemory]
    errors: list[Error]
    omitted: list[Omission]
