"""Page one and the rulings behind it: every claim, its verdict, and what would decide it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.analysis.results import Analysis, ClaimResult, ClaimVerdict
from harness.report.numbers import counted, duration, storage
from harness.report.section import Section
from harness.report.sections.verdicts.figures import main, main_name, margins, see_main, see_margins
from harness.report.verdict_table import VERDICTS, doubts, verdict_words, what_would_decide

_MOST_MISSING = 3


def data(analysis: Analysis) -> dict[str, Any]:
    """Title, subtitle, the verdicts as rows of words, and how to reproduce them."""
    verdicts = [claim.overall.verdict for claim in analysis.claims]
    challengers = list(dict.fromkeys(claim.challenger for claim in analysis.claims)) or [analysis.study.timing_partner]
    return {
        "title": _title(challengers),
        "about": f"about {challengers[0]}" if len(challengers) < 2 else "about several models",
        "subtitle": [_origin(analysis), _completeness(analysis)],
        "tally": [(word, verdicts.count(word)) for word in VERDICTS if word in verdicts],
        "claims": [{"sentence": claim.sentence, **_row(claim.overall)} for claim in analysis.claims],
        "details": [_details(claim) for claim in analysis.claims],
        "missing": [(claim.id, _missing(claim.overall.missing)) for claim in analysis.claims if claim.overall.missing],
        "main": main_name(analysis),
        "machine": _machines(analysis),
        "doubts": doubts(analysis),
        "reading": _reading(analysis),
        "elapsed": duration(analysis.versions.elapsed_seconds) if analysis.versions.elapsed_seconds > 0 else "",
    }


def _title(challengers: Sequence[str]) -> str:
    if len(challengers) == 1:
        return f"Is {challengers[0]} as fast, as linear and as accurate as published?"
    return f"Do the published claims about {', '.join(challengers[:-1])} and {challengers[-1]} hold?"


def _row(verdict: ClaimVerdict) -> dict[str, str]:
    records = f"{len(verdict.evidence):,}"
    return {"id": verdict.id, **verdict_words(verdict), "decide": what_would_decide(verdict), "records": records}


def _details(claim: ClaimResult) -> dict[str, Any]:
    allowed = f"; allowed: {claim.overall.allowed}" if claim.overall.allowed else ""
    return {
        "id": claim.id,
        "rule": claim.statistic + allowed,
        "detail": verdict_words(claim.overall)["detail"],
        "variants": [_row(v) for v in claim.variants],
    }


def _missing(items: list[str]) -> str:
    more = len(items) - _MOST_MISSING
    return "; ".join(items[:_MOST_MISSING]) + (f"; and {more:,} more" if more > 0 else "") + "."


def _origin(analysis: Analysis) -> str:
    days = [moment[:10] for moment in (analysis.versions.started_first, analysis.versions.started_last) if moment]
    machines = dict.fromkeys(machine.name for machine in analysis.machines)
    return " · ".join([*machines, *([f"measured {' to '.join(dict.fromkeys(days))}"] if days else [])])


def _completeness(analysis: Analysis) -> str:
    found = analysis.completeness
    others = {
        "out of memory or time": found.censored,
        "diverged in training": found.diverged,
        "failed": found.failed,
        "missing": found.missing,
    }
    measured = f"{found.ok:,} of {counted(found.cells, 'cell', 'cells')} measured"
    return ", ".join([measured, *(f"{count:,} {words}" for words, count in others.items() if count)])


def _machines(analysis: Analysis) -> list[str]:
    """Each machine in a line."""
    return [
        ", ".join(
            [
                machine.cpu,
                f"{machine.cores_usable} of {counted(machine.cores, 'core', 'cores')}",
                storage(machine.memory_bytes),
                machine.accelerator or "no GPU",
                machine.system,
            ]
        )
        for machine in analysis.machines
    ]


def _reading(analysis: Analysis) -> str:
    """What a result here speaks about."""
    words = (
        "Every model is this project's own reading of its paper, trained and timed by one harness. Another "
        "implementation, or another machine, may come out otherwise."
    )
    if analysis.machines and not any(machine.accelerator for machine in analysis.machines):
        words += " No GPU was used: a claim about GPUs is not decided here."
    return words


SECTION = Section(
    order=10,
    page="one",
    figures={"main": main, "margins": margins},
    see={"main": see_main, "margins": see_margins},
    data=data,
)
