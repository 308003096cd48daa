"""One more event costs the challenger less than an opponent, each from what it remembers."""

from __future__ import annotations

from harness.analysis.claims.cost._serving import served
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """A streamed step of the opponent over one of the challenger, decoding as some call it; see `served`.

    Attention streams with the keys and values of the history kept. A model that does not stream here is missing.
    """
    return served(card, evidence, "stream", "which goes on from what it remembers")


RULE = Rule(
    decide,
    statistic="time of the opponent's streamed step over that of the challenger's, one user; per opponent",
    records="speed cells with a batch of one and the phase `stream`",
    question="faster",
)
