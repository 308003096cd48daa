"""A run at published settings reaches the published ranking quality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.accuracy import SEEDS_TO_SUPPORT, Runs
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import Rule, Ruling, conjunction, margin, positive_threshold, ruled
from harness.metrics import SELECTION
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """Test NDCG@10 of the challenger over the published one, the card's threshold; per data set and length.

    Supported when the whole interval lies within the margin about 1, refuted when it lies wholly outside. Published
    figures come from the same users, so seeds alone are the sample; with one or two seeds it is inconclusive, and
    the row says on which side the mean lies.
    """
    published, allowed = positive_threshold(card), margin(card)
    band = (1 - allowed, 1 + allowed)
    found = [
        runs for runs in evidence.runs if runs.label == evidence.challenger and runs.records and runs.length is not None
    ]
    need = f"training cells of {evidence.challenger} at the published settings"
    variants = []
    for runs in found:
        values = _values(runs)
        share = statistics.estimate(np.array(values) / published, minimum=SEEDS_TO_SUPPORT)
        interval = share.interval()
        lacks = evidence.training_gaps(runs.label, runs.dataset)
        verdict: Verdict = "inconclusive"
        if interval is not None:
            if band[0] <= interval[0] and interval[1] <= band[1] and not lacks:
                verdict = "supported"
            elif interval[1] < band[0] or interval[0] > band[1]:
                verdict = "refuted"
        mean = sum(values) / len(values)
        inside = "within" if band[0] <= share.mean <= band[1] else "below" if share.mean < band[0] else "above"
        shown = "" if interval is None else f" [{100 * (interval[0] - 1):+.1f}, {100 * (interval[1] - 1):+.1f}]"
        variants.append(
            ruled(
                card,
                f"{runs.dataset} at {runs.length:,}",
                verdict,
                statistic=share.mean,
                interval=interval,
                measured=f"NDCG@10 {mean:.4f}, {100 * (share.mean - 1):+.1f} %{shown} from {published:.4g}",
                allowed=f"{published:.4g} ± {100 * allowed:g} %",
                window=None if runs.length is None else (runs.length, runs.length),
                evidence=list(runs.paths),
                detail=f"{runs.label} on {runs.dataset} at length {runs.length:,}: {mean:.4f} on average over "
                f"{len(values)} seed{'s' if len(values) > 1 else ''}, {inside} the {100 * allowed:g} % about "
                f"{published:.4g}.",
                missing=lacks,
                size=_size(share, len(values), band) if verdict == "inconclusive" else None,
                unit="seeds",
            )
        )
    return conjunction(card, variants, need), variants


def _values(runs: Runs) -> Sequence[float]:
    return [r.test.metrics[SELECTION] for r in runs.records if r.test is not None]


def _size(share: statistics.Estimate, seeds: int, band: tuple[float, float]) -> int | None:
    if seeds < SEEDS_TO_SUPPORT:
        return SEEDS_TO_SUPPORT
    return statistics.sample_size(share, min(math.fabs(share.mean - end) for end in band))


RULE = Rule(
    decide,
    statistic="test NDCG@10 over the published figure; per data set and length",
    records="training cells at the published settings, three seeds",
    question="accuracy",
)
