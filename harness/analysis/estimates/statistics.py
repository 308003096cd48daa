"""Intervals from a handful of processes, and what follows from them. All at 95 % unless said otherwise.

The unit of replication is the process: blocks within one describe its spread, no more. A percentile
bootstrap over three processes covers about 80 %, so intervals are Student's t; a coefficient or an
exponent is a contrast of the lengths' means, to first order (`delta`). What is not smooth in the means
(a crossover, which of two laws fits better) is resampled from the same t distributions (`draws`), which
for a single mean gives back the t interval exactly, and for several is wider than need be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

LEVEL = 0.95
# One-sided level that belongs to a two-sided 95 % interval.
ONE_SIDED = (1 - LEVEL) / 2
MINIMUM_PROCESSES = 3
RESAMPLES = 2000
_LARGEST_SAMPLE = 100_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `error` is None where there are too few values for one.

    Attributes:
        mean: Point estimate, in the scale of the values (logs stay logs).
        error: Standard error.
        freedom: Degrees of freedom of the error.
        count: Number of values.
        fixed: The part of the error that stays however many values there are.
    """

    mean: float
    error: float | None
    freedom: float
    count: int
    fixed: float = 0.0

    def interval(self, comparisons: int = 1) -> tuple[float, float] | None:
        """Two-sided t interval; with `comparisons` > 1 simultaneous for that many (Bonferroni)."""
        if self.error is None:
            return None
        half = t_quantile(self.freedom, comparisons) * self.error
        return self.mean - half, self.mean + half

    def upper(self) -> float:
        """One-sided 95 % bound; infinite without an error."""
        return math.inf if self.error is None else self.mean + float(special.stdtrit(self.freedom, LEVEL)) * self.error


def t_quantile(freedom: float, comparisons: int = 1) -> float:
    """Two-sided critical value of Student's t at 95 % for `comparisons` intervals together."""
    return float(special.stdtrit(freedom, 1 - (1 - LEVEL) / (2 * comparisons)))


def estimate(values: ArrayLike, minimum: int = MINIMUM_PROCESSES) -> Estimate:
    """Mean of `[n]` independent values with its standard error where n ≥ `minimum`."""
    array = np.asarray(values, dtype=np.float64)
    count = int(array.size)
    error = float(array.std(ddof=1) / math.sqrt(count)) if count >= minimum else None
    return Estimate(float(array.mean()), error, count - 1, count)


def combine(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Σ wᵢ·meanᵢ of independent means, with Welch and Satterthwaite's degrees of freedom.

    Source: Satterthwaite, An approximate distribution of estimates of variance components,
    Biometrics Bulletin 1946, equation 17.
    """
    mean = sum(w * e.mean for w, e in zip(weights, estimates, strict=True))
    count = min(e.count for e in estimates)
    parts = [(w * e.error) ** 2 for w, e in zip(weights, estimates, strict=True) if e.error is not None]
    if len(parts) < len(estimates):
        return Estimate(mean, None, 0, count)
    total = sum(parts)
    below = sum(p**2 / e.freedom for p, e in zip(parts, estimates, strict=True))
    freedom = total**2 / below if below > 0 else min(e.freedom for e in estimates)
    return Estimate(mean, math.sqrt(total), freedom, count)


def delta(value: float, gradient: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """A smooth function of independent means, with the error of its linearisation.

    The spread of each mean stays its own, as in `combine`: means resampled from t distributions with two
    degrees of freedom each would give intervals that cover nearly always instead of in 95 %.

    Args:
        value: The function at the means.
        gradient: Its derivative in every mean.
        estimates: The means.
    """
    found = combine(gradient, estimates)
    return Estimate(value, found.error, found.freedom, found.count)


def draws(estimates: Sequence[Estimate], count: int = RESAMPLES, seed: int = 0) -> Array | None:
    """Resample means from their t distributions.

    Each column is stratified (one draw from each of `count` equal slices, shuffled), so that the ends of
    an interval carry almost no noise of the resampling.

    Returns:
        `[count, len(estimates)]`, or None where a mean has no error.
    """
    if any(e.error is None for e in estimates):
        return None
    scores = _scores(tuple(e.freedom for e in estimates), count, seed)
    return np.array([e.mean for e in estimates]) + np.array([e.error for e in estimates], dtype=np.float64) * scores


@lru_cache(maxsize=64)
def _scores(freedoms: tuple[float, ...], count: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    levels = (np.arange(count) + 0.5) / count
    return np.stack([special.stdtrit(freedom, rng.permutation(levels)) for freedom in freedoms], axis=1)


def quantiles(values: Array) -> tuple[float, float]:
    """The middle 95 % of resampled values; infinite values stand for open ends."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="inverted_cdf")
    return float(low), float(high)


def exponential(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """An interval of logs as one of factors; far ends saturate instead of overflowing."""
    if interval is None:
        return None
    low, high = interval
    return math.exp(max(low, -700.0)), math.exp(min(high, 700.0))


def sample_size(found: Estimate, gap: float, comparisons: int = 1) -> int | None:
    """Number of replicates that would separate the mean from a bound `gap` away.

    Supposes that mean and spread stay as they are. None where no number up to 100,000 would, or no
    spread is known.
    """
    if found.error is None or gap <= 0:
        return None
    spread, fixed = (found.error**2 - found.fixed**2) * found.count, found.fixed**2

    def decides(count: int) -> bool:
        varies = spread / count
        freedom = (count - 1) * (varies + fixed) / varies if varies > 0 else count - 1
        return t_quantile(freedom, comparisons) * math.sqrt(varies + fixed) < gap

    return least_count(decides, _LARGEST_SAMPLE)


def least_count(decides: Callable[[int], bool], most: int) -> int | None:
    """The least number of replicates, from `MINIMUM_PROCESSES` to `most`, that decides; None where none does.

    Args:
        decides: Whether a number does; if one does, so do all greater ones.
        most: Where to stop looking.
    """
    low, high = MINIMUM_PROCESSES, most
    if not decides(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, A simple sequentially rejective multiple test procedure, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted
