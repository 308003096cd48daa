"""The speed-up over the opponents grows with length."""

from __future__ import annotations

import math

import msgspec

from harness.analysis.estimates import speedup, statistics
from harness.analysis.estimates.accuracy import p_values
from harness.analysis.estimates.statistics import ONE_SIDED
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    brackets,
    conjunction,
    control_gaps,
    missing,
    processes,
    ruled,
    settled,
    span,
    threshold,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The speed-up over attention grows with length, per kernel.

    The statistic is the slope of the log speed-up in log length. Supported when its whole interval
    lies above the threshold and the change over the window is above the A/A noise floor; refuted when
    its whole interval lies at or below the threshold. Overall: every kernel, and refuted only where one
    is after Holm's correction for their number.
    """
    limit = threshold(card)
    variants, below = [], []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        points, gaps = evidence.points(label, sweep), evidence.gaps(label, sweep)
        found = speedup.trend(points) if len(points) >= 3 else None
        if found is None:
            variants.append(missing(card, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        trend, estimate = found
        below.append(p_values(estimate, limit)[1])
        floor, interval = evidence.floor(sweep), trend.interval
        change = abs(trend.slope) * math.log(trend.window[1] / trend.window[0])
        above_noise = floor is not None and change > math.log(floor)
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[0] > limit and above_noise:
            verdict = "supported"
        elif interval is not None and interval[1] <= limit and floor is not None:
            verdict = "refuted"
        size = None
        if verdict == "inconclusive" and (interval is None or interval[0] <= limit):
            size = processes(estimate, abs(trend.slope - limit))
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=trend.slope,
                interval=interval,
                measured=f"speed-up over {label} grows as length^{trend.slope:.3g}{brackets(interval)}",
                allowed=f"exponent > {limit:.3g}",
                window=trend.window,
                evidence=evidence.paths([label, evidence.challenger], sweep),
                detail=f"The speed-up over {label} goes as length to the power {trend.slope:.3g} ({span(interval)}), "
                f"from {points[0].speedup:.3g}× at {points[0].length:,} to {points[-1].speedup:.3g}× at "
                f"{points[-1].length:,}.{evidence.bounded(label, sweep)}",
                missing=[*gaps, *control_gaps(evidence, sweep)],
                size=size,
            )
        )
    overall = conjunction(card, variants, "paired speed cells of an attention model at constant tokens")
    if overall.verdict == "refuted" and min(statistics.holm(below)) >= ONE_SIDED:
        detail = f"{overall.detail} Among {len(below)} kernels one such is not enough (Holm's correction)."
        overall = msgspec.structs.replace(overall, verdict="inconclusive", detail=detail)
    return overall, variants


RULE = Rule(
    decide,
    statistic="slope of log speed-up in log length; per opponent",
    records="paired speed cells of the opponents at constant tokens",
)
