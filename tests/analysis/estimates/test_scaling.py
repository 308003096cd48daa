import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import nnls

from harness.analysis.estimates import scaling, statistics
from harness.analysis.estimates.scaling import Series

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
TOKENS = (8192,) * 7
TRUE = {
    "constant": lambda n: 0.1,
    "log": lambda n: 0.03 + 0.01 * math.log2(n),
    "linear": lambda n: 0.06 + 5e-5 * n,
}


def noisy(law, rng, spread=0.01, processes=3, lengths=LENGTHS):
    logs = [statistics.estimate(math.log(law(n)) + rng.normal(0, spread, processes)) for n in lengths]
    return Series(lengths, (8192,) * len(lengths), tuple(logs))


def exact(law, lengths=LENGTHS, tokens=None):
    return Series(
        lengths, tokens or (8192,) * len(lengths), tuple(statistics.estimate([math.log(law(n))]) for n in lengths)
    )


def wrongly_named(law, trials, spread, seed):
    rng = np.random.default_rng(seed)
    wrong = named = 0
    for _ in range(trials):
        series = noisy(TRUE[law], rng, spread)
        chosen, _ = scaling.choose(series, scaling.fits(series))
        wrong += chosen not in (None, law)
        named += chosen == law
    return wrong, named


def at_most(count, trials, rate):
    return stats.binomtest(count, trials, rate, alternative="greater").pvalue > 1e-3


def test_nonnegative_least_squares_agrees_with_scipy():
    rng = np.random.default_rng(1)
    columns = rng.normal(0, 1, (6, 3))
    targets = rng.uniform(0.5, 2.0, (200, 6))
    found, squares = scaling.nonnegative(columns, targets)
    for row, target, square in zip(found, targets, squares, strict=True):
        expected, residual = nnls(columns / target[:, None], np.ones(6))
        assert row == pytest.approx(expected, abs=1e-8)
        assert square == pytest.approx(residual**2, abs=1e-8)


@pytest.mark.parametrize("law", ["constant", "log", "linear"])
def test_exact_data_give_back_the_coefficients(law):
    series = exact(TRUE[law])
    found = next(f for f in scaling.fits(series) if f.law == law)
    assert found.relative_error == pytest.approx(0, abs=1e-7)
    assert found.fixed_seconds is None, "one number of tokens cannot tell f from T·u"
    slope = {"constant": 0.0, "log": 0.01 / 8192, "linear": 5e-5 / 8192}[law]
    assert found.growth_seconds == pytest.approx(slope, rel=1e-6)


def test_fixed_cost_is_told_apart_where_tokens_differ():
    tokens = tuple(4 * n for n in LENGTHS)
    series = exact(lambda n: 0.02 + 4 * n * (1e-5 + 2e-9 * n), tokens=tokens)
    found = scaling.fits(series)[2]
    assert found.fixed_seconds == pytest.approx(0.02, rel=1e-4)
    assert found.per_token_seconds == pytest.approx(1e-5, rel=1e-4)
    assert found.growth_seconds == pytest.approx(2e-9, rel=1e-4)


@pytest.mark.parametrize("law", ["constant", "log", "linear"])
def test_the_right_law_is_named(law):
    wrong, named = wrongly_named(law, 50, 0.01, seed=21)
    assert at_most(wrong, 50, 0.05)
    assert named >= 45


def test_noise_too_large_names_no_law():
    rng = np.random.default_rng(23)
    series = noisy(TRUE["constant"], rng, spread=0.3)
    assert scaling.choose(series, scaling.fits(series))[0] is None


def test_two_processes_name_no_law_but_draw_one():
    rng = np.random.default_rng(24)
    series = noisy(TRUE["linear"], rng, processes=2)
    found = scaling.fits(series)
    assert scaling.choose(series, found) == (None, "linear")
    assert all(f.growth_interval is None for f in found)


def test_growth_and_fixed_cost_have_the_intervals_of_weighted_least_squares():
    rng = np.random.default_rng(25)
    tokens = tuple(4 * n for n in LENGTHS)
    truth = [0.02 + 4 * n * (1e-5 + 2e-9 * n) for n in LENGTHS]
    logs = tuple(statistics.estimate(math.log(s) + rng.normal(0, 0.01, 3)) for s in truth)
    series = Series(LENGTHS, tokens, logs)
    found = scaling.fits(series)[2]
    columns = np.array([[1, t, t * n] for t, n in zip(tokens, LENGTHS, strict=True)], dtype=float)
    # By hand: a linear map of the relative errors, each with its own spread.
    weights = np.linalg.pinv(columns / series.seconds[:, None])
    for row, interval, value in ((0, found.fixed_interval, 0.02), (2, found.growth_interval, 2e-9)):
        parts = np.array([(w * e.error) ** 2 for w, e in zip(weights[row], logs, strict=True)])
        half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / 2).sum()) * math.sqrt(parts.sum())
        middle = weights[row].sum()
        assert interval == pytest.approx((middle - half, middle + half), rel=1e-6)
        assert interval[0] < value < interval[1]


