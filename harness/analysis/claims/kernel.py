"""The challenger ranks better than its own model with other kernels."""

from __future__ import annotations

from harness.analysis.claims._ranking import over_labels
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner ranks better than its own model with every other kernel, by the same rule.

    The other reading of the Legendre kernel (`legendre-mlp`) counts as Legendre.
    """
    own_name = evidence.model_name(evidence.challenger)
    others = []
    for cell in evidence.folder.manifest.cells:
        options = cell.spec.model.options
        other = not str(options.get("kernel", "legendre")).startswith("legendre")
        if cell.kind == "training" and cell.spec.model.name == own_name and other and cell.label != evidence.challenger:
            others.append(cell.label)
    wanted = list(dict.fromkeys(others))
    nothing = f"training cells of {evidence.challenger} variants with other kernels"
    return over_labels(card, evidence, wanted, by_dataset=False, nothing=nothing)


RULE = Rule(
    decide,
    statistic="difference in test NDCG@10 to every other kernel",
    records="training cells of variants of the challenger's model with other kernels",
    question="why",
)
