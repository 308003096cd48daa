"""The paired speed-up over the opponents reaches a factor somewhere."""

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
    missing,
    positive_threshold,
    processes,
    ruled,
    span,
    unpaired,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The paired speed-up over attention reaches the threshold somewhere, per kernel.

    Supported when the largest simultaneous lower bound over the lengths reaches the threshold and the
    speed-up is above the A/A noise floor; refuted, within the measured lengths, when all upper bounds
    lie below and every length of the study was measured: where attention ran out of memory or time
    the speed-up may be largest. Bounds hold for all lengths together. Where the A/A control leaves 1, so that one
    side is slower whatever runs there, they give way by the noise floor.

    A speed-up over `math` is another claim than one over `flash`: each kernel has its verdict, and the
    overall card, "than attention", holds only if it holds over every kernel measured and is refuted
    by any, after Holm's correction for their number.
    """
    limit = positive_threshold(card)
    variants, below = [], []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        points, gaps = evidence.points(label, sweep), evidence.gaps(label, sweep)
        if not points:
            variants.append(missing(card, name, gaps or [f"paired speed cells of {label} in {sweep}"]))
            continue
        estimates = speedup.estimates(points)
        bias = evidence.bias(sweep)
        lower = [None if p.simultaneous is None else p.simultaneous[0] / bias for p in points]
        upper = [None if p.simultaneous is None else p.simultaneous[1] * bias for p in points]
        place = max(range(len(points)), key=lambda i: (lower[i] or 0.0, points[i].speedup))
        best, bound, floor = points[place], lower[place], evidence.floor(sweep)
        lacks = [*gaps, *control_gaps(evidence, sweep)]
        all_below = all(u is not None and u < limit for u in upper)
        below.append(max(p_values(e, math.log(limit / bias))[1] for e in estimates))
        verdict: Verdict = "inconclusive"
        if bound is not None and bound >= limit and floor is not None and best.speedup > floor:
            verdict = "supported"
        elif all_below and not gaps and not evidence.bounded(label, sweep) and floor is not None:
            verdict = "refuted"
        size = None
        # Where only a length that could not be measured keeps it open, no number of processes decides.
        if verdict == "inconclusive" and floor is not None and not all_below:
            size = processes(estimates[place], abs(estimates[place].mean - math.log(limit)), len(points))
        cross = next((c.sentence for c in evidence.crossovers if (c.label, c.sweep) == (label, sweep)), "")
        within = " within the measured lengths" if verdict == "refuted" else ""
        variants.append(
            ruled(
                card,
                name,
                verdict,
                statistic=best.speedup,
                interval=best.simultaneous,
                measured=f"{best.speedup:.3g}×{brackets(best.simultaneous)} over {label} at {best.length:,} events, "
                f"{evidence.batch(label, sweep, best.length)}",
                allowed=f"≥ {limit:.3g}×",
                window=(points[0].length, points[-1].length),
                evidence=evidence.paths([label, evidence.challenger], sweep),
                detail=f"Largest speed-up over {label}{within}: {best.speedup:.3g}× at length {best.length:,} "
                f"(simultaneous {span(best.simultaneous, '×')}{unpaired(points)}). {cross}"
                f"{gives_way(bias)}{evidence.ran([label, evidence.challenger], sweep)}{evidence.bounded(label, sweep)}",
                missing=lacks,
                size=size,
                obstacles=evidence.obstacles([label, evidence.challenger], sweep),
            )
        )
    overall = conjunction(card, variants, "paired speed cells of an attention model at constant tokens")
    return after_holm(overall, below, "opponents"), variants


RULE = Rule(
    decide,
    statistic="largest simultaneous lower bound of the paired speed-up over the lengths; per opponent",
    records="paired speed cells of the opponents at constant tokens",
    marks_speedup=True,
    question="faster",
)
