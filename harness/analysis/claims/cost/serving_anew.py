"""One more event costs the challenger less than an opponent that reads the whole history anew."""

from __future__ import annotations

from harness.analysis.claims.cost._serving import served
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """A forward pass of the opponent over the history, over a streamed step of the challenger; see `served`.

    That is what is published of incremental inference against models that have none. An opponent that streams too
    is held against with the rule `serving-event`.
    """
    return served(card, evidence, "forward", "which reads the history anew")


RULE = Rule(
    decide,
    statistic="time of the opponent's forward pass over that of the challenger's streamed step, one user; per opponent",
    records="speed cells with a batch of one and the phases `forward` and `stream`",
    question="faster",
)
