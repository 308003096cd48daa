"""The challenger's peak memory is smaller than an opponent's by a share."""

from __future__ import annotations

from harness.analysis.evidence import Evidence
from harness.analysis.rows import MemoryPoint
from harness.analysis.ruling import Rule, Ruling, brackets, conjunction, margin, missing, ruled, settled, threshold
from harness.study.claim import Card, Verdict

_SWEEP = "a sweep with a constant batch and `measure: [memory]`"


def decide(card: Card, evidence: Evidence) -> Ruling:
    """1 less the challenger's peak over the opponent's, at the longest length that has both, at a constant batch.

    A peak is that of a training process less what it held before the model was built: weights and optimiser count, as
    they do for who buys the memory. It is read once, since it hardly varies, so it has no interval: the card's margin
    is how far a repetition may lie from it, as a share. Supported when the saving reaches the threshold with both peaks
    off by the margin against the card, refuted when it misses it with both off in its favour.

    Per opponent, and on a GPU also by the device's own view: its allocator holds more than tensors take, and the two
    views of a published figure differ. Overall: every one of them.
    """
    limit, spread = threshold(card), margin(card)
    partner, largest = evidence.challenger, (1 + spread) / (1 - spread)
    variants = []
    for name, label, sweep in evidence.named_arms(evidence.opponents(card), "batch", "memory"):
        own, other = (_points(evidence, who, sweep) for who in (partner, label))
        gaps = [*evidence.gaps(partner, sweep, "memory"), *evidence.gaps(label, sweep, "memory")]
        common = sorted(set(own) & set(other))
        if not common:
            need = f"memory passes of {partner} and {label} at one length of {sweep}"
            variants.append(missing(card, name, [need + evidence.bounded(label, sweep), *gaps]))
            continue
        length = common[-1]
        mine, theirs = own[length], other[length]
        paths = [
            counted.path
            for counted, record in evidence.folder.speed()
            if record.label in (partner, label) and (record.sweep, record.length) == (sweep, length)
        ]
        views = [(name, mine.method, mine.peak_bytes, theirs.peak_bytes)]
        if mine.device_peak_bytes is not None and theirs.device_peak_bytes is not None:
            views.append((f"{name}, device", "the device's own view", mine.device_peak_bytes, theirs.device_peak_bytes))
        for variant, method, less, more in views:
            saving, ratio = 1 - less / more, less / more
            low, high = 1 - ratio * largest, 1 - ratio / largest
            verdict: Verdict = "supported" if low >= limit else "refuted" if high < limit else "inconclusive"
            variants.append(
                ruled(
                    card,
                    variant,
                    settled(verdict, gaps),
                    statistic=saving,
                    interval=None,
                    measured=f"{_less(saving)} memory{_span(saving, low, high)} than {label} at "
                    f"{length:,} events, batch {mine.batch:,}",
                    allowed=f"≥ {_share(limit)}, with peaks read once ± {_share(spread)}",
                    window=(length, length),
                    evidence=paths,
                    detail=f"At {length:,} events and a batch of {mine.batch:,} the peak of {partner} is "
                    f"{_size(less)}, of {label} {_size(more)} ({method}): {_less(saving)}. Of these "
                    f"{_size(mine.tiny_peak_bytes)} and {_size(theirs.tiny_peak_bytes)} are there on one short "
                    f"sequence too.{evidence.bounded(label, sweep)}",
                    missing=gaps,
                    obstacles=evidence.obstacles([partner, label], sweep, "memory"),
                )
            )
    return conjunction(card, variants, f"memory passes of the challenger and an opponent in {_SWEEP}"), variants


def _points(evidence: Evidence, label: str, sweep: str) -> dict[int, MemoryPoint]:
    return {p.length: p for p in evidence.memory if (p.label, p.sweep) == (label, sweep)}


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _less(saving: float) -> str:
    """`69 % less`, or `84 % more` where nothing is saved."""
    return f"{_share(abs(saving))} {'less' if saving >= 0 else 'more'}"


def _span(saving: float, low: float, high: float) -> str:
    """The interval, in the sense of `_less`."""
    if saving < 0:
        low, high = -high, -low
    return brackets((100 * low, 100 * high))


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


RULE = Rule(
    decide,
    statistic="1 less the challenger's peak memory over the opponent's at the longest length with both; per opponent",
    records=f"memory passes of the challenger and the opponents in {_SWEEP}",
    question="memory",
)
