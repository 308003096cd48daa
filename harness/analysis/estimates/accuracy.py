"""Ranking quality: rows, and differences to the timing partner, over seeds and users.

An interval is two-way, seeds and users both drawn: another sample of users would move a result too,
however many seeds there are. With one seed it describes the users only and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from harness.analysis.estimates import statistics
from harness.analysis.estimates.statistics import Array, Estimate
from harness.analysis.load import Folder
from harness.analysis.results import (
    AccuracyDifference,
    AccuracyRow,
    Comparison,
    LearningPoint,
    Metric,
    TimeToQuality,
)
from harness.metrics import SELECTION, gains, names
from harness.records.schema import Ranking, TrainingRecord

SEEDS_FOR_T = 5
# Two seeds may be alike by chance; three is what support asks for.
SEEDS_TO_SUPPORT = 3
QUALITY = 0.95
COLLAPSED = "collapsed"


# Data set, split, label and length.
RunKey = tuple[str, str | None, str, int | None]


@dataclass(frozen=True)
class Runs:
    """The runs of one label on one data set, split and length; collapsed ones are set apart."""

    dataset: str
    split: str | None
    label: str
    length: int | None
    records: tuple[TrainingRecord, ...]
    paths: tuple[str, ...]
    collapsed: tuple[TrainingRecord, ...]

    @property
    def key(self) -> RunKey:
        """What the runs have in common."""
        return self.dataset, self.split, self.label, self.length

    @property
    def reference(self) -> bool:
        """Whether the label is untrained."""
        return self.length is None

    @property
    def seeds(self) -> list[int]:
        """Seeds that count."""
        return [r.seed for r in self.records]


def key(row: AccuracyRow | AccuracyDifference) -> RunKey:
    """The key of the runs that a row is about; of a difference, those of the label compared with."""
    return row.dataset, row.split_sha256, row.label, row.length


def runs(folder: Folder) -> list[Runs]:
    """All finished training records, grouped, in the order of data sets, labels and lengths."""
    found: dict[RunKey, list[tuple[str, TrainingRecord]]] = {}
    for counted, record in folder.training():
        if record.test is not None:
            key = (record.dataset, record.provenance.split_sha256, record.label, record.length)
            found.setdefault(key, []).append((counted.path, record))
    order = {label: place for place, label in enumerate(folder.labels())}
    sets = {name: place for place, name in enumerate(dict.fromkeys(key[0] for key in found))}
    result = []
    for key in sorted(found, key=lambda k: (sets[k[0]], k[1] or "", order[k[2]], k[3] or 0)):
        members = sorted(found[key], key=lambda m: m[1].seed)
        good = [(p, r) for p, r in members if not _collapsed(r)]
        result.append(
            Runs(
                *key,
                records=tuple(r for _, r in good),
                paths=tuple(p for p, _ in good),
                collapsed=tuple(r for _, r in members if _collapsed(r)),
            )
        )
    return result


def _collapsed(record: TrainingRecord) -> bool:
    return any(flag.startswith(COLLAPSED) for flag in record.flags)


# --- values per user -----------------------------------------------------------------------------


def per_user(records: Sequence[TrainingRecord], metric: str) -> Array | None:
    """`[seeds, users]` of a metric from the ranks; None where the ranks are missing or differ in number.

    Where users have several held-out events, the users are independent draws and the events are not. The metric is the
    mean m over events; a user's value is then m + (S − m n) U / N, for n of all N events with a sum S of gains and U
    users: its mean is m, its spread that of m as a ratio of sums over users (Cochran, Sampling Techniques, ch. 6).
    """
    rankings = [r.test for r in records if r.test is not None]
    ranks = [ranking.ranks for ranking in rankings]
    if not ranks or not ranks[0] or len({len(r) for r in ranks}) > 1:
        return None
    values = gains(metric, np.asarray(ranks, dtype=np.float64))
    if rankings[0].users is None:
        return values
    _, owners, counts = np.unique(rankings[0].users, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(owners, row) for row in values])
    means = values.mean(axis=1, keepdims=True)
    found: Array = means + (sums - means * counts) * (len(counts) / counts.sum())
    return found


def _num_users(ranking: Ranking | None) -> int:
    if ranking is None:
        return 0
    return len(ranking.ranks) if ranking.users is None else len(set(ranking.users))


def over_seeds_and_users(values: Array) -> tuple[Estimate, str]:
    """Mean of `[seeds, users]` and how its error came about.

    Variance of the seed means over the seeds plus variance of the user means over the users. What is
    particular to a seed and a user enters both, so the error is rather too large than too small. Degrees
    of freedom: 1/ν = Σ wᵢ/νᵢ with the parts' shares wᵢ of the variance; Satterthwaite's wᵢ² would cover
    88 % and 93 % at two and three seeds that spread more than the users. A bootstrap of a few seeds
    would be too short; users are so many that theirs is normal and needs no resampling.
    """
    seeds, users = values.shape
    mean = float(values.mean())
    of_users = float(values.mean(axis=0).std(ddof=1) / np.sqrt(users)) if users > 1 else None
    if seeds == 1:
        return Estimate(mean, of_users, users - 1, 1), "users only (one seed)"
    if of_users is None:
        return Estimate(mean, None, 0, seeds), "seeds and users"
    parts = [(float(values.mean(axis=1).var(ddof=1)) / seeds, seeds - 1), (of_users**2, users - 1)]
    total = sum(part for part, _ in parts)
    freedom = total / sum(part / own for part, own in parts) if total > 0 else seeds - 1
    return Estimate(mean, math.sqrt(total), freedom, seeds, of_users), "seeds and users"


def _without_users(per_seed: Array) -> tuple[Estimate, str]:
    if per_seed.size >= SEEDS_FOR_T:
        return statistics.estimate(per_seed), "t over seeds"
    return statistics.estimate(per_seed, minimum=SEEDS_FOR_T), "none (no ranks per user)"


# --- rows ----------------------------------------------------------------------------------------


def rows(found: Sequence[Runs], partner: str) -> list[AccuracyRow]:
    """One row per label, data set, split and length; a label whose runs all collapsed is kept, empty."""
    best: dict[tuple[str, str | None], float] = {}
    for run in found:
        if run.reference and run.records:
            key = (run.dataset, run.split)
            best[key] = max(best.get(key, 0.0), _mean(run.records, SELECTION))
    return [_row(run, partner, best.get((run.dataset, run.split))) for run in found]


def _mean(records: Sequence[TrainingRecord], metric: str) -> float:
    return float(np.mean([r.test.metrics[metric] for r in records if r.test is not None]))


def _metric(records: Sequence[TrainingRecord], name: str, deterministic: bool) -> tuple[Metric, str]:
    per_seed = [value for r in records if r.test is not None and (value := stated(r.test, name)) is not None]
    values = per_user(records, name)
    estimate, method = _without_users(np.array(per_seed)) if values is None else over_seeds_and_users(values)
    if deterministic:
        method = "users only (no seed)"
    return Metric(mean=float(np.mean(per_seed)), interval=estimate.interval(), per_seed=per_seed), method


def stated(ranking: Ranking, name: str) -> float | None:
    """A metric as its record states it, else from its ranks; None where it has neither."""
    if name in ranking.metrics:
        return ranking.metrics[name]
    return float(gains(name, np.asarray(ranking.ranks)).mean()) if ranking.ranks else None


def _row(run: Runs, partner: str, best_reference: float | None) -> AccuracyRow:
    everything = [*run.records, *run.collapsed]
    first = everything[0]
    known = [n for n in names() if all(r.test is not None and stated(r.test, n) is not None for r in run.records)]
    metrics = {n: _metric(run.records, n, run.reference) for n in known} if run.records else {}
    timed = [r for r in run.records if r.timed]
    epochs = [e.train_seconds for r in timed for e in r.epochs]
    seconds = [r.training_seconds for r in timed if r.training_seconds is not None]
    rates = [r.tokens_per_second for r in timed if r.tokens_per_second is not None]
    validation = [
        r.validation.metrics[SELECTION] for r in run.records if r.validation and SELECTION in r.validation.metrics
    ]
    below = (
        not run.reference
        and best_reference is not None
        and bool(run.records)
        and _mean(run.records, SELECTION) < best_reference
    )
    return AccuracyRow(
        dataset=run.dataset,
        split_sha256=run.split,
        label=run.label,
        name=first.model.name if first.model else run.label,
        family=first.model.family if first.model else "",
        length=run.length,
        seeds=run.seeds,
        collapsed_seeds=[r.seed for r in run.collapsed],
        users=_num_users(first.test),
        metrics={n: m for n, (m, _) in metrics.items()},
        interval_method=metrics[SELECTION][1] if SELECTION in metrics else "none",
        parameters=first.model.parameters if first.model else 0,
        training_seconds=float(np.mean(seconds)) if seconds else None,
        seconds_per_epoch=float(np.mean(epochs)) if epochs else None,
        tokens_per_second=float(np.mean(rates)) if rates else None,
        best_epoch=[r.best_epoch for r in run.records if r.best_epoch is not None],
        epochs=[len(r.epochs) for r in run.records],
        validation_ndcg10=float(np.mean(validation)) if validation else None,
        flags=sorted({flag for r in everything for flag in r.flags}),
        is_reference=run.reference,
        is_partner=run.label == partner,
        below_best_reference=below,
        leaks=next((r.provenance.leaks for r in everything if r.provenance.leaks is not None), None),
    )


# --- differences ---------------------------------------------------------------------------------


def comparable(found: Sequence[Runs], partner: str) -> list[tuple[Runs, Runs]]:
    """(partner, other) pairs on the same data, split and length; a reference meets every length."""
    own = [r for r in found if r.label == partner and r.records]
    return [
        (mine, other)
        for mine in own
        for other in found
        if other.label != partner
        and other.records
        and (other.dataset, other.split) == (mine.dataset, mine.split)
        and (other.reference or other.length == mine.length)
    ]


def difference(mine: Runs, other: Runs) -> tuple[AccuracyDifference, Estimate, Estimate] | None:
    """Test NDCG@10 of `mine` less that of `other`, seed by seed.

    Returns:
        The row, the difference and the relative difference; None without a common seed.
    """
    first, second = _matched(mine, other)
    if not first:
        return None
    means = _mean(first, SELECTION), _mean(second, SELECTION)
    relative_mean = means[0] / means[1] - 1 if means[1] > 0 else None
    users = (per_user(first, SELECTION), per_user(second, SELECTION))
    if users[0] is not None and users[1] is not None and users[0].shape == users[1].shape:
        absolute, method = over_seeds_and_users(users[0] - users[1])
        # The error of a ratio of means, to first order: that of h − (1 + R)·x, over the mean of x.
        ratio = (users[0] - (1 + (relative_mean or 0.0)) * users[1]) / (means[1] or 1.0)
        relative, _ = over_seeds_and_users(ratio)
    else:
        h, x = (np.array([r.test.metrics[SELECTION] for r in side if r.test is not None]) for side in (first, second))
        absolute, method = _without_users(h - x)
        relative, _ = _without_users((h - (1 + (relative_mean or 0.0)) * x) / (means[1] or 1.0))
    relative = replace(relative, mean=relative_mean or 0.0)
    p_better, p_worse = p_values(absolute) if len(first) > 1 and absolute.error is not None else (None, None)
    row = AccuracyDifference(
        dataset=mine.dataset,
        split_sha256=mine.split,
        partner=mine.label,
        label=other.label,
        family=second[0].model.family if second[0].model else "",
        length=mine.length,
        seeds=len(first),
        users=_num_users(first[0].test),
        difference=means[0] - means[1],
        interval=absolute.interval(),
        relative=relative_mean,
        relative_interval=relative.interval() if relative_mean is not None else None,
        method=method,
        p_better=p_better,
        p_worse=p_worse,
        verdict=_verdict(absolute) if len(first) > 1 else "undecided",
    )
    return row, absolute, relative


def _matched(mine: Runs, other: Runs) -> tuple[list[TrainingRecord], list[TrainingRecord]]:
    """Records of the common seeds; a reference has none and stands beside every seed."""
    if other.reference:
        return list(mine.records), [other.records[0]] * len(mine.records)
    theirs = {r.seed: r for r in other.records}
    common = [r for r in mine.records if r.seed in theirs]
    return common, [theirs[r.seed] for r in common]


def p_values(estimate: Estimate, bound: float = 0.0) -> tuple[float, float]:
    """One-sided p-values against "not above `bound`" and "not below"; 1 without an error."""
    if estimate.error is None:
        return 1.0, 1.0
    if estimate.error == 0:
        return float(estimate.mean <= bound), float(estimate.mean >= bound)
    score = (estimate.mean - bound) / estimate.error
    return float(special.stdtr(estimate.freedom, -score)), float(special.stdtr(estimate.freedom, score))


def _verdict(estimate: Estimate) -> Comparison:
    interval = estimate.interval()
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "undecided"
    return "better" if interval[0] > 0 else "worse"


# --- quality against time ------------------------------------------------------------------------


def learning(found: Sequence[Runs]) -> list[LearningPoint]:
    """Every evaluated epoch of every run, collapsed ones too."""
    result = []
    for run in found:
        for record in (*run.records, *run.collapsed):
            elapsed = 0.0
            for epoch in record.epochs:
                elapsed += epoch.train_seconds
                if epoch.validation_ndcg10 is not None:
                    result.append(
                        LearningPoint(
                            dataset=run.dataset,
                            label=run.label,
                            length=run.length,
                            seed=record.seed,
                            epoch=epoch.epoch,
                            train_seconds=elapsed if record.timed else None,
                            loss=epoch.loss,
                            validation_ndcg10=epoch.validation_ndcg10,
                        )
                    )
    return result


def times_to_quality(points: Sequence[LearningPoint]) -> list[TimeToQuality]:
    """Training time to 95 % of the best model's validation NDCG@10, per data set."""
    result = []
    for dataset in dict.fromkeys(p.dataset for p in points):
        own = [p for p in points if p.dataset == dataset and p.train_seconds is not None]
        curves: dict[tuple[str, int | None], dict[int, list[LearningPoint]]] = {}
        for point in own:
            curves.setdefault((point.label, point.length), {}).setdefault(point.seed, []).append(point)
        if not curves:
            continue
        peaks = [np.mean([max(p.validation_ndcg10 for p in c) for c in seeds.values()]) for seeds in curves.values()]
        target = QUALITY * float(max(peaks))
        for (label, length), seeds in curves.items():
            result.append(
                TimeToQuality(
                    dataset=dataset,
                    label=label,
                    length=length,
                    target=target,
                    seconds=[
                        next((p.train_seconds for p in curve if p.validation_ndcg10 >= target), None)
                        for _, curve in sorted(seeds.items())
                    ],
                    trained_seconds=[curve[-1].train_seconds or 0.0 for _, curve in sorted(seeds.items())],
                )
            )
    return result
