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


def test_related_samples_borrow_each_others_spread():
    rng = np.random.default_rng(80)
    samples = list(rng.normal(0, 0.03, (7, 3)))
    own, shared = [statistics.estimate(s) for s in samples], statistics.related(samples)
    assert [e.mean for e in shared] == [e.mean for e in own]
    assert all(e.freedom == pytest.approx(5) and e.borrowed == pytest.approx(3) for e in shared)
    pooled = np.mean([e.error**2 for e in own])
    for alone, moved in zip(own, shared, strict=True):
        assert moved.error**2 == pytest.approx((3 * pooled + 2 * alone.error**2) / 5)
    # Seven intervals of three processes each: five times as narrow in the middle.
    widths = [np.median([i[1] - i[0] for e in found if (i := e.interval(7))]) for found in (own, shared)]
    assert widths[1] < widths[0] / 2


def test_a_single_sample_is_students_t():
    values = [1.0, 1.2, 1.3]
    found, alone = statistics.related([values])[0], statistics.estimate(values)
    assert (found.error, found.freedom, found.borrowed) == (pytest.approx(alone.error), 2, 0)


def test_spreads_that_plainly_differ_are_not_shared():
    rng = np.random.default_rng(81)
    spreads = np.array([0.001, 0.03, 1.0, 0.0005, 0.2, 0.01, 0.1])
    samples = list(rng.normal(0, spreads[:, None], (7, 8)))
    for found, values in zip(statistics.related(samples), samples, strict=True):
        assert found.borrowed < 1
        # The wide ones keep their width; none is narrowed to a fifth of its own.
        assert found.error > statistics.estimate(values).error * 0.8


def test_an_outlying_process_moves_no_mean():
    rng = np.random.default_rng(82)
    clean = rng.normal(0, 0.03, (7, 5))
    disturbed = clean.copy()
    disturbed[6, 2] += math.log(3)
    masks = statistics.outlying(list(disturbed))
    assert [int(m.sum()) for m in masks] == [0, 0, 0, 0, 0, 0, 1]
    assert masks[6][2]
    assert statistics.related(list(disturbed))[6].mean == pytest.approx(np.delete(clean[6], 2).mean())
    assert statistics.related(list(disturbed))[6].count == 4
    # Farther out it moves no more: its effect is bounded.
    disturbed[6, 2] = 1e6
    assert abs(statistics.related(list(disturbed))[6].mean) < 0.05


def test_of_three_processes_two_must_not_outvote_the_third():
    rng = np.random.default_rng(83)
    samples = rng.normal(0, 0.03, (7, 3))
    samples[6, 0] += math.log(3)
    assert statistics.related(list(samples))[6].error is None


def test_a_length_that_scatters_more_has_no_outliers():
    rng = np.random.default_rng(84)
    samples = rng.normal(0, 0.03, (7, 8))
    samples[3] *= 30
    assert not statistics.outlying(list(samples))[3].any()
    assert statistics.related(list(samples))[3].error > 0.1


def test_samples_without_spread_have_no_outliers():
    assert not any(m.any() for m in statistics.outlying([[1.0, 1.0, 1.0], [2.0, 2.0, 2.1]]))
    assert [e.error for e in statistics.related([[1.0] * 3, [2.0] * 3])] == [0.0, 0.0]


@pytest.mark.parametrize(("freedom", "comparisons"), [(6, 7), (11, 7), (60, 8)])
def test_the_maximum_modulus_is_the_quantile_of_the_largest_t(freedom, comparisons):
    rng = np.random.default_rng(85)
    drawn = np.abs(rng.normal(size=(400_000, comparisons))).max(axis=1)
    scores = drawn / np.sqrt(rng.chisquare(freedom, 400_000) / freedom)
    found = statistics.maximum_modulus(freedom, comparisons)
    assert found == pytest.approx(np.quantile(scores, 0.95), rel=0.006)
    assert statistics.t_quantile(freedom) < found < statistics.t_quantile(freedom, comparisons)


def test_borrowed_freedom_counts_once_in_a_combination():
    samples = list(np.random.default_rng(86).normal(0, 0.03, (7, 3)))
    first, second, *_ = statistics.related(samples)
    found = statistics.combine([1, -1], [first, second])
    assert first.borrowed + 2 <= found.freedom <= first.borrowed + 4
    plain = [statistics.estimate(s) for s in samples[:2]]
    assert statistics.combine([1, -1], plain).freedom <= 4
