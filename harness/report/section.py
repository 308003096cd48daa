"""The sections of the report, found by their place: each is a folder of harness/report/sections.

A package brings sections by the entry-point group `hyenarec_bench.sections`, each entry naming such a folder, or a
single module with its .typ beside it. sections/_template says what is in one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from harness.analysis.results import Analysis
from harness.doors import Door
from harness.errors import UserError
from harness.report.theme import save, themed

SECTIONS = Door("section", "harness.report.sections", "SECTION")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section.

    Attributes:
        order: Sections stand in the order of this number.
        figures: Name of a figure → function that draws it, or returns None where the records hold nothing for it.
        see: Name of a figure → function that says in one sentence what to see in it, with the numbers; "" for nothing.
        data: Gives what the .typ reads, besides the analysis, as JSON.
    """

    order: float
    figures: Mapping[str, Callable[[Analysis], Figure | None]] = field(default_factory=dict)
    see: Mapping[str, Callable[[Analysis], str]] = field(default_factory=dict)
    data: Callable[[Analysis], Mapping[str, Any]] = lambda analysis: {}


@cache
def sections() -> dict[str, Section]:
    """All sections by name, in their order.

    Raises:
        UserError: A section that cannot be imported or defines no SECTION, or two figures of one name.
    """
    found: dict[str, Section] = {name: SECTIONS.load(name) for name in SECTIONS.modules()}
    figures = [figure for section in found.values() for figure in section.figures]
    for figure in figures:
        if figures.count(figure) > 1:
            raise UserError(f"two sections bring a figure '{figure}'; give one of them another name")
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def words(name: str) -> Path:
    """The .typ of a section: named like its module, in the folder of the module's file.

    Raises:
        UserError: There is none.
    """
    module = SECTIONS.module(name)
    spec = importlib.util.find_spec(module)
    path = Path(str(spec.origin if spec else module)).with_name(f"{module.rpartition('.')[2]}.typ")
    if not path.is_file():
        raise UserError(f"section '{name}' has no {path}; write its words there")
    return path


def figure_names() -> list[str]:
    """Names of all figures, in the order of the report."""
    return [name for section in sections().values() for name in section.figures]


def seen(analysis: Analysis) -> dict[str, str]:
    """What to see in each figure, a sentence each; those with nothing to say are left out."""
    found = {name: see(analysis) for section in sections().values() for name, see in section.see.items()}
    return {name: sentence for name, sentence in found.items() if sentence}


def draw(analysis: Analysis, name: str) -> Figure | None:
    """One figure by name; None where the records hold nothing for it."""
    function = next(section.figures[name] for section in sections().values() if name in section.figures)
    with themed():
        return function(analysis)


def figures(analysis: Analysis, folder: Path, formats: Sequence[str] = ("svg",)) -> list[Path]:
    """Draw every figure that the records allow.

    Args:
        analysis: What to draw.
        folder: Where to write `<name>.<format>`; made where it is missing.
        formats: Such as `svg`, `png`, `pdf`.

    Returns:
        The files written, in the order of the report.
    """
    written = []
    for name in figure_names():
        figure = draw(analysis, name)
        if figure is None:
            continue
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            save(figure, path)
            written.append(path)
    return written
