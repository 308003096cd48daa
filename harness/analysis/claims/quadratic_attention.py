"""The cost per token of attention grows as length."""

from __future__ import annotations

from harness.analysis.estimates.scaling import contrasts, processes_that_choose
from harness.analysis.evidence import Evidence
from harness.analysis.rows import Law
from harness.analysis.ruling import (
    Rule,
    Ruling,
    brackets,
    challenge,
    challenge_words,
    conjunction,
    margin,
    missing,
    not_contradicted,
    processes,
    ruled,
    settled,
    span,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The cost per token of attention grows as length, per kernel.

    Supported when the growth v of the law T·(u + v·L) has an interval above 0, the data single that law
    out, and its challenge, with the claim's margin, does not contradict it. Refuted when the data single
    out a law that grows more slowly and the challenge contradicts the linear one. Overall: every kernel.
    """
    margin(card)
    variants = []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        law, gaps = evidence.law(label, sweep), evidence.gaps(label, sweep)
        if law is None:
            variants.append(missing(card, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        fit = next(f for f in law.fits if f.law == "linear")
        check = challenge(law, "linear")
        growth = fit.growth_interval
        nanoseconds = None if growth is None else (1e9 * growth[0], 1e9 * growth[1])
        grows = fit.growth_interval is not None and fit.growth_interval[0] > 0
        verdict: Verdict = "inconclusive"
        # Growth alone is no n²: with noise of 15 % n log n seldom contradicts the linear law.
        if grows and not_contradicted(check) and law.chosen == "linear":
            verdict = "supported"
        elif law.chosen in ("constant", "log") and check is not None and check.outcome == "contradicted":
            verdict = "refuted"
        size, own = None, evidence.series[label, sweep, evidence.phase]
        if verdict == "inconclusive" and not grows:
            free = contrasts("linear", own)
            size = processes(free[-1], abs(free[-1].mean)) if free else None
        elif verdict == "inconclusive" and law.chosen is None:
            size = processes_that_choose(own)
        chosen = f"the data single out the {law.chosen} law" if law.chosen else "no single law is singled out"
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=fit.growth_seconds,
                interval=fit.growth_interval,
                measured=f"a token costs {1e9 * fit.growth_seconds:.3g} ns{brackets(nanoseconds)} more per event",
                allowed=f"> 0, law met within {margin(card):.0%}",
                window=(law.lengths[0], law.lengths[-1]),
                evidence=evidence.paths([label], sweep),
                detail=f"Growth of the cost per token {fit.growth_seconds:.3g} s per event of length "
                f"({span(fit.growth_interval)}); {challenge_words(check)}; {chosen}.{evidence.bounded(label, sweep)}",
                missing=gaps,
                size=size,
            )
        )
    return conjunction(card, variants, "speed cells of an attention model at constant tokens"), variants


def _tolerances(card: Card) -> dict[Law, float]:
    return {} if card.margin is None else {"linear": card.margin}


RULE = Rule(
    decide,
    statistic="growth term v of the linear cost-per-token law, its challenge, and that law singled out; per opponent",
    records="speed cells of the opponents at constant tokens",
    tolerances=_tolerances,
)
