"""The sections of the report, found by their place: each is a folder of harness/report/sections.

A package brings sections by the entry-point group `hyenarec_bench.sections`, each entry naming such a folder, or a
single module with its .typ beside it. sections/_template says what is in one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from harness.analysis.results import Analysis
from harness.analysis.ruling import find_rule
from harness.doors import Door
from harness.errors import UserError
from harness.report.theme import save, themed
from harness.study.claim import RULES

# The pages of questions, in their order. Before them stands page one, after them the appendix.
QUESTIONS = {
    "faster": "Is it faster?",
    "growth": "How does the cost grow?",
    "memory": "How much memory does it take?",
    "accuracy": "Does it cost accuracy?",
    "why": "Why?",
    "sure": "How sure are we?",
}
Page = Literal["one", "faster", "growth", "memory", "accuracy", "why", "sure", "appendix"]

SECTIONS = Door("section", "harness.report.sections", "SECTION")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section.

    Attributes:
        order: Sections stand in the order of this number, on the pages and in the appendix.
        page: Where the words of `<name>.typ` stand. Those of `<name>-tables.typ`, where there are any, stand in the
            appendix.
        lacks: What the page says where none of the figures could be drawn.
        figures: Name of a figure → function that draws it, or returns None where the records hold nothing for it.
        see: Name of a figure → function that says in one sentence what to see in it, with the numbers; "" for nothing.
        data: Gives what the .typ reads, besides the analysis, as JSON.
    """

    order: float
    page: Page = "appendix"
    lacks: str = ""
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


def words(name: str) -> list[Path]:
    """The .typ files of a section: `<name>.typ`, named like its module, in the folder of the module's file.

    Beside it may lie `<name>-tables.typ`, for the appendix.

    Raises:
        UserError: The first is missing.
    """
    module = SECTIONS.module(name)
    spec = importlib.util.find_spec(module)
    path = Path(str(spec.origin if spec else module)).with_name(f"{module.rpartition('.')[2]}.typ")
    if not path.is_file():
        raise UserError(f"section '{name}' has no {path}; write its words there")
    tables = path.with_stem(f"{path.stem}-tables")
    return [path, tables] if tables.is_file() else [path]


def layout(analysis: Analysis, drawn: AbstractSet[str]) -> dict[str, Any]:
    """Which sections stand on which page.

    A question has a page of its own where a figure of it could be drawn; what the others lack is said on the page that
    tells how sure we are.

    Args:
        analysis: What the report says.
        drawn: Names of the figures that exist.

    Returns:
        `one`, `pages` and `appendix` with names of .typ files, and `unanswered` with questions and sentences.
    """
    pages, unanswered = [], []
    for page, title in QUESTIONS.items():
        own = {name: section for name, section in sections().items() if section.page == page}
        shown = [name for name, section in own.items() if not section.figures or not drawn.isdisjoint(section.figures)]
        lacks = [section.lacks for name, section in own.items() if name not in shown and section.lacks]
        if shown:
            claims = [claim.id for claim in analysis.claims if _question(claim.rule) == page]
            pages.append({"title": title, "sections": shown, "lacks": lacks, "claims": claims})
        else:
            unanswered.append({"title": title, "lacks": lacks})
    appendix = []
    for name, section in sections().items():
        has_tables = len(words(name)) > 1
        appendix += [name] * (section.page == "appendix") + [f"{name}-tables"] * has_tables
    return {
        "one": [name for name, section in sections().items() if section.page == "one"],
        "pages": pages,
        "unanswered": unanswered,
        "appendix": appendix,
    }


def _question(rule: str) -> str:
    """The page that claims of a rule bear on; an analysis may name a rule that is not installed here."""
    return find_rule(rule).question if rule in RULES.modules() else ""


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
