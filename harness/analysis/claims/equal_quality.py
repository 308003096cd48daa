"""The challenger trains no longer than an opponent until it ranks as well."""

from __future__ import annotations

import math

from harness.analysis.claims._ranking import absent, built_in, too_weak, weak_labels
from harness.analysis.estimates import accuracy, circumstances, statistics
from harness.analysis.estimates.accuracy import SEEDS_TO_SUPPORT
from harness.analysis.estimates.quality import equal_quality
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    after_holm,
    brackets,
    conjunction,
    exceeds,
    missing,
    positive_threshold,
    ruled,
    settled,
    span,
)
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """Time of an opponent to its final validation NDCG@10 over the challenger's to the same, per data set and length.

    A time is that of training alone, without evaluation. Supported when the whole interval over the seeds lies above
    the threshold; refuted when it lies below after Holm's correction over all comparisons. Where the challenger never
    got there, all its training counts as the time, which speaks for it: so the claim may be refuted, not
    supported. Support asks for three seeds, a data set that is not built in, and an opponent that does
    not rank below the best untrained reference.
    """
    limit = positive_threshold(card)
    variants, below = [], []
    wanted, weak = evidence.opponents(card), weak_labels(evidence)
    pairs = [
        (mine, other)
        for mine, other in accuracy.comparable(evidence.runs, evidence.challenger)
        if other.label in wanted and not other.reference
    ]
    labels = [other.label for _, other in pairs]
    for mine, other in pairs:
        # A label that is compared once needs no more of a name.
        where = f"{other.label} on {other.dataset} at {other.length:,}"
        name = other.label if labels.count(other.label) == 1 else where
        found = equal_quality(mine, other)
        if found is None:
            variants.append(
                missing(card, name, [f"timed training cells of {mine.label} and {where} with a common seed"])
            )
            continue
        lacks = absent(evidence, [other.label], [other.dataset])
        lacks += built_in(evidence, [other.dataset])
        if other.key in weak:
            lacks.append(too_weak(other.label, other.dataset))
        late = [seed for seed, reached in zip(found.seeds, found.reached, strict=True) if not reached]
        if late:
            lacks.append(f"a validation NDCG@10 as high as that of {where}, with seed {', '.join(map(str, late))}")
        estimate = found.estimate
        interval = statistics.exponential(estimate.interval())
        below.append(accuracy.p_values(estimate, math.log(limit))[1])
        verdict = exceeds(interval, limit)
        size = None
        if verdict == "inconclusive" and not late:
            size = SEEDS_TO_SUPPORT
            if estimate.error is not None:
                size = statistics.sample_size(estimate, abs(estimate.mean - math.log(limit)))
        factor, bound = math.exp(estimate.mean), "at most " if late else ""
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, lacks),
                statistic=factor,
                interval=interval,
                measured=f"{bound}{factor:.3g}×{brackets(interval)} as fast as {other.label} to its final validation "
                f"NDCG@10 on {other.dataset}",
                allowed=f"> {limit:.3g}×",
                window=None if other.length is None else (other.length, other.length),
                evidence=[*mine.paths, *other.paths],
                detail=f"Until the NDCG@10 of {where} ({sum(found.targets) / len(found.targets):.3g} on average) "
                f"{mine.label} trains {sum(found.seconds) / len(found.seconds):,.3g} s, {other.label} "
                f"{sum(found.other_seconds) / len(found.other_seconds):,.3g} s: {bound}{factor:.3g} times as fast "
                f"({span(interval, '×')}; {len(found.seeds)} seed{'' if len(found.seeds) == 1 else 's'}).",
                missing=lacks,
                size=size,
                unit="seeds",
                obstacles=circumstances.mixed([*mine.records, *other.records]),
            )
        )
    overall = conjunction(card, variants, "timed training cells of the challenger and an opponent at the same length")
    return after_holm(overall, below, "comparisons"), variants


RULE = Rule(
    decide,
    statistic="training time of an opponent to its final validation NDCG@10 over the challenger's to the same; per "
    "opponent, data set and length",
    records="training cells of the challenger and the opponents that ran alone, with the same seeds, lengths and data",
    question="accuracy",
)
