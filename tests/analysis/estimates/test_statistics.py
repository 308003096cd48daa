import math

import numpy as np
import pytest
from scipy import stats

from harness.analysis.estimates import statistics
from harness.analysis.estimates.statistics import Estimate

TRIALS = 2000


def covers_at_least(hits, trials, level=0.95):
    """Exact binomial test: would this few hits be rarer than 1 in 1,000 at the nominal level?"""
    return stats.binomtest(int(hits), trials, level, alternative="less").pvalue > 1e-3


def test_t_interval_of_three_processes_covers():
    rng = np.random.default_rng(11)
    values = rng.normal(2.0, 0.05, (TRIALS, 3))
    found = [statistics.estimate(v).interval() for v in values]
    hits = sum(low <= 2.0 <= high for low, high in found)
    assert covers_at_least(hits, TRIALS)
    assert not covers_at_least(hits, TRIALS, 0.99), "wider than 95 %"


def test_simultaneous_intervals_cover_all_lengths_together():
    rng = np.random.default_rng(12)
    lengths = 7
    hits = 0
    for values in rng.normal(0.0, 0.05, (TRIALS, lengths, 3)):
        intervals = [statistics.estimate(v).interval(lengths) for v in values]
        hits += all(low <= 0 <= high for low, high in intervals)
    assert covers_at_least(hits, TRIALS)


def test_a_percentile_bootstrap_of_three_would_not_cover():
    # The reason why none is used.
    rng = np.random.default_rng(13)
    hits = 0
    for values in rng.normal(0.0, 1.0, (500, 3)):
        means = values[rng.integers(0, 3, (500, 3))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 0 <= high
    assert not covers_at_least(hits, 500)


def test_contrast_of_three_and_three_covers_with_unequal_spread():
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(TRIALS):
        parts = [statistics.estimate(rng.normal(1.0, s, 3)) for s in (0.02, 0.05)]
        low, high = statistics.combine([1.0, -1.0], parts).interval()
        hits += low <= 0 <= high
    assert covers_at_least(hits, TRIALS, 0.94)


def test_too_few_values_give_no_interval():
    assert statistics.estimate([1.0, 2.0]).interval() is None
    assert (
        statistics.combine([1, -1], [statistics.estimate([1.0, 2.0]), statistics.estimate([1, 2, 3])]).interval()
        is None
    )
    assert statistics.draws([statistics.estimate([1.0])]) is None


def test_draws_of_one_mean_give_back_its_t_interval():
    found = statistics.estimate([1.0, 1.2, 1.3])
    low, high = found.interval()
    drawn = statistics.quantiles(statistics.draws([found])[:, 0])
    assert drawn == pytest.approx((low, high), rel=0.01)


def test_draws_are_the_same_every_time():
    found = [statistics.estimate([1.0, 1.2, 1.3]), statistics.estimate([2.0, 2.2, 2.4])]
    assert np.array_equal(statistics.draws(found), statistics.draws(found))


def test_open_ends_survive_quantiles():
    values = np.concatenate([np.full(100, np.inf), np.full(900, 5.0)])
    assert statistics.quantiles(values) == (5.0, math.inf)


def test_sample_size_is_the_least_that_decides():
    found = Estimate(1.0, 0.1, 2, 3)
    size = statistics.sample_size(found, 0.05)
    spread = 0.1 * math.sqrt(3)

    def half(n):
        return stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)

    assert half(size) < 0.05 <= half(size - 1)
    assert statistics.sample_size(found, 0.0) is None
    assert statistics.sample_size(Estimate(1.0, None, 0, 1), 0.5) is None


def test_holm_by_hand():
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
