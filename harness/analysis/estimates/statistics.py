"""Intervals from a handful of processes, and what follows from them. All at 95 % unless said otherwise.

The unit of replication is the process: blocks within one describe its spread, no more. A percentile
bootstrap over three processes covers about 80 %, so intervals are Student's t. Lengths of one label borrow
each other's spread (`related`): of three processes alone, t is 6.8 standard deviations wide over seven lengths.
A coefficient or an exponent is a contrast of the lengths' means, to first order (`delta`). What is not
smooth in the means (a crossover, which of two laws fits better) is resampled from the same t distributions
(`draws`), which for a single mean gives back the t interval exactly, and for several is wider than need be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

Array = NDArray[np.float64]

LEVEL = 0.95
# One-sided level that belongs to a two-sided 95 % interval.
ONE_SIDED = (1 - LEVEL) / 2
MINIMUM_PROCESSES = 3
RESAMPLES = 2000
# Degrees of freedom that a length may borrow from the others. Their own spread cannot tell how equal the spreads are
# (with three processes the estimate is mostly "wholly"); three leave room for variances that differ three-fold.
MOST_BORROWED = 3.0
# A process farther from its length's median than so many robust standard deviations is outlying. No normal noise
# reaches that, nor noise of three times the others' spread, while a side three times too slow lies 25 away.
OUTLYING = 8.0
_LARGEST_SAMPLE = 100_000
# Steps of an integral over the spread; 200 give the studentized maximum modulus to ten digits.
_STEPS = 400
# Median of the distance of two standard normal values.
_NORMAL_GAP = math.sqrt(2) * float(special.ndtri(0.75))


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; `error` is None where there are too few values for one.

    Attributes:
        mean: Point estimate, in the scale of the values (logs stay logs).
        error: Standard error.
        freedom: Degrees of freedom of the error.
        count: Number of values.
        fixed: The part of the error that stays however many values there are.
        borrowed: Of the degrees of freedom those that come from related samples.
    """

    mean: float
    error: float | None
    freedom: float
    count: int
    fixed: float = 0.0
    borrowed: float = 0.0

    def interval(self, comparisons: int = 1) -> tuple[float, float] | None:
        """Two-sided t interval; with `comparisons` > 1 simultaneous for that many related means."""
        if self.error is None:
            return None
        half = self.quantile(comparisons) * self.error
        return self.mean - half, self.mean + half

    def quantile(self, comparisons: int = 1) -> float:
        """Critical value of the interval: of max |t| where the means share a spread, else Bonferroni's."""
        if comparisons > 1 and self.borrowed > 0:
            return maximum_modulus(self.freedom, comparisons)
        return t_quantile(self.freedom, comparisons)

    def upper(self) -> float:
        """One-sided 95 % bound; infinite without an error."""
        return math.inf if self.error is None else self.mean + float(special.stdtrit(self.freedom, LEVEL)) * self.error


def t_quantile(freedom: float, comparisons: int = 1) -> float:
    """Two-sided critical value of Student's t at 95 % for `comparisons` intervals together."""
    return float(special.stdtrit(freedom, 1 - (1 - LEVEL) / (2 * comparisons)))


@lru_cache(maxsize=256)
def maximum_modulus(freedom: float, comparisons: int) -> float:
    """Critical value at 95 % of max |t| over independent means that share one variance estimate.

    Source: Pillai and Ramachandran, On the distribution of the ratio of the i-th observation in an ordered sample
    from a normal population to an independent estimate of the standard deviation, Annals of Mathematical Statistics
    1954 (the studentized maximum modulus). P(max |t| ≤ c) = E[(2Φ(c·s) − 1)ᵏ] with ν·s² of χ² with ν degrees
    of freedom. The mean is a sum over equal steps of ln s, which converges faster than any power of the step.
    """
    # The density of ln s is proportional to exp(ν·(ln s − s²/2)), greatest at s = 1; its tails below e⁻⁴⁰ count for 0.
    low, high = 40 / freedom + min(0.5, 10 / math.sqrt(freedom)), min(3.0, 10 / math.sqrt(freedom))
    places = np.linspace(-low, high, _STEPS)
    spread = np.exp(places)
    weights = np.exp(freedom * (places - (spread**2 - 1) / 2))
    weights /= weights.sum()

    def excess(value: float) -> float:
        return float(weights @ (2 * special.ndtr(value * spread) - 1) ** comparisons) - LEVEL

    found: float = optimize.brentq(excess, t_quantile(freedom), t_quantile(freedom, comparisons))
    return found


def median(values: Array) -> float:
    """Median of a few values `[n]`, n > 0: NumPy's takes most of an analysis' time to look at its arguments."""
    ordered = sorted(values.tolist())
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def estimate(values: ArrayLike, minimum: int = MINIMUM_PROCESSES) -> Estimate:
    """Mean of `[n]` independent values with its standard error where n ≥ `minimum`."""
    array = np.asarray(values, dtype=np.float64)
    count = int(array.size)
    error = float(array.std(ddof=1) / math.sqrt(count)) if count >= minimum else None
    return Estimate(float(array.mean()), error, count - 1, count)


