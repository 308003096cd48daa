"""A step of the challenger takes less energy."""

from __future__ import annotations

import math

from harness.analysis.estimates import statistics
from harness.analysis.estimates.timing import energy_estimates
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    brackets,
    conjunction,
    exceeds,
    missing,
    positive_threshold,
    processes,
    ruled,
    settled,
    span,
)
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """Energy of an opponent's step over that of the challenger's, at the longest length where both were read.

    Supported when the whole interval over the processes lies above the threshold, refuted when it lies below; per
    opponent. Energy is that of the whole board, idle power included, from the driver's counter (NVML): there is
    none on a CPU, so nothing to rule on.
    """
    limit = positive_threshold(card)
    partner = evidence.challenger
    variants = []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        own, other = (energy_estimates(evidence.groups, who, sweep) for who in (partner, label))
        common = sorted(set(own) & set(other))
        gaps = [*evidence.gaps(label, sweep), *evidence.gaps(partner, sweep)]
        if not common:
            need = f"energy of {partner} and {label} in {sweep}, from the counter of an NVIDIA GPU (NVML)"
            variants.append(missing(card, name, [need, *gaps]))
            continue
        length = common[-1]
        found = statistics.combine([1.0, -1.0], [other[length], own[length]])
        interval, factor = statistics.exponential(found.interval()), math.exp(found.mean)
        verdict = exceeds(interval, limit)
        joules = [math.exp(side[length].mean) for side in (own, other)]
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=factor,
                interval=interval,
                measured=f"{label} takes {factor:.3g}×{brackets(interval)} the energy a step at {length:,} events, "
                f"{evidence.batch(label, sweep, length)}",
                allowed=f"> {limit:.3g}×",
                window=(length, length),
                evidence=evidence.paths([label, partner], sweep),
                detail=f"At {length:,} events a step of {partner} takes {joules[0]:.3g} J, one of {label} "
                f"{joules[1]:.3g} J: {factor:.3g} times as much ({span(interval, '×')})."
                f"{evidence.ran([label, partner], sweep)}",
                missing=gaps,
                size=processes(found, abs(found.mean - math.log(limit))) if verdict == "inconclusive" else None,
                obstacles=evidence.obstacles([label, partner], sweep),
            )
        )
    return conjunction(card, variants, "speed cells of an attention model with an energy counter"), variants


RULE = Rule(
    decide,
    statistic="energy a step of the opponent over the challenger's at the longest length with both; per opponent",
    records="speed cells of the challenger and the opponents on an NVIDIA GPU whose driver counts energy",
    question="memory",
)
