"""What the rules about serving share: one more event of the challenger against what an opponent must do for it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.speedup import process_log_ratio
from harness.analysis.estimates.timing import STREAM, Group, step_seconds, stream_seconds
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
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
from harness.records.schema import SpeedRecord
from harness.study.claim import Card


def served(card: Card, evidence: Evidence, phase: Literal["forward", "stream"], words: str) -> Ruling:
    """Time of the opponent's `phase` over that of the challenger's streamed step, after as long a history.

    Both sides serve one user: a batch of one. They are timed in processes of their own, each beside the challenger as
    timing partner: times are taken over the partner's in the same process, so that a machine that is slower in one of
    them cancels. The statistic is taken at the longest length with both; per opponent. Supported when its whole
    interval lies above the threshold, refuted when it lies below.

    Args:
        card: The claim.
        evidence: The records.
        phase: What the opponent does for an event.
        words: The same for the reader.
    """
    limit, partner = positive_threshold(card), evidence.challenger
    beside = "forward" if phase == "forward" else "step"
    own = {(g.sweep, g.length): g for g in _of_one_user(evidence, partner, STREAM)}
    variants = []
    for label in evidence.opponents(card):
        others = {(g.sweep, g.length): g for g in _of_one_user(evidence, label, phase)}
        sweeps = [*evidence.sweeps(label, "tokens", "time"), *evidence.sweeps(label, "batch", "time")]
        gaps = [gap for sweep in sweeps for who in (label, partner) for gap in evidence.gaps(who, sweep)]
        common = sorted(set(own) & set(others), key=lambda place: place[1])
        found = None
        if common:
            sweep, length = common[-1]
            sides = own[sweep, length], others[sweep, length]
            found = [
                [v for r in sides[0].records if (v := _streamed(r, beside)) is not None],
                [v for r in sides[1].records if (v := _other(r, phase, beside)) is not None],
            ]
        if found is None or not all(found):
            need = (
                f"streamed steps of {partner} and the phase `{phase}` of {label}, of one user after as long a history"
            )
            variants.append(missing(card, label, [need, *gaps]))
            continue
        means = [statistics.related([values])[0] for values in found]
        ratio = statistics.combine([-1.0, 1.0], means)
        interval, factor = statistics.exponential(ratio.interval()), math.exp(ratio.mean)
        verdict = exceeds(interval, limit)
        seconds = [_seconds(sides[0], STREAM), _seconds(sides[1], phase)]
        variants.append(
            ruled(
                card,
                label,
                settled(verdict, gaps),
                statistic=factor,
                interval=interval,
                measured=f"{factor:.3g}×{brackets(interval)} the events a second of {label}, {words}, after "
                f"{length:,} events",
                allowed=f"> {limit:.3g}×",
                window=(length, length),
                evidence=[path for group in sides for path in group.paths],
                detail=f"After a history of {length:,} events one more takes {partner} {1e6 * seconds[0]:,.3g} µs, "
                f"{label} {1e6 * seconds[1]:,.3g} µs, {words}: {factor:.3g} times as long ({span(interval, '×')})."
                f"{evidence.ran([label, partner], sweep)}",
                missing=gaps,
                size=processes(ratio, abs(ratio.mean - math.log(limit))) if verdict == "inconclusive" else None,
                obstacles=evidence.obstacles([label, partner], sweep),
            )
        )
    return conjunction(card, variants, f"speed cells of one user of an opponent, {words}"), variants


def _of_one_user(evidence: Evidence, label: str, phase: str) -> list[Group]:
    return [g for g in evidence.groups if (g.label, g.phase, g.batch) == (label, phase, 1)]


def _streamed(record: SpeedRecord, beside: str) -> float | None:
    """Log time of a streamed step after the whole history over the partner's time for `beside`."""
    partner = step_seconds(record, "partner", beside)
    own = stream_seconds(record).get(record.length)
    # A mean: some blocks hold the work that falls due only now and then.
    return None if own is None or not partner.size else math.log(float(np.mean(own)) / float(np.median(partner)))


def _other(record: SpeedRecord, phase: str, beside: str) -> float | None:
    return process_log_ratio(record, phase) if phase != STREAM else _streamed(record, beside)


def _seconds(group: Group, phase: str) -> float:
    """Seconds an event, mean over the processes."""
    if phase != STREAM:
        return float(np.mean([np.median(step_seconds(r, "model", phase)) for r in group.records]))
    return float(np.mean([np.mean(stream_seconds(r)[r.length]) for r in group.records]))
