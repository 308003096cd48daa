"""The challenger ranks better than every baseline, trained or counted."""

from __future__ import annotations

from harness.analysis.claims._ranking import over_labels
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling
from harness.study.claim import Card

# Baselines that the sentence of the claim `accuracy` names.
_FAMILIES = ("attention", "recurrent")


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner ranks better than every baseline, per data set and over all.

    Baselines are the trained models and the untrained references; a trained one below the best reference is no
    opponent. Supported when every single comparison, at the same length and on the same split, has its whole
    interval above the threshold (intersection-union, no correction); refuted when a comparison lies
    below after Holm's correction. Overall the same over all comparisons of all data sets. Support asks for three
    seeds, a data set that is not built in, an attention and a recurrent baseline on each, as the sentence names
    both, and that no seed of the partner's own collapsed. One seed decides nothing.
    """
    own_name = evidence.model_name(evidence.challenger)
    baselines = [label for label in evidence.folder.labels() if evidence.model_name(label) != own_name]
    # Counting alone is no baseline that the sentence names.
    if all(_reference(evidence, label) for label in baselines):
        baselines = []
    nothing = "training cells of a baseline"
    return over_labels(card, evidence, baselines, by_dataset=True, nothing=nothing, families=_FAMILIES, strong=True)


def _reference(evidence: Evidence, label: str) -> bool:
    own = [c for c in evidence.folder.manifest.cells if c.label == label and c.kind == "training"]
    return all(c.spec.length is None for c in own)


RULE = Rule(
    decide,
    statistic="difference in test NDCG@10 to every baseline and untrained reference; per data set and over all",
    records="training cells of all models on real data, same split, three seeds, an attention and a recurrent baseline "
    "above the best untrained reference among them",
    question="accuracy",
)
