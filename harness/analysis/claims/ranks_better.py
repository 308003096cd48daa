"""The challenger ranks better than every trained baseline."""

from __future__ import annotations

from harness.analysis.claims._ranking import over_labels
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling
from harness.study.claim import Card

# Baselines that the sentence of the claim `accuracy` names.
_FAMILIES = ("attention", "recurrent")


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner ranks better than every trained baseline, per data set and over all.

    Supported when every single comparison, at the same length and on the same split, has its whole
    interval above the threshold (intersection-union, no correction); refuted when a comparison lies
    below after Holm's correction. Overall the same over all comparisons of all data sets. One seed
    decides nothing. Nothing is supported while a seed of the partner's own collapsed, nor on a data set
    without an attention and a recurrent baseline, as the sentence names both.
    """
    own_name = evidence.model_name(evidence.challenger)
    baselines = [
        label
        for label in evidence.folder.labels()
        if evidence.model_name(label) != own_name and not _reference(evidence, label)
    ]
    nothing = "training cells of a baseline"
    return over_labels(card, evidence, baselines, by_dataset=True, nothing=nothing, families=_FAMILIES)


def _reference(evidence: Evidence, label: str) -> bool:
    return any(
        c.label == label and c.kind == "training" and c.spec.length is None for c in evidence.folder.manifest.cells
    )


RULE = Rule(
    decide,
    statistic="difference in test NDCG@10 to every baseline; per data set and over all",
    records="training cells of all models, same split, an attention and a recurrent baseline among them",
)
