"""Claims: published sentences that a study rules on. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from harness.study.find import resource
from harness.study.yaml_reading import Section, read_yaml

Verdict = Literal["supported", "refuted", "inconclusive", "missing"]


class Claim(Section, frozen=True):
    """A published sentence and the rule that decides it; fixed before measuring.

    Attributes:
        id: Short name.
        sentence: The claim as published.
        source: Where it was published.
        statistic: What is computed, in words.
        records: Which records it needs, in words.
        threshold: Value the statistic is held against; null where the claim needs none.
        margin: Tolerance or non-inferiority margin.
    """

    id: str
    sentence: str
    source: str
    statistic: str
    records: str
    threshold: float | None = None
    margin: float | None = None


def load_claims(path: Path | None = None) -> list[Claim]:
    """Read workflow/claims.yaml (or another file of the same form)."""
    claims: list[Claim] = read_yaml(path or resource("workflow/claims.yaml"), list[Claim])
    return claims
