"""All figures of the report, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from harness.analysis.results import Analysis
from harness.report.sections import accuracy as accuracy_figures
from harness.report.sections import cost as cost_figures
from harness.report.sections import operator as operator_figures
from harness.report.sections import speedup as speedup_figures
from harness.report.sections import streaming as stream_figures
from harness.report.theme import save, themed

FIGURES: dict[str, Callable[[Analysis], Figure | None]] = {
    "time": cost_figures.time,
    "speedup": speedup_figures.speedup,
    "memory": cost_figures.memory,
    "energy": cost_figures.energy,
    "streaming": stream_figures.streaming,
    "operator-time": operator_figures.operator_time,
    "operator-error": operator_figures.operator_error,
    "accuracy": accuracy_figures.accuracy,
    "accuracy-length": accuracy_figures.accuracy_length,
    "learning": accuracy_figures.learning,
    "noise": speedup_figures.noise,
    "laws": cost_figures.laws,
}


def draw(analysis: Analysis, name: str) -> Figure | None:
    """One figure by name; None where the records hold nothing for it."""
    with themed():
        return FIGURES[name](analysis)


def figures(analysis: Analysis, folder: Path, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Draw every figure that the records allow.

    Args:
        analysis: What to draw.
        folder: Where to write `<name>.<format>`; made where it is missing.
        formats: Such as `svg`, `png`, `pdf`.

    Returns:
        The files written, in the order of `FIGURES`.
    """
    written = []
    for name in FIGURES:
        figure = draw(analysis, name)
        if figure is None:
            continue
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            save(figure, path)
            written.append(path)
    return written
