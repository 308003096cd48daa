"""What `verify --json` prints. Its schema is kept: a script may rely on it.

`schema` rises when a field goes or changes its meaning; fields may come without that. Ids and verdicts
are words, intervals `[lower, upper]` at 95 % with null for an open end, null for what was not measured.
"""

from __future__ import annotations

import msgspec

from harness.analysis.results import Analysis, ClaimVerdict, Completeness, OpenInterval, RefusedFile
from harness.analysis.rows import Row
from harness.study.claim import Verdict

VERDICTS_SCHEMA = 1


class ClaimEntry(Row, frozen=True):
    """One claim with its overall ruling.

    Attributes:
        id: Claim.
        rule: Rule that decided it.
        card: Digest of the card's fields that decide.
        challenger: Label that the sentence praises.
        variant: "", as this is the overall ruling; in `variants` the label or data set.
        verdict: `supported`, `refuted`, `inconclusive` or `missing`.
        statistic: The decisive number.
        interval: Its 95 % interval.
        threshold: What it is held against; `margin` the tolerance or non-inferiority margin.
        measured: The statistic with its interval and its unit, in words.
        allowed: What it is held against, in words.
        window: Shortest and longest length that the ruling covers.
        evidence: Paths of the records used, below the folder.
        detail: The reason, with the numbers.
        missing: What is missing, each a record path or a sentence.
        sample_size: When the interval is too wide to decide: how many `sample_unit` (`processes` or `seeds`)
            would decide; null where no number would.
        setting: Where and how the published figure was measured; `differs` what is otherwise here.
        variants: Rulings on the parts of the claim, with the same fields but sentence, source, setting and differs.
    """

    id: str
    rule: str
    card: str
    challenger: str
    sentence: str
    source: str
    setting: str | None
    differs: str | None
    variant: str
    verdict: Verdict
    statistic: float | None
    interval: OpenInterval | None
    threshold: float | None
    margin: float | None
    measured: str
    allowed: str
    window: tuple[int, int] | None
    evidence: list[str]
    detail: str
    missing: list[str]
    sample_size: int | None
    sample_unit: str
    variants: list[ClaimVerdict]


class Verdicts(Row, frozen=True):
    """All of it.

    Attributes:
        schema: Version of this schema.
        study: Name of the study.
        completeness: Number of cells by status.
        refused: Files that could not be counted, each with its reason.
        other_split: Records that compare with few others, each with its reason.
        stale: Paths of records from other sources than those here.
        threats: Threats to validity found in these records, a sentence each.
        claims: In the order of the study.
    """

    schema: int
    study: str
    completeness: Completeness
    refused: list[RefusedFile]
    other_split: list[RefusedFile]
    stale: list[str]
    threats: list[str]
    claims: list[ClaimEntry]


def verdicts(analysis: Analysis) -> Verdicts:
    """The verdicts of an analysis, as `verify --json` prints them."""
    return Verdicts(
        schema=VERDICTS_SCHEMA,
        study=analysis.study.name,
        completeness=analysis.completeness,
        refused=analysis.problems.refused,
        other_split=analysis.problems.other_split,
        stale=analysis.problems.stale,
        threats=analysis.problems.threats,
        claims=[
            ClaimEntry(
                rule=claim.rule,
                card=claim.card,
                challenger=claim.challenger,
                sentence=claim.sentence,
                source=claim.source,
                setting=claim.setting,
                differs=claim.differs,
                variants=claim.variants,
                **msgspec.structs.asdict(claim.overall),
            )
            for claim in analysis.claims
        ],
    )


def document(analysis: Analysis) -> str:
    """The verdicts as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(verdicts(analysis)), indent=2).decode()
