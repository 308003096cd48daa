"""`python -m harness bench`: runs the children and puts operator.json together. Imports no torch."""

from __future__ import annotations

import datetime
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from harness.analysis.estimates.statistics import combine, estimate
from harness.errors import USAGE, UserError
from harness.records.environment import git_state
from harness.records.operator import OPERATOR_SCHEMA, SOURCES, OperatorRecord, Row, Settings, Slope
from harness.records.schema import Provenance, encode
from harness.records.source_digest import source_digest
from harness.run.operator_child import Measure, Request, Result
from harness.run.supervisor import KEEP_BLOCKS, RETURN_BLOCKS, clean_environment

MEASURES: tuple[Measure, ...] = ("time", "memory", "errors")
# From here on a fixed cost per call hardly shows in a slope.
SLOPE_FROM = 512


def settings(*, quick: bool = False, elements: int | None = None, threads: int = 1, device: str = "cpu") -> Settings:
    """Settings of a run.

    Args:
        quick: One kernel order, channel-major, forward and backward only: under a minute.
        elements: Positions per batch, a power of two, 64 … 2²⁴; None: 65,536.
        threads: CPU threads.
        device: `cpu` or `cuda`.

    Raises:
        UserError: A value outside its range.
    """
    elements = Settings().elements if elements is None else elements
    if not 64 <= elements <= 2**24 or elements.bit_count() != 1:
        raise UserError(
            f"elements {elements} must be a power of two in 64 … {2**24}, so that every length divides it; "
            "65536 is the default"
        )
    if threads < 1:
        raise UserError(f"threads {threads} must be at least 1")
    if device not in ("cpu", "cuda"):
        raise UserError(f"unknown device '{device}'; legal: cpu, cuda")
    full = Settings(elements=elements, threads=threads, device="cuda" if device == "cuda" else "cpu")
    if not quick:
        return full
    return msgspec.structs.replace(
        full,
        kernel_orders=[16],
        layouts=["channel_major"],
        passes=["forward_backward"],
        rounds=7,
        group_seconds=1.5,
        dense_limit=256,
        attention_seconds=0.7,
        error_lengths=[64, 256, 1024, 4096, 16_384, 65_536],
        memory_lengths=[4096],
    )


def bench(wanted: Settings) -> OperatorRecord:
    """Measure times, peaks and errors, each in a child process of its own.

    Raises:
        UserError: A child was killed, or found the settings impossible on this machine.
        RuntimeError: A child failed; its traceback is on standard error.
    """
    started = datetime.datetime.now(datetime.UTC)
    begin = time.monotonic()
    # Before the children start: what is edited meanwhile is not what ran.
    commit, dirty = git_state()
    digest = source_digest(SOURCES)
    results = {what: _child(what, wanted) for what in MEASURES}
    return OperatorRecord(
        schema_version=OPERATOR_SCHEMA,
        settings=wanted,
        environment=results["time"].environment,
        provenance=Provenance(
            git_commit=commit,
            git_dirty=dirty,
            started_at=started.isoformat(timespec="seconds"),
            source_digest=digest,
            elapsed_seconds=round(time.monotonic() - begin, 3),
        ),
        rows=results["time"].rows,
        slopes=slopes(results["time"].rows, wanted.kernel_orders[0]),
        peak_memory=results["memory"].peak_memory,
        errors=results["errors"].errors,
        omitted=list(dict.fromkeys(o for what in MEASURES for o in results[what].omitted)),
    )


def slopes(rows: Iterable[Row], order: int) -> dict[str, Slope]:
    """Slope per backend over lengths of at least 512: this kernel order, channel-major, with backward.

    Least squares through the means of the logs; their errors come from the rounds.

    Returns:
        Backend → slope, for backends with two lengths or more.
    """
    chosen: dict[str, list[Row]] = {}
    for row in rows:
        own = row.kind == "attention" or (row.kernel_order, row.layout) == (order, "channel_major")
        if own and row.pass_ == "forward_backward" and row.length >= SLOPE_FROM:
            chosen.setdefault(row.backend, []).append(row)
    found = {}
    for backend, points in chosen.items():
        if len(points) < 2:
            continue
        logs = [math.log(p.length) for p in points]
        middle = sum(logs) / len(logs)
        spread = sum((x - middle) ** 2 for x in logs)
        times = [estimate([math.log(s.seconds / s.calls / p.batch) for s in p.samples]) for p in points]
        result = combine([(x - middle) / spread for x in logs], times)
        lengths = [p.length for p in points]
        found[backend] = Slope(
            slope=result.mean,
            interval=result.interval(),
            window=(min(lengths), max(lengths)),
            points=len(points),
        )
    return found


