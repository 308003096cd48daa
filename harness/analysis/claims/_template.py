"""A rule to copy: after `cp _template.py my_rule.py` cards say `rule: my-rule`.

This file is not a rule, since its name begins with `_`. It would decide whether
the challenger is at least `threshold` times as fast as each opponent at its longest length.
"""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling, brackets, conjunction, missing, ruled, span, threshold
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """Supported when the whole interval reaches the threshold, refuted when the whole interval lies below."""
    # Without one on the card its verdict is `missing`, and says why. `positive_threshold(card)` is one of a ratio,
    # `margin(card)` a margin, from 0 to below 1.
    limit = threshold(card)
    variants = []
    # One verdict an opponent, and a sweep if it is timed in several; see `Evidence` for all there is to read.
    for name, label, sweep in evidence.named_arms(evidence.opponents(card)):
        points, gaps = evidence.points(label, sweep), evidence.gaps(label, sweep)
        if not points:
            variants.append(missing(card, name, gaps or [f"paired speed cells of {label} in {sweep}"]))
            continue
        # `interval` holds for one length alone; a rule about several goes by `simultaneous`, which holds for all.
        last = points[-1]
        verdict: Verdict = "inconclusive"
        # No interval (fewer than three processes) or a missing cell: inconclusive at most.
        if last.interval is not None and not gaps:
            verdict = "supported" if last.interval[0] >= limit else "refuted" if last.interval[1] < limit else verdict
        variants.append(
            ruled(
                card,
                name,
                verdict,
                statistic=last.speedup,
                interval=last.interval,
                # What the tables print, with units.
                measured=f"{last.speedup:.3g}×{brackets(last.interval)} over {label} at {last.length:,} events",
                allowed=f"≥ {limit:.3g}×",
                window=(last.length, last.length),
                evidence=evidence.paths([label, evidence.challenger], sweep),
                detail=f"Speed-up over {label} at {last.length:,}: {last.speedup:.3g}× ({span(last.interval, '×')}).",
                missing=gaps,
            )
        )
    # Refuted if any is, supported if all are; the numbers of the one that decides.
    return conjunction(card, variants, "paired speed cells of an opponent"), variants


RULE = Rule(
    decide,
    statistic="speed-up at the longest length; per opponent",
    records="paired speed cells of the opponents",
    question="faster",
)
