"""The cost per token of attention grows as length."""

from __future__ import annotations

from harness.analysis.estimates.growth import Growth
from harness.analysis.estimates.scaling import CHALLENGE_FACTOR, Series, growing, weighted
from harness.analysis.estimates.statistics import Estimate
from harness.analysis.evidence import Evidence
from harness.analysis.rows import Law
from harness.analysis.ruling import (
    Rule,
    Ruling,
    after_holm,
    brackets,
    challenge,
    challenge_words,
    conjunction,
    margin,
    missing,
    processes,
    ruled,
    settled,
    span,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The cost per token of attention grows as length, per kernel.

    The statistic is the exponent b of the part of the cost per token that grows, u + a·L^b, u of any sign. Supported
    when its whole interval lies within the margin of 1 and the linear law, fitted up to a quarter of the largest
    length, passes its challenge there; undecided is no support. Refuted when the whole interval lies farther
    from 1 than the margin, or the data single out the constant law. Overall: every kernel; where one refutes, after
    Holm's correction over all.
    """
    allowed = margin(card)
    variants, p_values = [], []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        law, gaps = evidence.law(label, sweep), evidence.gaps(label, sweep)
        own = evidence.series.get((label, sweep, evidence.phase))
        found = None if own is None else growing(own)
        if law is None or own is None or found is None:
            variants.append(missing(card, name, gaps or [f"four lengths of {label} in {sweep}"]))
            continue
        check, fitted = challenge(law, "linear"), weighted(own)[0].lengths
        low, high = found.interval or (None, None)
        verdict: Verdict = "inconclusive"
        within = low is not None and high is not None and 1 - allowed <= low and high <= 1 + allowed
        outside = (high is not None and high < 1 - allowed) or (low is not None and low > 1 + allowed)
        if within and check is not None and check.outcome == "passed":
            verdict = "supported"
        elif outside or law.chosen == "constant":
            verdict = "refuted"
        # What does not grow at all is no exponent off by chance.
        p_values.append(0.0 if law.chosen == "constant" else found.p_value(1 - allowed, 1 + allowed))
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=found.exponent,
                interval=found.interval,
                measured=f"cost per token grows as length^{found.exponent:.3g}{brackets(found.interval)}",
                allowed=f"exponent 1 ± {allowed:.3g}",
                window=(fitted[0], fitted[-1]),
                evidence=evidence.paths(evidence.beside(label, sweep), sweep),
                detail=f"What grows of the cost per token goes as length to the power {found.exponent:.3g} "
                f"({span(found.interval)}); {challenge_words(check)}.{evidence.ran([label], sweep)}"
                f"{evidence.bounded(label, sweep)}",
                missing=gaps,
                size=_size(found, own, allowed) if verdict == "inconclusive" and not within else None,
                obstacles=evidence.obstacles([label], sweep),
            )
        )
    overall = conjunction(card, variants, "speed cells of an attention model at constant tokens")
    return after_holm(overall, p_values, "kernels"), variants


def _size(found: Growth, series: Series, allowed: float) -> int | None:
    """Processes that would decide, should the exponent stay: its interval narrows as their root."""
    low, high = found.interval or (None, None)
    worst = min(series.logs, key=lambda e: e.freedom)
    if worst.error is None or low is None or high is None:
        return processes(Estimate(found.exponent, None, 0, worst.count), 0.0)
    error = (high - low) / 2 / worst.quantile()
    exponent = Estimate(found.exponent, error, worst.freedom, worst.count, borrowed=worst.borrowed)
    return processes(exponent, abs(abs(found.exponent - 1) - allowed))


def _tolerances(card: Card) -> dict[Law, float]:
    # An exponent off by the margin moves a prediction so far beyond the fitted lengths by that factor.
    return {} if card.margin is None else {"linear": CHALLENGE_FACTOR**card.margin - 1}


RULE = Rule(
    decide,
    statistic="exponent of the growing part of the cost per token, and the linear law's challenge; per opponent",
    records="speed cells of the opponents at constant tokens, four lengths or more",
    tolerances=_tolerances,
    question="growth",
)
