"""The challenger's peak memory is linear in length."""

from __future__ import annotations

from harness.analysis.estimates import memory as memory_module
from harness.analysis.estimates import statistics
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling, brackets, missing, ruled, settled, single, span, threshold
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner's net peak at a constant batch is linear in length.

    Supported when the whole interval of the exponent lies at or below the threshold and the longest
    length does not exceed the line a + b·L through the others by more than the margin: a constant hides
    growth from the exponent. Refuted when the interval lies above the threshold. Over four lengths or more.
    """
    limit = threshold(card)
    tolerance = memory_module.CHALLENGE_TOLERANCE if card.margin is None else card.margin
    partner = evidence.challenger
    variants = []
    for name, label, sweep in evidence.named_arms([partner], constant="batch", measure="memory"):
        points = memory_module.series(evidence.memory, label, sweep)
        found, gaps = memory_module.slope(points), evidence.gaps(label, sweep)
        if found is None:
            least = memory_module.MINIMUM_LENGTHS
            have = f"{least} lengths with a memory pass of {label} in {sweep}, there are {len(points)}"
            variants.append(missing(card, name, [have, *gaps]))
            continue
        interval = found.interval()
        bend = memory_module.challenge(points)
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[1] <= limit and bend <= 1 + tolerance:
            verdict = "supported"
        elif interval is not None and interval[0] > limit:
            verdict = "refuted"
        size = None
        if interval is not None and interval[0] <= limit < interval[1]:
            # The error is that of a line over lengths: so many of them, in the same window, would do.
            size = statistics.sample_size(found, abs(limit - found.mean))
        wanted = {p.length for p in points}
        paths = [
            c.path for c, r in evidence.folder.speed() if (r.label, r.sweep) == (label, sweep) and r.length in wanted
        ]
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=found.mean,
                interval=interval,
                measured=f"memory grows as length^{found.mean:.3g}{brackets(interval)}",
                allowed=f"exponent ≤ {limit:.3g}",
                window=(points[0].length, points[-1].length),
                evidence=paths,
                detail=f"Peak memory of {label} less the peak at a tiny batch goes as length to the power "
                f"{found.mean:.3g} ({span(interval)}) over {len(points)} lengths; at {points[-1].length:,} it is "
                f"{bend:.3g} times what a line through the shorter ones predicts, allowed {1 + tolerance:.3g}."
                f"{evidence.bounded(label, sweep)}",
                missing=gaps,
                size=size,
                unit="lengths",
            )
        )
    return single(card, variants, f"memory passes of {partner} at a constant batch")


RULE = Rule(
    decide,
    statistic="exponent of peak memory less the peak at a tiny batch, in length, and the line through all but "
    "the longest",
    records="memory passes of the challenger at a constant batch, four lengths or more",
)
