"""How time grows with length: laws, their challenge, exponents, local slopes.

At T tokens a step costs s(L) = f + T·(u + v·w(L)), f, u, v ≥ 0, with w = 0, log₂ L or L. All fits
minimise relative errors, Σ (fitted/measured − 1)², because the noise of a timing is a factor. They are
vectorised over resamples: few parameters, so non-negative least squares is the best feasible one of all
active sets, each in closed form. The law with a free exponent has a module of its own, `growth`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from harness.analysis.estimates import statistics
from harness.analysis.estimates.growth import Growth, growth
from harness.analysis.estimates.statistics import Array, Estimate
from harness.analysis.rows import Challenge, Exponent, Fit, Interval, Law, LocalSlope, Outcome, ScalingLaw

LAWS: tuple[Law, ...] = ("constant", "log", "linear")
CHALLENGE_FACTOR = 4
RISE_FACTOR = 8
# A growing law that rises by less than this over the whole window is not told from a constant one.
NEGLIGIBLE_RISE = 0.10
_DECIDES = 0.95
_MOST_PROCESSES = 1000
_SINGULAR = 1e-11


@dataclass(frozen=True)
class Series:
    """Log step times of one label over increasing lengths.

    Attributes:
        lengths: `[n]` events.
        tokens: `[n]` tokens a step.
        logs: Per length the mean log seconds over its processes.
    """

    lengths: tuple[int, ...]
    tokens: tuple[int, ...]
    logs: tuple[Estimate, ...]

    def upto(self, length: float) -> Series:
        """The part at lengths of at most `length`."""
        return self.at([k for k, own in enumerate(self.lengths) if own <= length])

    def at(self, places: Sequence[int]) -> Series:
        """The part at some of the lengths, by their place."""
        return Series(
            tuple(self.lengths[k] for k in places),
            tuple(self.tokens[k] for k in places),
            tuple(self.logs[k] for k in places),
        )

    @property
    def seconds(self) -> Array:
        """`[n]` step seconds, means of logs."""
        return np.exp([e.mean for e in self.logs])

    @cached_property
    def resampled(self) -> Array | None:
        """`[R, n]` resampled step seconds; None with too few processes."""
        found = statistics.draws(self.logs)
        return None if found is None else np.exp(np.clip(found, -700, 700))


@dataclass(frozen=True)
class Fitted:
    """Coefficients of one law for every resample.

    Attributes:
        coefficients: `[R, 3]` f, u, v; f is 0 where it cannot be told from T·u.
        fitted: `[R, n]` seconds.
        squares: `[R]` sum of squared relative residuals.
        separable: Whether f could be told from T·u.
    """

    coefficients: Array
    fitted: Array
    squares: Array
    separable: bool


def shape(law: Law, lengths: Sequence[int]) -> Array:
    """w(L) of a law."""
    array = np.asarray(lengths, dtype=np.float64)
    if law == "constant":
        return np.zeros_like(array)
    return np.log2(array) if law == "log" else array


def nonnegative(columns: Array, seconds: Array) -> tuple[Array, Array]:
    """Non-negative least squares of relative errors.

    Args:
        columns: `[n, k]`, k ≤ 3, no column zero.
        seconds: `[R, n]` positive targets.

    Returns:
        Coefficients `[R, k]` and sums of squares `[R]`.
    """
    scale = np.linalg.norm(columns, axis=0)
    design, inverse = (columns / scale).T, 1.0 / seconds.T
    (width, count), rows = design.shape, len(seconds)
    moments = design @ inverse
    gram = ((design[:, None] * design).reshape(-1, count) @ inverse**2).reshape(width, width, rows)
    best = np.full(rows, float(count))
    chosen = np.zeros((width, rows))
    left = np.arange(rows)
    for size in range(width, 0, -1):
        for subset in itertools.combinations(range(width), size):
            picked = np.array(subset)
            own = moments[np.ix_(picked, left)]
            solution, volume = _solve(gram[np.ix_(picked, picked, left)], own)
            squares = count - (solution * own).sum(axis=0)
            # A set of columns that the lengths cannot tell apart has nothing to add to its subsets.
            better = (volume > _SINGULAR) & (solution >= 0).all(axis=0) & (squares < best[left] - 1e-12)
            won = left[better]
            best[won] = squares[better]
            chosen[:, won] = 0.0
            chosen[np.ix_(picked, won)] = solution[:, better]
        if size == width:
            # Where all columns together need no sign bound, no subset of them fits better.
            left = left[~better]
            if not left.size:
                break
    return chosen.T / scale, np.maximum(best, 0.0)


def _solve(gram: Array, moments: Array) -> tuple[Array, Array]:
    """Gauss and Jordan's elimination, each step for all systems at once; they are small and many.

    Args:
        gram: `[k, k, R]` Gram matrices, or `[k, k, 1]`, one for all right sides.
        moments: `[k, R]` right sides.

    Returns:
        Solutions `[k, R]`, and per matrix its determinant over that of orthogonal columns as long: 0 if dependent.
    """
    gram, solution = gram.copy(), moments.copy()
    volume: Array = 1.0 / gram.diagonal().prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for i in range(len(gram)):
            volume = volume * gram[i, i]
            shares = gram[:, i] / gram[i, i]
            shares[i] = 0.0
            gram -= shares[:, None] * gram[i]
            solution -= shares * solution[i]
        return solution / gram.diagonal().T, volume


def _design(law: Law, series: Series) -> tuple[Array, bool]:
    """Columns `[n, k]` of f (where it can be told from T·u), u and v, and whether it can."""
    tokens = np.asarray(series.tokens, dtype=np.float64)
    separable = bool(np.any(tokens != tokens[0]))
    columns = [np.ones_like(tokens), tokens] if separable else [tokens]
    if law != "constant":
        columns.append(tokens * shape(law, series.lengths))
    return np.stack(columns, axis=1), separable


def contrasts(law: Law, series: Series) -> list[Estimate] | None:
    """The law's coefficients with their errors, in the order of its columns, signs left free.

    Where a coefficient is 0 in truth, the fit with signs bound has no interval that is wrong in 5 % of
    all cases, so the error is that of the free fit: weighted least squares is linear in the means.

    Returns:
        None with fewer lengths than coefficients, or lengths that cannot tell them apart.
    """
    columns, _ = _design(law, series)
    scale = np.linalg.norm(columns, axis=0)
    relative = columns / scale / series.seconds[:, None]
    # The pseudo-inverse, a column of it for every length.
    rows, volume = _solve((relative.T @ relative)[:, :, None], relative.T)
    if len(relative) < len(rows) or volume[0] <= _SINGULAR:
        return None
    rows /= scale[:, None]
    return [statistics.delta(float(row.sum()), [float(w) for w in row], series.logs) for row in rows]


def fit(law: Law, series: Series, seconds: Array) -> Fitted:
    """Fit one law to every row of `seconds` `[R, n]`."""
    design, separable = _design(law, series)
    found, squares = nonnegative(design, seconds)
    coefficients = np.zeros((len(seconds), 3))
    coefficients[:, (0 if separable else 1) : (0 if separable else 1) + found.shape[1]] = found
    return Fitted(coefficients, found @ design.T, squares, separable)


def fits(series: Series) -> list[Fit]:
    """All three laws, fitted to all lengths."""
    measured = series.seconds
    result = []
    for law in LAWS:
        point = fit(law, series, measured[None])
        free = contrasts(law, series)
        fixed, per_token, grows = (float(c) for c in point.coefficients[0])
        result.append(
            Fit(
                law=law,
                fixed_seconds=fixed if point.separable else None,
                per_token_seconds=per_token,
                growth_seconds=grows,
                growth_interval=_reaching(grows, free[-1]) if free and law != "constant" else None,
                fixed_interval=_reaching(fixed, free[0]) if free and point.separable else None,
                relative_error=math.sqrt(float(point.squares[0]) / len(measured)),
                residuals=[float(r) for r in measured / point.fitted[0] - 1],
                fitted_seconds=[float(s) for s in point.fitted[0]],
            )
        )
    return result


def _reaching(value: float, free: Estimate) -> Interval | None:
    """The interval of the free fit, stretched to a value above 0 that the bound signs moved out of it."""
    interval = free.interval()
    if interval is None or value == 0:
        return interval
    return min(interval[0], value), max(interval[1], value)


def choose(series: Series, found: Sequence[Fit]) -> tuple[Law | None, Law]:
    """The law that the data single out, or None, and the best one for drawing.

    A growing law needs a growth whose interval lies above 0, and to beat the other growing law in 95 %
    of the resamples. The constant law needs more than the absence of that: the growth that the data
    leave room for, by a one-sided 95 % bound, must be below 10 % over the whole window.
    """
    constant, log, linear = found
    better = log if log.relative_error <= linear.relative_error else linear
    grows = [f for f in (log, linear) if f.growth_interval is not None and f.growth_interval[0] > 0]
    resampled = series.resampled
    if resampled is None:
        rises = better.growth_seconds > 0 and better.relative_error < constant.relative_error / 2
        return None, better.law if rises else "constant"
    if not grows:
        room = [_room(series, f) for f in (log, linear)]
        return ("constant" if max(room) <= NEGLIGIBLE_RISE else None), "constant"
    log_wins = float(np.mean(fit("log", series, resampled).squares < fit("linear", series, resampled).squares))
    if max(log_wins, 1 - log_wins) < _DECIDES:
        return None, better.law
    winner: Law = "log" if log_wins >= _DECIDES else "linear"
    return (winner if winner in {f.law for f in grows} else None), better.law


def processes_that_choose(series: Series) -> int | None:
    """Processes a length at which a law would be singled out, should means and spreads stay as they are.

    Returns:
        None where no number up to a thousand would, or no spread is known.
    """
    if any(e.error is None for e in series.logs):
        return None

    def decides(count: int) -> bool:
        logs = tuple(
            Estimate(e.mean, (e.error or 0.0) * math.sqrt(e.count / count), count - 1, count) for e in series.logs
        )
        more = Series(series.lengths, series.tokens, logs)
        return choose(more, fits(more))[0] is not None

    return statistics.least_count(decides, _MOST_PROCESSES)


def _room(series: Series, found: Fit) -> float:
    """Relative rise of the step over the window that the data leave room for."""
    free = contrasts(found.law, series)
    if free is None:
        return math.inf
    first, last = shape(found.law, [series.lengths[0], series.lengths[-1]])
    return free[-1].upper() * series.tokens[-1] * float(last - first) / found.fitted_seconds[0]


def challenge(law: Law, series: Series, tolerance: float) -> Challenge | None:
    """Fit on lengths up to a quarter of the largest, predict the largest.

    Source: Pushak and Hoos, Advanced statistical analysis of empirical performance scaling, GECCO
    2020 (the Empirical Scaling Analyzer), with a tolerance for what no law of three terms holds: a
    cache that fills, an FFT length that factors badly.

    Returns:
        None where fewer than two smaller lengths (three for a growing law) are left to fit on.
    """
    largest = series.lengths[-1]
    small = series.upto(largest / CHALLENGE_FACTOR)
    if len(small.lengths) < (2 if law == "constant" else 3):
        return None
    predicted = _predict(law, small, small.seconds[None], series)
    ratio = float(series.seconds[-1] / predicted[0])
    resampled = series.resampled
    interval: Interval | None = None
    outcome: Outcome = "undecided"
    if resampled is not None:
        part = resampled[:, : len(small.lengths)]
        interval = statistics.quantiles(resampled[:, -1] / _predict(law, small, part, series))
        low, high = 1 / (1 + tolerance), 1 + tolerance
        if low <= interval[0] and interval[1] <= high:
            outcome = "passed"
        elif interval[0] > high or interval[1] < low:
            outcome = "contradicted"
    return Challenge(
        law=law,
        fitted_lengths=list(small.lengths),
        length=largest,
        predicted_seconds=float(predicted[0]),
        measured_seconds=float(series.seconds[-1]),
        ratio=ratio,
        interval=interval,
        tolerance=tolerance,
        outcome=outcome,
    )


def _predict(law: Law, small: Series, seconds: Array, series: Series) -> Array:
    tokens = series.tokens[-1]
    last = float(shape(law, series.lengths[-1:])[0])
    predicted: Array = fit(law, small, seconds).coefficients @ np.array([1.0, tokens, tokens * last])
    return predicted


def rise(series: Series) -> tuple[Estimate, tuple[int, int]] | None:
    """Log of the cost per token at the largest length over that at most an eighth of it.

    Returns:
        The estimate and the two lengths; None where the lengths do not span a factor of eight.
    """
    lower = series.upto(series.lengths[-1] / RISE_FACTOR)
    if not lower.lengths:
        return None
    start, end = len(lower.lengths) - 1, len(series.lengths) - 1
    found = statistics.combine([1.0, -1.0], [series.logs[end], series.logs[start]])
    shift = math.log(series.tokens[start] / series.tokens[end])
    moved = Estimate(found.mean + shift, found.error, found.freedom, found.count)
    return moved, (series.lengths[start], series.lengths[end])


def local_slopes(label: str, sweep: str, series: Series) -> list[LocalSlope]:
    """Exponent of the time per sequence between neighbouring lengths."""
    result = []
    for (first, second), (before, after), (few, many) in zip(
        itertools.pairwise(series.lengths),
        itertools.pairwise(series.logs),
        itertools.pairwise(series.tokens),
        strict=True,
    ):
        distance = math.log(second / first)
        found = statistics.combine([1 / distance, -1 / distance], [after, before])
        # Per sequence: s / batch = s · L / T.
        shift = 1.0 - math.log(many / few) / distance
        interval = found.interval()
        result.append(
            LocalSlope(
                label=label,
                sweep=sweep,
                quantity="time",
                lengths=(first, second),
                slope=found.mean + shift,
                interval=None if interval is None else (interval[0] + shift, interval[1] + shift),
            )
        )
    return result


def weighted(series: Series) -> tuple[Series, bool]:
    """The lengths that have an error, and whether there are such: one that lost a process may have no weight.

    Where no length has an error all are as good as each other.
    """
    known = [place for place, e in enumerate(series.logs) if e.error is not None]
    return (series.at(known), True) if known else (series, False)


def growing(series: Series) -> Growth | None:
    """The law with a free exponent, s = f + T·(u + a·L^b), f only where the lengths tell it from T·u.

    b is that of the growing part of the cost per token: 1 where the cost per sequence is quadratic. u may have any
    sign: bound at 0, b would be pushed up wherever u is 0 in truth, and a logarithm is a small b under a negative u.

    Returns:
        None with fewer than four lengths (five where f is told apart); without an interval where a length has none.
    """
    series, known = weighted(series)
    columns, _ = _design("constant", series)
    tokens = np.asarray(series.tokens, dtype=np.float64)
    errors = np.array([e.error for e in series.logs], dtype=np.float64) if known else None
    freedom = min(e.freedom for e in series.logs)
    found = growth(columns, tokens, series.lengths, series.seconds, errors, freedom)
    # Without errors the scatter about the law is that of single processes, which decides nothing.
    return found if found is None or known else replace(found, interval=None)


def exponent(label: str, sweep: str, series: Series) -> Exponent | None:
    """Exponent of the growing part of the time per sequence, t = c·L + a·L^b: 2 is quadratic; None as for `growing`."""
    found = growing(series)
    if found is None:
        return None
    series, _ = weighted(series)
    return Exponent(
        label=label,
        sweep=sweep,
        quantity="time",
        exponent=1.0 + found.exponent,
        interval=found.moved(1.0),
        constant=found.linear[-1],
        coefficient=found.coefficient / series.lengths[-1] ** found.exponent,
        window=(series.lengths[0], series.lengths[-1]),
        points=len(series.lengths),
        method="power beside a linear part",
    )


def scaling_law(
    label: str, sweep: str, series: Series, *, tolerances: Mapping[Law, float], censored_lengths: Sequence[int]
) -> ScalingLaw | None:
    """Everything about how one label's step grows in one sweep; None with fewer than three lengths.

    Args:
        label: Label.
        sweep: Sweep.
        series: Its step times.
        tolerances: Relative error each law's challenge lets pass.
        censored_lengths: Lengths that ended in OOM or time-out.
    """
    if len(series.lengths) < 3:
        return None
    found = fits(series)
    chosen, best = choose(series, found)
    risen = rise(series)
    return ScalingLaw(
        label=label,
        sweep=sweep,
        lengths=list(series.lengths),
        measured_seconds=[float(s) for s in series.seconds],
        processes=min(e.count for e in series.logs),
        fits=found,
        chosen=chosen,
        best=best,
        challenges=[c for law in LAWS if (c := challenge(law, series, tolerances[law])) is not None],
        rise=None if risen is None else math.exp(risen[0].mean),
        rise_interval=None if risen is None else statistics.exponential(risen[0].interval()),
        rise_window=None if risen is None else risen[1],
        censored_lengths=list(censored_lengths),
    )