def outlying(samples: Sequence[ArrayLike]) -> list[NDArray[np.bool_]]:
    """Which values lie apart from the others of their sample, measured by the spread of all related samples.

    The spread is the median of |yᵢ − yⱼ| over all pairs within a sample, over 0.954, its value for normal
    noise of 1: 29 % of the pairs may be off. A sample that would lose more than a quarter of its values (one
    of three) is no sample with an outlier but one that scatters more: it keeps all.

    Args:
        samples: Values per length.

    Returns:
        A mask `[n]` per sample.
    """
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    gaps = [np.abs(a[:, None] - a)[_pairs(a.size)] for a in arrays]
    between = np.concatenate([*gaps, np.empty(0)])
    spread = median(between) / _NORMAL_GAP if between.size else 0.0
    found = []
    for values in arrays:
        far = np.abs(values - median(values)) > OUTLYING * spread
        few = far.sum() <= max(1, values.size // 4)
        found.append(far if values.size >= MINIMUM_PROCESSES and few and spread > 0 else np.zeros_like(far))
    return found


@lru_cache(maxsize=64)
def _pairs(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of all pairs of so many values in the square of their differences."""
    rows, columns = np.triu_indices(count, 1)
    return rows, columns


def related(samples: Sequence[ArrayLike]) -> list[Estimate]:
    """Means of samples that differ in their mean and have about one spread: the processes of one label by length.

    Outlying values count for nothing, nor in `count`, so that one disturbed process moves no mean; where fewer than
    three others are left there is no error, hence no verdict. The variance of a sample is
    s̃² = (d₀·s₀² + d·s²)/(d₀ + d), its own s² with d = n − 1 degrees of freedom drawn towards the pooled s₀², with D,
    as if that were a sample of d₀; t has d₀ + d, at most D. d₀ follows from the scatter of the log variances, at
    most `MOST_BORROWED`.

    Source: Smyth, Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments, Statistical Applications in Genetics and Molecular Biology 2004, equations in section 3 and 6.2.
    """
    kept = [np.asarray(s, dtype=np.float64)[~far] for s, far in zip(samples, outlying(samples), strict=True)]
    spreads = [float(v.var(ddof=1)) if v.size >= MINIMUM_PROCESSES else None for v in kept]
    own = np.array([v.size - 1 for v, s in zip(kept, spreads, strict=True) if s is not None], dtype=np.float64)
    variances = np.array([s for s in spreads if s is not None], dtype=np.float64)
    total = float(own.sum())
    pooled = float(own @ variances) / total if total else 0.0
    prior = _prior_freedom(variances, own)
    found = []
    for values, spread in zip(kept, spreads, strict=True):
        freedom = values.size - 1
        if spread is None:
            found.append(Estimate(float(values.mean()), None, freedom, values.size))
            continue
        borrowed = min(prior, total - freedom)
        variance = (prior * pooled + freedom * spread) / (prior + freedom)
        error = math.sqrt(variance / values.size)
        found.append(Estimate(float(values.mean()), error, freedom + borrowed, values.size, borrowed=borrowed))
    return found


def _prior_freedom(variances: Array, own: Array) -> float:
    """d₀ of Smyth, section 6.2: trigamma(d₀/2) is what scatter the log variances have beyond their sampling."""
    if variances.size < 2:
        return 0.0
    logs = np.log(np.maximum(variances, np.finfo(float).tiny)) - special.digamma(own / 2) + np.log(own / 2)
    beyond = float(logs.var(ddof=1) - np.mean(special.polygamma(1, own / 2)))
    if beyond <= special.polygamma(1, MOST_BORROWED / 2):
        return MOST_BORROWED
    least = 1e-3
    if beyond >= special.polygamma(1, least):
        return 0.0
    found: float = 2 * optimize.brentq(lambda half: special.polygamma(1, half) - beyond, least, MOST_BORROWED / 2)
    return found


def combine(weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """Σ wᵢ·meanᵢ of independent means, with Welch and Satterthwaite's degrees of freedom.

    What related means have borrowed is one and the same spread, so it counts once; their own freedoms add up.

    Source: Satterthwaite, An approximate distribution of estimates of variance components,
    Biometrics Bulletin 1946, equation 17.
    """
    mean = sum(w * e.mean for w, e in zip(weights, estimates, strict=True))
    count = min(e.count for e in estimates)
    parts = [(w * e.error) ** 2 for w, e in zip(weights, estimates, strict=True) if e.error is not None]
    if len(parts) < len(estimates):
        return Estimate(mean, None, 0, count)
    total = sum(parts)
    borrowed = min(e.borrowed for e in estimates)
    below = sum(p**2 / (e.freedom - borrowed) for p, e in zip(parts, estimates, strict=True))
    freedom = total**2 / below if below > 0 else min(e.freedom - borrowed for e in estimates)
    return Estimate(mean, math.sqrt(total), borrowed + freedom, count, borrowed=borrowed)


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
    return replace(found, mean=value)


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


def _scores(freedoms: tuple[float, ...], count: int, seed: int) -> Array:
    orders = _orders(len(freedoms), count, seed)
    return np.stack([_slices(f, count)[order] for f, order in zip(freedoms, orders, strict=True)], axis=1)


@lru_cache(maxsize=64)
def _orders(columns: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(count) for _ in range(columns)]


@lru_cache(maxsize=256)
def _slices(freedom: float, count: int) -> Array:
    """The middle of every one of `count` equally probable slices of a t distribution, increasing."""
    below = np.asarray(special.stdtrit(freedom, (np.arange(count // 2) + 0.5) / count), dtype=np.float64)
    return np.concatenate([below, np.zeros(count % 2), -below[::-1]])


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
        more = Estimate(found.mean, math.sqrt(varies + fixed), freedom + found.borrowed, count, 0.0, found.borrowed)
        return more.quantile(comparisons) * math.sqrt(varies + fixed) < gap

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
