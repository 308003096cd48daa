"""A section of the report: copy this folder beside it under the name of your section, and name the .typ like it.

That is all: a section is found by its place. In a package of your own it is found by an entry point instead, with the
.typ shipped as package data (a section may also be a single module, `flags.py`, with flags.typ beside it):

    [project.entry-points."hyenarec_bench.sections"]
    flags = "my_package.flags"
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import seaborn as sns
from matplotlib.figure import Figure

from harness.analysis.results import Analysis
from harness.report.drawing import frame, look_of_hues, looks_of, panels, present
from harness.report.section import Section


def flags(analysis: Analysis) -> Figure | None:
    """Cells with a flag by model; None where the records hold nothing to draw, and the figure is left out.

    What an analysis holds: harness/analysis/results.py and rows.py.
    """
    flagged = frame([record for record in analysis.records if record.flags])
    if flagged.empty:
        return None
    # A label looks the same in all figures of a report.
    looks = looks_of(analysis)
    labels = present(looks, flagged["label"])
    figure, (axes,) = panels(1, 1.6)
    sns.countplot(flagged, y="label", order=labels, **look_of_hues(looks, labels, axes))
    # Axes name their quantity and its unit.
    axes.set_xlabel("cells with a flag (number)")
    axes.set_ylabel("model (label)")
    return figure


def data(analysis: Analysis) -> dict[str, Any]:
    """What the .typ reads as JSON, besides the whole analysis: sentences with numbers come ready from here."""
    counts = Counter(flag for record in analysis.records for flag in record.flags)
    sentences = [f"{count:,} cells say: {flag}." for flag, count in counts.most_common()]
    return {"sentences": sentences or ["No cell has a flag."]}


def see(analysis: Analysis) -> str:
    """What to see in the figure, one sentence with its numbers; "" for none."""
    counts = Counter(record.label for record in analysis.records if record.flags)
    return f"{counts.most_common(1)[0][0]} has most cells with a flag." if counts else ""


# Sections stand in the order of their numbers, from 10 (verdicts) to 130 (all cells): in the appendix, or on the `page`
# of a question, `Section(page="faster", lacks="What is said where no figure can be drawn.", …)`, with no heading in the
# .typ and with tables in flags-tables.typ. The .typ shows a figure by the name given here, which must differ from those
# of the other sections. Without figures or data, leave them out.
SECTION = Section(order=85, figures={"flags": flags}, see={"flags": see}, data=data)
