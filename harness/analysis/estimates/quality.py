"""Training time to equal quality: how long a model trains until it ranks as well as another does in the end."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.statistics import Estimate
from harness.records.schema import TrainingRecord


@dataclass(frozen=True)
class EqualQuality:
    """One model against another, seed by seed.

    Attributes:
        seeds: Seeds of both, timed alone.
        targets: Per seed the other's best validation NDCG@10, that of the weights it keeps.
        other_seconds: Per seed the other's training time until then, evaluation excluded.
        seconds: Per seed the training time until the target was first reached; where it never was, all of it.
        reached: Per seed whether it was.
    """

    seeds: tuple[int, ...]
    targets: tuple[float, ...]
    other_seconds: tuple[float, ...]
    seconds: tuple[float, ...]
    reached: tuple[bool, ...]

    @property
    def estimate(self) -> Estimate:
        """Log of the other's time over this one's, over seeds; too large where a target was not reached."""
        return statistics.estimate(np.log(np.array(self.other_seconds) / np.array(self.seconds)))


def curve(record: TrainingRecord) -> list[tuple[float, float]]:
    """(seconds of training so far, validation NDCG@10) at every evaluated epoch."""
    elapsed = itertools.accumulate(epoch.train_seconds for epoch in record.epochs)
    return [
        (seconds, epoch.validation_ndcg10)
        for seconds, epoch in zip(elapsed, record.epochs, strict=True)
        if epoch.validation_ndcg10 is not None and seconds > 0 and math.isfinite(seconds)
    ]


def equal_quality(mine: Runs, other: Runs) -> EqualQuality | None:
    """How long `mine` trains until it ranks as well as `other` does in the end; None without a common timed seed.

    Both times end with an evaluation, so neither is finer than the evaluation interval.
    """
    theirs = {r.seed: r for r in other.records}
    rows = []
    for record in mine.records:
        against = theirs.get(record.seed)
        if against is None or not (record.timed and against.timed):
            continue
        own, opponent = curve(record), curve(against)
        if not own or not opponent:
            continue
        target = max(value for _, value in opponent)
        theirs_at = next(seconds for seconds, value in opponent if value >= target)
        at = next((seconds for seconds, value in own if value >= target), None)
        rows.append((record.seed, target, theirs_at, own[-1][0] if at is None else at, at is not None))
    return EqualQuality(*zip(*rows, strict=True)) if rows else None
