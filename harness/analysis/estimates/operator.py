"""Speed-ups and slopes of the operator bench, from the samples of its record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from harness.analysis.estimates.statistics import combine, estimate
from harness.analysis.rows import OperatorBench, OperatorRow, OperatorSlope
from harness.errors import UserError
from harness.records.operator import OperatorRecord, Row, Sample

# From here on a fixed cost per call hardly shows in a slope.
SLOPE_FROM = 512
REFERENCE_BACKEND = "fft"
_MEDIAN_ROUNDS = 6

# Length, kernel order, layout and pass: what was timed in turn.
Group = tuple[int, int | None, str, str]


def operator_bench(record: OperatorRecord) -> OperatorBench:
    """A record with what follows from its samples.

    Raises:
        UserError: A row has no FFT of the same rounds beside it, which no bench leaves.
    """
    first, layout = record.settings.kernel_orders[0], record.settings.layouts[0]
    references = {_group(row): row.samples for row in record.rows if row.backend == REFERENCE_BACKEND}
    rows = []
    for row in record.rows:
        group = _group(row) if row.kind == "convolution" else (row.length, first, layout, row.pass_)
        reference = references.get(group)
        if reference is None or len(reference) != len(row.samples):
            raise UserError(
                f"{row.backend} at length {row.length} has no FFT of the same rounds beside it; delete the file and "
                "measure again"
            )
        rows.append(_row(row, reference))
    return OperatorBench(
        status=record.status,
        detail=record.detail,
        settings=record.settings,
        environment=record.environment,
        provenance=record.provenance,
        rows=rows,
        slopes=slopes(record.rows, first),
        peak_memory=record.peak_memory,
        errors=record.errors,
        omitted=record.omitted,
    )


def slopes(rows: Iterable[Row], order: int) -> dict[str, OperatorSlope]:
    """Slope per backend over lengths of at least 512: this kernel order, channel-major, with backward.

    Least squares through the means of the logs; their errors come from the rounds.

    Returns:
        Backend → slope, for backends with two lengths or more.
    """
    chosen: dict[str, list[Row]] = {}
    for row in rows:
        counts = row.kind == "attention" or (row.kernel_order, row.layout) == (order, "channel_major")
        if counts and row.pass_ == "forward_backward" and row.length >= SLOPE_FROM:
            chosen.setdefault(row.backend, []).append(row)
    return {backend: _slope(points) for backend, points in chosen.items() if len(points) >= 2}


def _slope(points: Sequence[Row]) -> OperatorSlope:
    logs = [math.log(p.length) for p in points]
    middle = sum(logs) / len(logs)
    spread = sum((x - middle) ** 2 for x in logs)
    times = [estimate([math.log(s.seconds / s.calls / p.batch) for s in p.samples]) for p in points]
    result = combine([(x - middle) / spread for x in logs], times)
    lengths = [p.length for p in points]
    return OperatorSlope(
        slope=result.mean, interval=result.interval(), window=(min(lengths), max(lengths)), points=len(points)
    )


def median_interval(values: Sequence[float]) -> tuple[float | None, float, float | None]:
    """Lower end, median and upper end of the median's interval of at least 95 %.

    From order statistics, the sign test turned round: whatever the distribution, the median lies
    between the j-th smallest and the j-th largest of n values but for 2·P(Binomial(n, ½) < j). Fewer
    than six values give no such interval.

    Source: Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2.
    """
    ordered = sorted(values)
    count = len(ordered)
    median = statistics.median(ordered)
    if count < _MEDIAN_ROUNDS:
        return None, median, None
    outside, place = 0.0, 0
    while outside + 2 * math.comb(count, place) / 2**count <= 0.05:
        outside += 2 * math.comb(count, place) / 2**count
        place += 1
    return ordered[place - 1], median, ordered[count - place]


def _row(row: Row, reference: Sequence[Sample]) -> OperatorRow:
    low, median, high = median_interval([_call(f) / _call(s) for f, s in zip(reference, row.samples, strict=True)])
    return OperatorRow(
        kind=row.kind,
        backend=row.backend,
        length=row.length,
        batch=row.batch,
        kernel_order=row.kernel_order,
        layout=row.layout,
        pass_=row.pass_,
        seconds=statistics.median(_call(sample) for sample in row.samples),
        speedup_over_fft=median,
        speedup_low=low,
        speedup_high=high,
        operations=row.operations,
        bytes=row.bytes,
        samples=row.samples,
    )


def _group(row: Row) -> Group:
    return row.length, row.kernel_order, row.layout, row.pass_


def _call(sample: Sample) -> float:
    return sample.seconds / sample.calls
