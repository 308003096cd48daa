"""Figures of the convolution operator by itself: time per element and error, against length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from harness.analysis.results import Analysis, OperatorBench
from harness.analysis.rows import OperatorRow
from harness.records.operator import Error
from harness.report.drawing import Ends, curves, legend, name_lines, panels, widen
from harness.report.section import Section
from harness.report.theme import ACCENT, Style, length_axis, log_axis

# Backends are no models: their looks are their own, with the tree in the accent colour.
LOOKS = {
    "fft": Style("#009e73", "^", emphasis=False),
    "tree": Style(ACCENT, "o", emphasis=True),
    "dense": Style("#6b7280", "D", emphasis=False),
    "sdpa": Style("#0072b2", "s", emphasis=False),
}
_NAMES = {"fft": "FFT", "tree": "tree", "dense": "dense", "sdpa": "attention"}
_PASSES = {"forward": "Forward", "forward_backward": "Forward and backward"}
_ERRORS: dict[str, Callable[[Error], float]] = {
    "Output": lambda e: e.output,
    "Gradient of the input": lambda e: e.x_gradient,
    "Gradient of the coefficients": lambda e: e.coefficients_gradient,
    "Gradient of the decay": lambda e: e.decay_gradient,
}


def main_rows(bench: OperatorBench) -> list[OperatorRow]:
    """Rows of the first kernel order in the first layout, and attention."""
    order, layout = bench.settings.kernel_orders[0], bench.settings.layouts[0]
    return [r for r in bench.rows if r.kind == "attention" or (r.kernel_order, r.layout) == (order, layout)]


def _backends(names: Iterable[str]) -> list[str]:
    found = set(names)
    return [name for name in LOOKS if name in found]


def operator_time(analysis: Analysis) -> Figure | None:
    """Time per element against length, a panel per pass; None without operator.json.

    Dots: single rounds. A level line is linear time.
    """
    bench = analysis.operator
    if bench is None or not bench.rows:
        return None
    rows = main_rows(bench)
    passes = [p for p in _PASSES if any(r.pass_ == p for r in rows)]
    figure, axes = panels(len(passes), 2.9 if len(passes) == 1 else 2.5)
    ends: list[Ends] = []
    names = _backends(r.backend for r in rows)
    looks = {_NAMES[name]: LOOKS[name] for name in names}
    for one, pass_ in zip(axes, passes, strict=True):
        parts = []
        here = [r for r in rows if r.pass_ == pass_]
        for name in _backends(r.backend for r in here):
            own = sorted((r for r in here if r.backend == name), key=lambda r: r.length)
            scale = [1e9 / (r.batch * r.length * bench.settings.channels) for r in own]
            y = [r.seconds * factor for r, factor in zip(own, scale, strict=True)]
            dots = [[s.seconds / s.calls * factor for s in r.samples] for r, factor in zip(own, scale, strict=True)]
            parts.append(_curve(_NAMES[name], [r.length for r in own], y, dots))
        ends.append(curves(one, pd.concat(parts), looks))
        lengths = sorted({r.length for r in here})
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "time per element (ns)")
        one.set_title(f"{_PASSES[pass_]}, {bench.settings.elements:,} × {bench.settings.channels} elements a batch")
    name_lines(figure, axes, list(looks), looks, ends, [{} for _ in axes])
    return figure


def operator_error(analysis: Analysis) -> Figure | None:
    """Relative error against length, one panel per result, worst kernel order; None without errors."""
    bench = analysis.operator
    if bench is None or not bench.errors:
        return None
    names = _backends(e.backend for e in bench.errors)
    everything = [v for e in bench.errors for value in _ERRORS.values() if (v := value(e)) > 0]
    if not everything:
        return None
    figure, axes = panels(len(_ERRORS), 2.1)
    looks = {_NAMES[name]: LOOKS[name] for name in names}
    for one, (title, value) in zip(axes, _ERRORS.items(), strict=True):
        parts = []
        for name in names:
            worst: dict[int, float] = {}
            for error in bench.errors:
                if error.backend == name and value(error) > 0:
                    worst[error.length] = max(worst.get(error.length, 0.0), value(error))
            points = sorted(worst.items())
            parts.append(_curve(_NAMES[name], [n for n, _ in points], [e for _, e in points], [[] for _ in points]))
        curves(one, pd.concat(parts), looks)
        lengths = sorted({e.length for e in bench.errors})
        length_axis(one, lengths)
        widen(one, lengths)
        log_axis(one, "relative error (L2)")
        # One scale for all four, so that heights compare.
        one.set_ylim(min(everything) / 2, max(everything) * 2)
        one.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0), numticks=30))
        one.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e-0", "e-")))
        one.set_title(title)
    legend(figure, list(looks), looks)
    return figure


def _curve(name: str, lengths: Sequence[int], values: Sequence[float], rounds: Sequence[list[float]]) -> pd.DataFrame:
    """One backend as `curves` draws it; the record has no interval of a time."""
    return pd.DataFrame(
        {"label": name, "x": lengths, "y": values, "low": float("nan"), "high": float("nan"), "samples": rounds}
    )


SECTION = Section(order=70, figures={"operator-time": operator_time, "operator-error": operator_error})
