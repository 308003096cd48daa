"""The speed-up over the opponents grows with length."""

from __future__ import annotations

import math

from harness.analysis.estimates import speedup, statistics
from harness.analysis.estimates.accuracy import p_values
from harness.analysis.estimates.statistics import ONE_SIDED
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    after_holm,
    brackets,
    conjunction,
    control_gaps,
    missing,
    processes,
    ruled,
    settled,
    span,
    threshold,
    window,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The speed-up over attention grows with length, per kernel.

    The statistic is the slope of the log speed-up in log length, over all lengths and over the upper half of them:
    an advantage that rises and then falls has a slope above 0. Supported when the whole interval of both lies above
    the threshold and the change over the window is above the A/A noise floor; refuted when one of them lies
    wholly at or below the threshold, after Holm's correction for the two. Overall: every kernel, and
    refuted only where one is after Holm's correction for all slopes.
    """
    limit = threshold(card)
    variants, below = [], []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        points = evidence.points(label, sweep)
        gaps = [*evidence.gaps(label, sweep), *evidence.gaps(evidence.challenger, sweep)]
        whole = speedup.trend(points) if len(points) >= 3 else None
        upper = speedup.trend(points[len(points) // 2 :], points)
        if whole is None or upper is None:
            variants.append(missing(card, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        slopes = [whole, upper]
        own = [p_values(estimate, limit)[1] for _, estimate in slopes]
        below += own
        # The slope that speaks least for the card decides, and is shown.
        trend, estimate = min(slopes, key=lambda s: (s[0].interval or (s[0].slope,))[0])
        floor, interval = evidence.floor(sweep), trend.interval
        change = abs(whole[0].slope) * math.log(whole[0].window[1] / whole[0].window[0])
        above_noise = floor is not None and change > math.log(floor)
        verdict: Verdict = "inconclusive"
        if all(t.interval is not None and t.interval[0] > limit for t, _ in slopes) and above_noise:
            verdict = "supported"
        elif floor is not None and min(statistics.holm(own)) < ONE_SIDED:
            verdict = "refuted"
            trend, estimate = slopes[own.index(min(own))]
            interval = trend.interval
        size = None
        if verdict == "inconclusive" and (interval is None or interval[0] <= limit):
            size = processes(estimate, abs(trend.slope - limit))
        words = ", ".join(f"{t.slope:.3g} from {window(t.window)} ({span(t.interval)})" for t, _ in slopes)
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=trend.slope,
                interval=interval,
                measured=f"speed-up over {label} grows as length^{trend.slope:.3g}{brackets(interval)} "
                f"from {window(trend.window)} events",
                allowed=f"exponent > {limit:.3g}",
                window=(points[0].length, points[-1].length),
                evidence=evidence.paths([label, evidence.challenger], sweep),
                detail=f"The speed-up over {label} goes as length to the power {words}: {points[0].speedup:.3g}× at "
                f"{points[0].length:,} and {points[-1].speedup:.3g}× at {points[-1].length:,} events, "
                f"{evidence.batch(label, sweep, points[-1].length)}."
                f"{evidence.ran([label, evidence.challenger], sweep)}{evidence.bounded(label, sweep)}",
                missing=[*gaps, *control_gaps(evidence, sweep)],
                size=size,
                obstacles=evidence.obstacles([label, evidence.challenger], sweep),
            )
        )
    overall = conjunction(card, variants, "paired speed cells of an attention model at constant tokens")
    return after_holm(overall, below, "slopes"), variants


RULE = Rule(
    decide,
    statistic="slope of log speed-up in log length, over all lengths and their upper half; per opponent",
    records="paired speed cells of the opponents at constant tokens",
    question="faster",
)