def test_a_growth_of_nothing_may_have_an_interval_below_nothing():
    falls = exact(lambda n: 0.2 - 1e-5 * n)
    logs = tuple(statistics.estimate(e.mean + np.array([-0.001, 0.0, 0.001])) for e in falls.logs)
    found = scaling.fits(Series(LENGTHS, TOKENS, logs))[2]
    assert found.growth_seconds == 0
    assert found.growth_interval[1] < 0


def test_challenge_passes_the_true_law_and_fails_another():
    rng = np.random.default_rng(26)
    series = noisy(TRUE["linear"], rng)
    assert scaling.challenge("linear", series, 0.1).outcome == "passed"
    failed = scaling.challenge("constant", series, 0.1)
    assert failed.outcome == "contradicted"
    assert failed.fitted_lengths == [128, 256, 512, 1024, 2048]
    assert failed.ratio == pytest.approx(failed.measured_seconds / failed.predicted_seconds)
    assert failed.ratio > 2


def test_a_challenge_whose_interval_leaves_the_tolerance_is_undecided():
    series = noisy(TRUE["linear"], np.random.default_rng(26), spread=0.1)
    found = scaling.challenge("linear", series, 0.1)
    assert found.interval[0] < 1 / 1.1
    assert found.interval[1] > 1 / 1.1
    assert found.outcome == "undecided", "not contradicted is not passed"
    assert scaling.challenge("linear", series, 3.0).outcome == "passed"
    assert scaling.challenge("linear", exact(TRUE["linear"]), 0.1).outcome == "undecided", "no interval"


def test_challenge_needs_lengths_to_fit_on():
    series = exact(TRUE["linear"], lengths=(1024, 2048, 4096, 8192))
    assert scaling.challenge("linear", series, 0.1) is None
    assert scaling.challenge("constant", series, 0.1).fitted_lengths == [1024, 2048]


def test_n_log_n_rises_by_thirty_percent_from_one_to_eight_thousand():
    estimate, window = scaling.rise(exact(lambda n: 0.01 * math.log2(n)))
    assert window == (1024, 8192)
    assert math.exp(estimate.mean) == pytest.approx(1.3)


def test_rise_needs_a_factor_of_eight():
    assert scaling.rise(exact(TRUE["constant"], lengths=(2048, 4096, 8192))) is None


@pytest.mark.parametrize("per_token", [0.0, 1e-5])
def test_the_growing_part_of_attention_is_quadratic(per_token):
    found = scaling.exponent("x", "s", exact(lambda n: 8192 * (per_token + 2e-9 * n)))
    assert found.exponent == pytest.approx(2, abs=0.01)
    assert found.constant == pytest.approx(per_token, abs=1e-7)
    assert found.coefficient == pytest.approx(2e-9, rel=0.05)
    assert found.interval is None, "one process has no error"


def test_a_fixed_cost_is_no_part_of_the_exponent_where_tokens_differ():
    tokens = tuple(4 * n for n in LENGTHS)
    found = scaling.exponent("x", "s", exact(lambda n: 0.02 + 4 * n * (1e-5 + 2e-9 * n), tokens=tokens))
    assert found.exponent == pytest.approx(2, abs=0.01)


def test_a_length_without_an_error_has_no_weight():
    rng = np.random.default_rng(27)
    series = noisy(TRUE["linear"], rng)
    broken = list(series.logs)
    broken[3] = dataclasses.replace(broken[3], mean=broken[3].mean + 1, error=None)
    found = scaling.growing(dataclasses.replace(series, logs=tuple(broken)))
    assert found == scaling.growing(series.at([0, 1, 2, 4, 5, 6]))


def test_local_slopes_are_per_sequence():
    slopes = scaling.local_slopes("x", "s", exact(TRUE["constant"]))
    assert [s.slope for s in slopes] == pytest.approx([1.0] * 6)
    assert slopes[0].lengths == (128, 256)
    tokens = tuple(4 * n for n in LENGTHS)
    at_batch = scaling.local_slopes("x", "s", exact(lambda n: 1e-9 * n**2, tokens=tokens))
    assert [s.slope for s in at_batch] == pytest.approx([2.0] * 6)
