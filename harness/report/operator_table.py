"""The operator bench for the terminal: times and ratios, slopes, errors and memory."""

from __future__ import annotations

from harness.analysis.estimates.operator import SLOPE_FROM
from harness.analysis.rows import OperatorBench, OperatorRow


def operator_table(bench: OperatorBench) -> str:
    """Times and ratios for the terminal: a block per kernel order, layout and pass, a line per length.

    Returns:
        Lines without a newline at the end.
    """
    wanted = bench.settings
    lines = [
        f"{bench.environment.cpu}, {wanted.threads} thread(s), torch {bench.environment.packages.get('torch', '?')}, "
        f"{wanted.elements:,} positions a batch, {wanted.channels} channels, float32",
        "milliseconds a call; in brackets FFT time / this time, median of paired rounds and its 95 % interval",
    ]
    attention = [row for row in bench.rows if row.kind == "attention"]
    convolutions = [row for row in bench.rows if row.kind == "convolution"]
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
    for backend, slope in bench.slopes.items():
        ends = "no interval" if slope.interval is None else f"[{slope.interval[0]:.3f}, {slope.interval[1]:.3f}]"
        lines.append(f"  {backend:6} {slope.slope:.3f} {ends}, {slope.window[0]:,} … {slope.window[1]:,}")
    lines += ["", "largest relative L2 error against float64: output, gradients of x, coefficients, decay"]
    for backend in dict.fromkeys(e.backend for e in bench.errors):
        own = [e for e in bench.errors if e.backend == backend]
        worst = [
            max(getattr(e, name) for e in own)
            for name in ("output", "x_gradient", "coefficients_gradient", "decay_gradient")
        ]
        lines.append(f"  {backend:6} " + "  ".join(f"{value:.1e}" for value in worst))
    lines += ["", "peak memory of forward and backward beyond x and the incoming gradient"]
    for peak in bench.peak_memory:
        lines.append(f"  {peak.backend:6} length {peak.length:>6,}  {peak.relative_to_x:5.1f} times x")
    if bench.omitted:
        lines += ["", "not measured"]
        for reason in dict.fromkeys(o.reason for o in bench.omitted):
            own_lengths = sorted({o.length for o in bench.omitted if o.reason == reason})
            lines.append(f"  {reason} (lengths {', '.join(f'{n:,}' for n in own_lengths)})")
    return "\n".join(lines)


def _cell(row: OperatorRow) -> str:
    ends = "" if row.speedup_low is None else f" {row.speedup_low:.2f}-{row.speedup_high:.2f}"
    return f"{1e3 * row.seconds:.2f} [{row.speedup_over_fft:.2f}{ends}]"
