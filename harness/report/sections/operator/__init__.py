"""Figures of the convolution operator by itself: time per element and error, against length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from harness.analysis.results import Analysis, OperatorBench
from harness.analysis.rows import OperatorRow
from harness.records.operator import Error
from harness.report.drawing import (
    Ends,
    curves,
    frame,
    legend,
    looks_of,
    name_lines,
    panels,
    points,
    present,
    widen,
)
from harness.report.numbers import number
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
    figure, axes = panels(len(passes), 2.9 if len(passes) == 1 else 2.1)
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
            own = sorted(worst.items())
            parts.append(_curve(_NAMES[name], [n for n, _ in own], [e for _, e in own], [[] for _ in own]))
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


def layers_share(analysis: Analysis) -> Figure | None:
    """Part of a training step that the layers take, against length; None where a step without them was not timed."""
    shares = frame([p for p in analysis.times if p.mixer_share is not None])
    if shares.empty or shares["length"].nunique() < 2:
        return None
    looks = looks_of(analysis)
    groups = list(shares.groupby("sweep", sort=False))
    figure, axes = panels(len(groups), 2.3)
    ends: list[Ends] = []
    for one, (_, own) in zip(axes, groups, strict=True):
        ends.append(curves(one, points(own, "length", "mixer_share", factor=100.0), looks))
        lengths = sorted(set(own["length"]))
        length_axis(one, lengths)
        widen(one, lengths)
        one.set_ylim(0, 100)
        one.set_ylabel("share of the layers (% of a step)")
        one.set_title(f"Training step, {own['tokens'].iloc[0]:,} tokens a batch")
    name_lines(figure, axes, present(looks, shares["label"]), looks, ends, [{} for _ in axes])
    return figure


def see_time(analysis: Analysis) -> str:
    """How the backends compare at the longest length that two of them share, and how each grows."""
    bench = analysis.operator
    if bench is None or not bench.rows:
        return ""
    rows = [r for r in main_rows(bench) if r.pass_ == main_rows(bench)[-1].pass_ and r.kind == "convolution"]
    rows = rows or main_rows(bench)
    longest = max(r.length for r in rows)
    ordered = sorted((r for r in rows if r.length == longest), key=lambda r: r.seconds)
    least, most = ordered[0], ordered[-1]
    words = f"At a length of {longest:,} the operator takes {number(1e3 * least.seconds)} ms by {_NAMES[least.backend]}"
    if most is not least:
        words += f", {number(most.seconds / least.seconds)} times as long by {_NAMES[most.backend]}"
    slopes = [f"{_NAMES[name]} {bench.slopes[name].slope:.2f}" for name in _backends(bench.slopes)]
    return f"{words}; exponents: {', '.join(slopes)}." if slopes else f"{words}."


def see_error(analysis: Analysis) -> str:
    """The largest relative error of any backend."""
    bench = analysis.operator
    if bench is None or not bench.errors:
        return ""
    worst = max((value(e), _NAMES[e.backend]) for e in bench.errors for value in _ERRORS.values())
    return f"The largest relative error, {worst[0]:.1e}, is of {worst[1]}." if worst[0] > 0 else ""


def see_share(analysis: Analysis) -> str:
    """How much of a step the layers take at the shortest and the longest length, for the timing partner."""
    shares = [p for p in analysis.times if p.mixer_share is not None]
    if len({p.length for p in shares}) < 2:
        return ""
    name = analysis.study.timing_partner
    own = [p for p in shares if p.sweep == shares[0].sweep and p.label == name] or [
        p for p in shares if (p.sweep, p.label) == (shares[0].sweep, shares[0].label)
    ]
    first, last = min(own, key=lambda p: p.length), max(own, key=lambda p: p.length)
    return (
        f"The layers take {100 * (first.mixer_share or 0):.0f} % of a step of {first.label} at {first.length:,} events "
        f"and {100 * (last.mixer_share or 0):.0f} % at {last.length:,}: the rest all models pay alike."
    )


SECTION = Section(
    order=60,
    page="why",
    lacks="No record of the operator by itself is here.",
    figures={"operator-time": operator_time, "layers-share": layers_share, "operator-error": operator_error},
    see={"operator-time": see_time, "layers-share": see_share, "operator-error": see_error},
)
