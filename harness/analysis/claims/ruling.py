"""Claim → verdict. One rule per claim, by id; the rules are fixed, the numbers come from claims.yaml.

Supported, refuted or inconclusive where there is something to rule on, else missing. A refuted claim is
a result. Fewer than three processes, or one seed, is at most inconclusive; only peak
memory, which hardly varies between processes, is ruled on by the scatter about its line over lengths.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.analysis.claims import accuracy as claims_accuracy
from harness.analysis.claims import cost as claims_cost
from harness.analysis.claims.evidence import Findings
from harness.analysis.results import ClaimResult, ClaimVerdict
from harness.errors import unknown
from harness.study.claim import Claim

Rule = Callable[[Claim, Findings], tuple[ClaimVerdict, list[ClaimVerdict]]]

RULES: dict[str, Rule] = {
    "linear-time": claims_cost.linear_time,
    "quadratic-attention": claims_cost.quadratic_attention,
    "speedup-6x": claims_cost.speedup_6x,
    "long-sequences": claims_cost.long_sequences,
    "accuracy": claims_accuracy.ranks_better,
    "no-sacrifice": claims_accuracy.no_sacrifice,
    "linear-memory": claims_cost.linear_memory,
    "kernel": claims_accuracy.kernel,
    "streaming": claims_cost.streaming,
    # Of Hyena itself, for its published table (docs/published.md).
    "hyena-100x": claims_cost.speedup_6x,
}


def rule(claim: Claim, findings: Findings) -> ClaimResult:
    """Rule on one claim.

    Raises:
        UserError: There is no rule for the claim's id, or the claim lacks the number its rule needs.
    """
    if claim.id not in RULES:
        raise unknown("claim", claim.id, RULES, "A claim's id chooses its rule in harness/analysis/claims/ruling.py.")
    overall, variants = RULES[claim.id](claim, findings)
    return ClaimResult(
        id=claim.id,
        sentence=claim.sentence,
        source=claim.source,
        statistic=claim.statistic,
        records=claim.records,
        overall=overall,
        variants=variants,
    )
