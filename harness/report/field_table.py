"""Claims of papers side by side: as published, by the paper's own table, and here; plain or in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.published import Own, own_rulings
from harness.analysis.results import Analysis, ClaimResult, ClaimVerdict
from harness.errors import UserError
from harness.report.numbers import counted
from harness.report.verdict_table import WIDTH, markdown_row, marked

_INDENT = "    "


@dataclass(frozen=True)
class FieldRow:
    """One claim of a paper.

    Attributes:
        claim: The ruling here, with the words of its card.
        own: Rulings of the same rule over the paper's own published tables, if it has any.
    """

    claim: ClaimResult
    own: list[Own]


def field_rows(analyses: Sequence[Analysis]) -> list[FieldRow]:
    """The claims whose cards say where the published figure comes from and what differs here, in their order."""
    claims = [claim for analysis in analyses for claim in analysis.claims if claim.setting or claim.differs]
    own = own_rulings([claim.id for claim in claims])
    return [FieldRow(claim, own.get(claim.id, [])) for claim in claims]


def multiplicity(rows: Sequence[FieldRow]) -> str:
    """What ruling on many cards at once means, as a sentence."""
    count = len(rows)
    return (
        f"{counted(count, 'card is', 'cards are')} ruled on, each by a 95 % interval of its own: if none of them held, "
        f"{0.025 * count:.2g} at most would be expected to be supported by chance, and as many refuted if all held."
    )


def field_table(analyses: Sequence[Analysis]) -> str:
    """For the terminal, at most 100 columns wide; no newline at the end.

    Raises:
        UserError: No card says what differs here.
    """
    rows = _some(analyses)
    lines: list[str] = []
    for row in rows:
        claim = row.claim
        lines.append(f"{claim.id}: {claim.overall.verdict}")
        own = "; ".join(_own_words(one) for one in row.own) or "none is shipped"
        for head, words in (
            ("claim", f"{claim.sentence} {claim.source}."),
            ("published", claim.setting or "not stated"),
            ("own table", own),
            ("here", _here(claim.overall)),
            ("differs", claim.differs or "not stated"),
        ):
            first = f"{_INDENT}{head:<11}"
            lines += textwrap.wrap(words, WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(multiplicity(rows), WIDTH)])


def field_markdown(analyses: Sequence[Analysis]) -> str:
    """As a Markdown table, a row a claim, and a sentence on how many are ruled on; ends with a newline.

    Raises:
        UserError: No card says what differs here.
    """
    rows = _some(analyses)
    lines = ["| claim | as published | by its own table | here | what differs |", "|---|---|---|---|---|"]
    for row in rows:
        claim = row.claim
        cells = (
            f"{claim.sentence} {claim.source} (`{claim.id}`)",
            claim.setting or "-",
            "; ".join(f"{marked(one.overall)} {one.overall.measured} (`{one.table}`)" for one in row.own) or "-",
            f"{marked(claim.overall)} {claim.overall.measured}",
            claim.differs or "-",
        )
        lines.append(markdown_row(cells))
    return "\n".join([*lines, "", multiplicity(rows), ""])


def _some(analyses: Sequence[Analysis]) -> list[FieldRow]:
    if rows := field_rows(analyses):
        return rows
    names = ", ".join(analysis.study.name for analysis in analyses)
    raise UserError(
        f"no card of {names} has `setting` or `differs`; name records of study `field`, or write them into your cards"
    )


def _here(verdict: ClaimVerdict) -> str:
    return f"{verdict.measured or 'not measured'}; allowed {verdict.allowed or '-'}"


def _own_words(one: Own) -> str:
    return f"{one.overall.verdict}, {one.overall.measured} ({one.source})"
