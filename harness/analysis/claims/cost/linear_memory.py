"""The challenger's peak memory is linear in length."""

from __future__ import annotations

from harness.analysis.estimates import memory as memory_module
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling, brackets, missing, ruled, settled, single, span, threshold
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The timing partner's net peak at a constant batch is linear in length.

    The statistic is the exponent b of what grows, c + a·L^b, so that a constant hides no growth. Supported when its
    whole interval lies at or below the threshold, refuted when it lies above. Over four lengths or more; a length
    that ran out of memory keeps the claim from support.
    """
    limit = threshold(card)
    partner = evidence.challenger
    variants = []
    for name, label, sweep in evidence.named_arms([partner], constant="batch", measure="memory"):
        points = memory_module.series(evidence.memory, label, sweep)
        found, gaps = memory_module.growing(points), evidence.gaps(label, sweep, "memory")
        if found is None:
            least = memory_module.MINIMUM_LENGTHS
            have = f"{least} lengths with a memory pass of {label} in {sweep}, there are {len(points)}"
            variants.append(missing(card, name, [have, *gaps]))
            continue
        low, high = found.interval or (None, None)
        verdict: Verdict = "inconclusive"
        if high is not None and high <= limit:
            verdict = "supported"
        elif low is not None and low > limit:
            verdict = "refuted"
        wanted = {p.length for p in points}
        paths = [
            c.path for c, r in evidence.folder.speed() if (r.label, r.sweep) == (label, sweep) and r.length in wanted
        ]
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=found.exponent,
                interval=found.interval,
                measured=f"memory grows as length^{found.exponent:.3g}{brackets(found.interval)} "
                f"at a batch of {points[-1].batch:,}",
                allowed=f"exponent ≤ {limit:.3g}",
                window=(points[0].length, points[-1].length),
                evidence=paths,
                detail=f"What grows of the peak memory of {label}, less the peak at a tiny batch, goes as length to "
                f"the power {found.exponent:.3g} ({span(found.interval)}) over {len(points)} lengths."
                f"{evidence.bounded(label, sweep)}",
                missing=gaps,
                obstacles=evidence.obstacles([label], sweep, "memory"),
            )
        )
    return single(card, variants, f"memory passes of {partner} at a constant batch")


RULE = Rule(
    decide,
    statistic="exponent of what grows of the peak memory, less the peak at a tiny batch, in length",
    records="memory passes of the challenger at a constant batch, four lengths or more",
    question="memory",
)