def table(record: OperatorRecord) -> str:
    """Times and ratios for the terminal: a block per kernel order, layout and pass, a line per length.

    Returns:
        Lines without a newline at the end.
    """
    wanted = record.settings
    lines = [
        f"{record.environment.cpu}, {wanted.threads} thread(s), torch {record.environment.packages.get('torch', '?')}, "
        f"{wanted.elements:,} positions a batch, {wanted.channels} channels, float32",
        "milliseconds a call; in brackets FFT time / this time, median of paired rounds and its 95 % interval",
    ]
    attention = [row for row in record.rows if row.kind == "attention"]
    convolutions = [row for row in record.rows if row.kind == "convolution"]
    for order, layout, pass_ in dict.fromkeys((r.kernel_order, r.layout, r.pass_) for r in convolutions):
        block = [r for r in convolutions if (r.kernel_order, r.layout, r.pass_) == (order, layout, pass_)]
        if (order, layout) == (wanted.kernel_orders[0], wanted.layouts[0]):
            block += [r for r in attention if r.pass_ == pass_]
        names = list(dict.fromkeys(r.backend for r in block))
        lines += ["", f"K = {order}, {layout}, {pass_}"]
        lines.append(f"{'length':>8}" + "".join(f"  {name:>27}" for name in names))
        for length in dict.fromkeys(r.length for r in block):
            cells = {r.backend: _cell(r) for r in block if r.length == length}
            lines.append(f"{length:>8,}" + "".join(f"  {cells.get(name, '-'):>27}" for name in names))
    lines += ["", f"slope of log seconds per sequence in log length, {SLOPE_FROM:,} and longer"]
    for backend, slope in record.slopes.items():
        ends = "no interval" if slope.interval is None else f"[{slope.interval[0]:.3f}, {slope.interval[1]:.3f}]"
        lines.append(f"  {backend:6} {slope.slope:.3f} {ends}, {slope.window[0]:,} … {slope.window[1]:,}")
    lines += ["", "largest relative L2 error against float64: output, gradients of x, coefficients, decay"]
    for backend in dict.fromkeys(e.backend for e in record.errors):
        own = [e for e in record.errors if e.backend == backend]
        worst = [
            max(getattr(e, name) for e in own)
            for name in ("output", "x_gradient", "coefficients_gradient", "decay_gradient")
        ]
        lines.append(f"  {backend:6} " + "  ".join(f"{value:.1e}" for value in worst))
    lines += ["", "peak memory of forward and backward beyond x and the incoming gradient"]
    for peak in record.peak_memory:
        lines.append(f"  {peak.backend:6} length {peak.length:>6,}  {peak.relative_to_x:5.1f} times x")
    if record.omitted:
        lines += ["", "not measured"]
        for reason in dict.fromkeys(o.reason for o in record.omitted):
            own_lengths = sorted({o.length for o in record.omitted if o.reason == reason})
            lines.append(f"  {reason} (lengths {', '.join(f'{n:,}' for n in own_lengths)})")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    ends = "" if row.speedup_low is None else f" {row.speedup_low:.2f}-{row.speedup_high:.2f}"
    return f"{1e3 * row.seconds:.2f} [{row.speedup_over_fft:.2f}{ends}]"


def _child(what: Measure, wanted: Settings) -> Result:
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        request, result = Path(folder) / "request.json", Path(folder) / "result.json"
        request.write_bytes(encode(Request(settings=wanted, measure=what, result=str(result), parent=os.getpid())))
        allocator = RETURN_BLOCKS if what == "memory" else KEEP_BLOCKS
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.run.operator_child", str(request)],
            env={**clean_environment(), **allocator},
            stdin=subprocess.DEVNULL,
            # Standard error: standard output carries the table or the JSON, and nothing else.
            stdout=2,
        )
        try:
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if code < 0:
            name = signal.Signals(-code).name
            raise UserError(f"the {what} pass was killed by {name}; if memory ran out, take fewer --elements")
        if code == USAGE:
            raise UserError(f"the {what} pass cannot run on this machine; the line above says why")
        if code:
            raise RuntimeError(f"the {what} pass ended with status {code}; its traceback stands above")
        return msgspec.json.decode(result.read_bytes(), type=Result)
