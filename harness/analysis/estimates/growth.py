"""The exponent of what grows: y = Σ linear parts + a·L^b with b free, of time and of memory.

An exponent of the whole hides growth under a constant: u + v·L a token has a log-log slope between 0 and 1. So the
parts that do not grow are fitted beside it. b has no interval by linearisation where little grows (there it may be
anything), so its interval holds every b whose best fit is not worse than the best of all beyond noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.analysis.estimates import statistics
from harness.analysis.estimates.statistics import Array
from harness.analysis.rows import OpenInterval

# Exponents tried: from nearly a logarithm to a cube and beyond.
_GRID = np.linspace(0.02, 3.5, 349)


@dataclass(frozen=True)
class Growth:
    """The growing part a·L^b, and what else there is.

    Attributes:
        exponent: b.
        interval: 95 %; an end beyond the exponents tried is None.
        coefficient: a.
        linear: Coefficients of the other columns.
        squares: t² of every exponent tried: how much worse its best fit is than the best of all.
        freedom: Degrees of freedom of that t.
    """

    exponent: float
    interval: OpenInterval | None
    coefficient: float
    linear: tuple[float, ...]
    squares: tuple[float, ...]
    freedom: float

    def p_value(self, low: float, high: float) -> float:
        """One-sided p-value against an exponent from `low` to `high`, by profile t at the nearer end."""
        if self.interval is None or low <= self.exponent <= high:
            return 1.0
        nearer = high if self.exponent > high else low
        return float(special.stdtr(self.freedom, -math.sqrt(np.interp(nearer, _GRID, self.squares))))

    def moved(self, by: float) -> OpenInterval | None:
        """The interval, shifted."""
        if self.interval is None:
            return None
        low, high = self.interval
        return None if low is None else low + by, None if high is None else high + by


def growth(
    columns: Array,
    unit: Array,
    lengths: Sequence[int],
    values: Array,
    errors: Array | None = None,
    freedom: float = 0.0,
) -> Growth | None:
    """Fit Σ columns + a·unit·(L/Lₙ)^b to `values`, a ≥ 0, and give b with its profile interval.

    Σ (rᵢ/σᵢ)² of the relative residuals r is minimised over the linear coefficients for every b. An exponent belongs
    to the interval where that sum Q(b) exceeds its least Q̂ by at most t²·max(1, Q̂/(n − k)): t of `freedom`, k
    coefficients with b. The second factor widens the interval where no exponent fits within the errors (Birge's
    ratio), as caches make no power law.

    Source: Bates and Watts, Nonlinear regression analysis and its applications, 1988, section 6.1 (profile t).

    Args:
        columns: `[n, m]` of the parts that do not grow.
        unit: `[n]`, what L^b is multiplied by.
        lengths: `[n]` events, increasing.
        values: `[n]` positive measurements.
        errors: `[n]` their relative standard errors; None: equal and unknown, taken from the residuals with n − k
            degrees of freedom.
        freedom: Degrees of freedom of the errors.

    Returns:
        None with fewer than one length more than coefficients.
    """
    count, left = len(values), len(values) - columns.shape[1] - 2
    if left < 1:
        return None
    # An error of 0 would let one length decide all.
    sigma = np.ones(count) if errors is None else np.maximum(errors, 1e-6)
    scale, target = 1.0 / (values * sigma), 1.0 / sigma
    scaled = np.asarray(lengths, dtype=np.float64) / lengths[-1]
    shapes = (unit * scale)[:, None] * scaled[:, None] ** _GRID
    # What the other columns explain is taken off target and shapes first: then each b has one coefficient left.
    basis, _ = np.linalg.qr(columns * scale[:, None])
    rest, apart = target - basis @ (basis.T @ target), shapes - basis @ (basis.T @ shapes)
    # What falls with length is no growth: there the best fit is that without it.
    coefficients = np.maximum(rest @ apart / np.einsum("ng,ng->g", apart, apart), 0.0)
    profile = ((rest[:, None] - coefficients * apart) ** 2).sum(axis=0)
    best = int(np.argmin(profile))
    linear, *_ = np.linalg.lstsq(columns * scale[:, None], target - coefficients[best] * shapes[:, best], rcond=None)
    misfit = float(profile[best]) / left
    variance, degrees = (misfit, float(left)) if errors is None else (max(1.0, misfit), freedom)
    limit = statistics.t_quantile(degrees) ** 2
    # Measurements that a law fits exactly still decide between exponents: by more than rounding.
    room = max(limit * variance, 1e-12 * float(target @ target))
    return Growth(
        exponent=float(_GRID[best]),
        interval=_ends(profile - profile[best] - room, best),
        coefficient=float(coefficients[best]),
        linear=tuple(float(c) for c in linear),
        squares=tuple(float(q) for q in limit * (profile - profile[best]) / room),
        freedom=degrees,
    )


def _ends(excess: Array, best: int) -> OpenInterval:
    """Where `excess` crosses 0 on either side of the best; None where it does not within the exponents tried.

    The outermost crossing counts, so that an interval in two pieces is given whole.
    """
    inside = np.flatnonzero(excess <= 0)
    first, last = (int(inside[0]), int(inside[-1])) if inside.size else (best, best)
    low = None if first == 0 else _crossing(excess, first, first - 1)
    high = None if last == len(excess) - 1 else _crossing(excess, last, last + 1)
    return low, high


def _crossing(excess: Array, inside: int, outside: int) -> float:
    share = excess[inside] / (excess[inside] - excess[outside])
    return float(_GRID[inside] + share * (_GRID[outside] - _GRID[inside])) if math.isfinite(share) else _GRID[inside]
