"""The challenger's cost per token does not rise with length."""

from __future__ import annotations

import math

from harness.analysis.estimates.scaling import rise
from harness.analysis.evidence import Evidence
from harness.analysis.rows import Law, ScalingLaw
from harness.analysis.ruling import (
    Rule,
    Ruling,
    brackets,
    challenge,
    challenge_words,
    grows,
    missing,
    not_contradicted,
    positive_threshold,
    processes,
    ruled,
    settled,
    single,
    span,
    window,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner's cost per token does not rise with length.

    Supported when over the upper 8× of lengths it rises by at most the threshold (whole interval), the constant
    law, fitted up to a quarter of the largest length and with the same tolerance, is not contradicted by the largest,
    and the data do not single out a law that grows. Refuted when the whole interval of the rise lies above the
    threshold, or where time-outs at a length prove as much.
    """
    limit = positive_threshold(card)
    partner = evidence.challenger
    variants = []
    for name, label, sweep in evidence.named_arms([partner]):
        law, series = evidence.law(label, sweep), evidence.series.get((label, sweep, evidence.phase))
        gaps = evidence.gaps(label, sweep)
        if law is None or series is None:
            variants.append(missing(card, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        risen = rise(series)
        check = challenge(law, "constant")
        bounds = law.rise_interval
        slower = evidence.slower_than(label, sweep, limit)
        verdict: Verdict = "inconclusive"
        size = None
        why = "The lengths do not span a factor of eight."
        if risen is not None:
            why = (
                f"From {window(law.rise_window)} events the cost per token changes by a factor of {law.rise:.3g} "
                f"({span(bounds)}), allowed {limit:.3g}; {challenge_words(check)}."
            )
        if (bounds is not None and bounds[0] > limit) or slower:
            verdict = "refuted"
        elif bounds is not None and bounds[1] <= limit and not_contradicted(check) and not grows(law):
            verdict = "supported"
        elif risen is not None and (bounds is None or bounds[1] > limit):
            size = processes(risen[0], abs(math.log(limit) - risen[0].mean))
        if grows(law):
            why += f" The data single out the {law.chosen} law, which grows."
        if slower:
            why += f" The time-outs at {', '.join(f'{n:,}' for n in slower)} prove a rise beyond that."
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=law.rise,
                interval=bounds,
                measured=""
                if law.rise is None
                else f"cost per token × {law.rise:.3g}{brackets(bounds)} from {window(law.rise_window)} events",
                allowed=f"≤ × {limit:.3g}",
                window=law.rise_window or (law.lengths[0], law.lengths[-1]),
                evidence=evidence.paths(evidence.beside(label, sweep), sweep),
                detail=why + _fixed_words(law) + evidence.ran([label], sweep) + evidence.bounded(label, sweep),
                missing=gaps,
                size=size,
                obstacles=evidence.obstacles([label], sweep),
            )
        )
    return single(card, variants, f"speed cells of {partner} at constant tokens")


def _fixed_words(law: ScalingLaw) -> str:
    """A clause on the fixed cost where the lengths tell it from the cost per token."""
    fit = next(f for f in law.fits if f.law == law.best)
    if fit.fixed_seconds is None or fit.fixed_interval is None or fit.fixed_interval[0] <= 0:
        return ""
    low, high = fit.fixed_interval
    return (
        f" {fit.fixed_seconds:.3g} s a step are fixed cost (95 % interval {low:.3g} to {high:.3g}), "
        f"{fit.fixed_seconds / fit.fitted_seconds[0]:.0%} of the step at {law.lengths[0]:,} and "
        f"{fit.fixed_seconds / fit.fitted_seconds[-1]:.0%} at {law.lengths[-1]:,}."
    )


def _tolerances(card: Card) -> dict[Law, float]:
    return {} if card.threshold is None else {"constant": card.threshold - 1}


RULE = Rule(
    decide,
    statistic="rise of the cost per token over the upper 8x of lengths, the constant law's challenge, and that no law "
    "that grows is singled out",
    records="speed cells of the challenger at constant tokens",
    tolerances=_tolerances,
    question="growth",
)
