"""What a report waits for: fits of a thousand resamples of one series, which are to take less than a second."""

import math

import numpy as np
import pytest

from harness.analysis.estimates import scaling, statistics

LENGTHS = tuple(2**n for n in range(7, 14))
SECONDS = [0.06 + 5e-5 * length for length in LENGTHS]
SERIES = scaling.Series(LENGTHS, (8192,) * 7, tuple(statistics.estimate([math.log(value)]) for value in SECONDS))


@pytest.mark.parametrize("fit", ["power", *scaling.LAWS])
def test_a_thousand_resamples(benchmark, fit):
    values = np.exp(np.random.default_rng(29).normal(0, 0.1, (1000, 7))) * SECONDS
    benchmark.group = "a thousand resamples"
    if fit == "power":
        benchmark(scaling.power, LENGTHS, values)
    else:
        benchmark(scaling.fit, fit, SERIES, values)
