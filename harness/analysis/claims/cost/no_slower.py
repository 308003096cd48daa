"""The challenger is no slower than an opponent, at no length."""

from __future__ import annotations

import math

from harness.analysis.estimates import speedup
from harness.analysis.estimates.accuracy import p_values
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    after_holm,
    brackets,
    conjunction,
    control_gaps,
    gives_way,
    margin,
    missing,
    processes,
    ruled,
    settled,
    span,
    unpaired,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """At every length the challenger takes at most 1 + margin times as long as the opponent, per opponent.

    That is a speed-up of at least 1 / (1 + margin). Supported when the simultaneous bounds of all lengths lie there,
    refuted when the interval of one lies wholly below, overall after Holm's correction for all lengths and opponents. A
    margin is needed, since no measurement shows that two times are the same. Where the A/A control leaves 1 the bounds
    give way by the noise floor. Where the challenger ran out of memory or time it was no faster, and nothing is
    supported; where the opponent did, the length speaks for the challenger and is not counted.
    """
    least = 1 / (1 + margin(card))
    variants, below = [], []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        points = evidence.points(label, sweep)
        gaps = [*evidence.gaps(label, sweep), *evidence.gaps(evidence.challenger, sweep)]
        if not points:
            variants.append(missing(card, name, gaps or [f"paired speed cells of {label} in {sweep}"]))
            continue
        estimates, bias = speedup.estimates(points), evidence.bias(sweep)
        lower = [0.0 if p.simultaneous is None else p.simultaneous[0] / bias for p in points]
        upper = [math.inf if p.simultaneous is None else p.simultaneous[1] * bias for p in points]
        lacks = list(dict.fromkeys([*gaps, *control_gaps(evidence, sweep)]))
        below += [p_values(e, math.log(least / bias))[1] for e in estimates]
        verdict: Verdict = "inconclusive"
        place = min(range(len(points)), key=lambda i: (lower[i], points[i].speedup))
        if min(upper) < least and evidence.floor(sweep) is not None:
            verdict, place = "refuted", upper.index(min(upper))
        elif min(lower) >= least:
            verdict = "supported"
        worst, size = points[place], None
        if verdict == "inconclusive" and lower[place] < least:
            size = processes(estimates[place], abs(estimates[place].mean - math.log(least)), len(points))
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, lacks),
                statistic=worst.speedup,
                interval=worst.simultaneous,
                measured=f"{worst.speedup:.3g}×{brackets(worst.simultaneous)} over {label} at {worst.length:,} events, "
                f"{evidence.batch(label, sweep, worst.length)}",
                allowed=f"≥ {least:.3g}× at every length",
                window=(points[0].length, points[-1].length),
                evidence=evidence.paths([label, evidence.challenger], sweep),
                detail=f"Least speed-up over {label} of {len(points)} lengths: {worst.speedup:.3g}× at "
                f"{worst.length:,} (simultaneous {span(worst.simultaneous, '×')}{unpaired(points)}).{gives_way(bias)}"
                f"{evidence.ran([label, evidence.challenger], sweep)}{evidence.bounded(label, sweep)}",
                missing=lacks,
                size=size,
                obstacles=evidence.obstacles([label, evidence.challenger], sweep),
            )
        )
    overall = conjunction(card, variants, "paired speed cells of an opponent")
    return after_holm(overall, below, "lengths and opponents"), variants


RULE = Rule(
    decide,
    statistic="smallest paired speed-up over the lengths; per opponent",
    records="paired speed cells of the opponents",
    question="faster",
)
