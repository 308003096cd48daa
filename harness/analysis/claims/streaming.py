"""One more event costs time that does not grow with the history."""

from __future__ import annotations

import math

from harness.analysis.estimates import statistics, streams
from harness.analysis.estimates.timing import STREAM
from harness.analysis.evidence import Evidence
from harness.analysis.ruling import (
    Rule,
    Ruling,
    brackets,
    missing,
    positive_threshold,
    processes,
    ruled,
    settled,
    single,
    span,
)
from harness.study.claim import Card, Verdict


def decide(card: Card, evidence: Evidence) -> Ruling:
    """The streamed step's time does not grow with the history.

    The statistic is its time in the second half of the longest over that in the second half of the
    shortest history, of the longest model, both timed alternately in one process. Supported when the whole
    interval lies at or below the threshold, refuted when it lies above.
    """
    limit = positive_threshold(card)
    partner = evidence.challenger
    variants = []
    sweeps = dict.fromkeys(g.sweep for g in evidence.groups if (g.label, g.phase) == (partner, STREAM))
    for sweep in sweeps:
        name = partner if len(sweeps) == 1 else f"{partner} ({sweep})"
        rows = streams.longest(evidence.streams, partner, sweep)
        if not rows:
            variants.append(missing(card, name, [f"streamed steps of {partner} after two histories or more"]))
            continue
        last, gaps = rows[-1], evidence.gaps(partner, sweep)
        found = statistics.estimate([math.log(r) for r in last.process_ratios])
        interval = last.ratio_interval
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[1] <= limit:
            verdict = "supported"
        elif interval is not None and interval[0] > limit:
            verdict = "refuted"
        size = processes(found, abs(math.log(limit) - found.mean)) if verdict == "inconclusive" else None
        used = [g for g in evidence.groups if (g.label, g.sweep, g.phase) == (partner, sweep, STREAM)]
        variants.append(
            ruled(
                card,
                name,
                settled(verdict, gaps),
                statistic=last.ratio,
                interval=interval,
                measured=f"time an event × {last.ratio:.3g}{brackets(interval)} "
                f"from {last.shortest:,} to {last.history:,} events of history",
                allowed=f"≤ × {limit:.3g}",
                window=(last.shortest, last.history),
                evidence=[path for g in used if g.length == last.length for path in g.paths],
                detail=f"One more event costs {last.ratio:.3g} times as much within a history of {last.history:,} "
                f"events as within one of {last.shortest:,} ({span(interval)}): {1e6 * last.event_seconds:.3g} and "
                f"{1e6 * rows[0].event_seconds:.3g} µs, the longer timed over {streams.events(used, last):,} events "
                f"of its second half, for streams no longer than the kernel's window."
                f"{evidence.ran([partner], sweep)}{evidence.bounded(partner, sweep)}",
                missing=gaps,
                size=size,
                obstacles=evidence.obstacles([partner], sweep),
            )
        )
    return single(card, variants, f"streamed steps of {partner} in speed cells")


RULE = Rule(
    decide,
    statistic="ratio of the streamed step's time within the longest to that within the shortest history",
    records="streamed-step phases of speed cells",
    question="growth",
)
