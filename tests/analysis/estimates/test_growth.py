"""The exponent of what grows: found, as wide as the noise, and open where nothing grows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import curve_fit

from harness.analysis.estimates.growth import growth
from harness.analysis.estimates.scaling import Series, exponent
from harness.analysis.estimates.statistics import Estimate

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
ONES = np.ones(len(LENGTHS))
SCALED = np.array(LENGTHS) / LENGTHS[-1]


def fitted(values, errors=None, freedom=10.0, columns=ONES[:, None]):
    return growth(columns, ONES, LENGTHS, np.asarray(values), errors, freedom)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("constant", [-0.05, 0.0, 1.0])
def test_an_exact_law_is_found_with_hardly_any_room(exponent, constant):
    found = fitted(constant + 2 * SCALED**exponent + 0.2)
    assert found.exponent == pytest.approx(exponent)
    assert found.coefficient == pytest.approx(2)
    assert found.linear[0] == pytest.approx(constant + 0.2)
    assert found.interval[1] - found.interval[0] < 0.02


def test_the_fit_is_that_of_a_general_optimiser():
    rng = np.random.default_rng(90)
    values = (0.3 + 2 * SCALED**0.8) * np.exp(rng.normal(0, 0.03, len(LENGTHS)))
    errors = rng.uniform(0.01, 0.05, len(LENGTHS))
    expected, covariance = curve_fit(
        lambda x, c, a, b: c + a * x**b, SCALED, values, p0=(0.3, 2, 0.8), sigma=errors * values, absolute_sigma=True
    )
    found = fitted(values, errors, freedom=1e6)
    assert found.exponent == pytest.approx(expected[2], abs=0.01)
    # Where the law is well determined the profile is a parabola, so the interval is that of the covariance.
    residuals = (values - (expected[0] + expected[1] * SCALED ** expected[2])) / (errors * values)
    wider = max(1.0, float(residuals @ residuals) / 4) ** 0.5
    half = 1.96 * wider * covariance[2, 2] ** 0.5
    assert found.interval == pytest.approx((expected[2] - half, expected[2] + half), abs=0.15 * half)


def test_where_nothing_grows_the_exponent_may_be_anything():
    found = fitted(ONES, 0.03 * ONES)
    assert found.coefficient == pytest.approx(0, abs=1e-9)
    assert found.interval == (None, None)


def test_a_fall_with_length_is_no_growth():
    assert fitted(2 - SCALED, 0.03 * ONES).coefficient == 0
    assert fitted(2 - SCALED, 0.03 * ONES).linear[0] > 0


def test_a_logarithm_is_a_small_exponent():
    low, high = fitted(np.log2(LENGTHS), 0.01 * ONES).interval
    assert low is None
    assert high < 0.3


def test_a_law_that_does_not_fit_has_a_wider_interval():
    bent = (0.3 + 2 * SCALED) * np.array([1, 1.1, 0.9, 1.1, 0.9, 1.1, 1])
    straight = fitted(0.3 + 2 * SCALED, 0.01 * ONES).interval
    assert np.ptp(fitted(bent, 0.01 * ONES).interval) > 3 * np.ptp(straight)


def test_it_needs_a_length_more_than_coefficients():
    assert growth(np.ones((3, 1)), np.ones(3), (1, 2, 4), np.array([1.0, 2.0, 4.0])) is None
    assert growth(np.ones((4, 1)), np.ones(4), (1, 2, 4, 8), np.array([1.0, 2.0, 4.0, 8.0])) is not None


def test_a_length_without_an_error_is_in_neither_window_nor_coefficient():
    """The longest lost a process to an outlier: what is said is of the lengths that were fitted."""
    lengths = np.array(LENGTHS)
    seconds = 1e-6 * 8192 * (1 + lengths / 8192)
    logs = [Estimate(float(np.log(s)), 0.001, 2, 3) for s in seconds]
    logs[-1] = replace(logs[-1], error=None)
    found = exponent("x", "s", Series(LENGTHS, (8192,) * len(LENGTHS), tuple(logs)))
    assert (found.window, found.points) == ((128, 4096), 6)
    assert found.exponent == pytest.approx(2, abs=0.01)
    whole = exponent("x", "s", Series(LENGTHS, (8192,) * len(LENGTHS), tuple(replace(e, error=0.001) for e in logs)))
    assert found.coefficient == pytest.approx(whole.coefficient, rel=0.05)
