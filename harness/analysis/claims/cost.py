"""Rules of the claims about time and memory. Thresholds and margins come from the claims alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from harness.analysis.claims.evidence import Findings, conjunction, margin, missing, span, threshold
from harness.analysis.estimates import memory as memory_module
from harness.analysis.estimates import speedup, statistics, streams
from harness.analysis.estimates.accuracy import p_values
from harness.analysis.estimates.scaling import contrasts, processes_that_choose, rise
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES, ONE_SIDED, Estimate
from harness.analysis.estimates.timing import STREAM
from harness.analysis.results import ClaimVerdict, Interval, SpeedupPoint
from harness.analysis.rows import Challenge, Law, ScalingLaw
from harness.study.claim import Claim, Verdict

Ruling = tuple[ClaimVerdict, list[ClaimVerdict]]


def linear_time(claim: Claim, findings: Findings) -> Ruling:
    """The timing partner's cost per token does not rise with length.

    Supported when over the upper 8× of lengths it rises by at most the threshold (whole interval) and
    the constant law, fitted up to a quarter of the largest length and with the same tolerance, is not
    contradicted by the largest. Refuted when the whole interval of the rise lies above the threshold.
    """
    limit = threshold(claim)
    partner = findings.partner
    variants = []
    for name, label, sweep in findings.arms([partner]):
        law, series = findings.law(label, sweep), findings.series.get((label, sweep, "step"))
        gaps = findings.gaps(label, sweep)
        if law is None or series is None:
            variants.append(missing(claim, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        risen = rise(series)
        check = _challenge(law, "constant")
        bounds = law.rise_interval
        verdict: Verdict = "inconclusive"
        size = None
        if risen is None:
            why = "The lengths do not span a factor of eight."
        else:
            why = (
                f"Over {_window(law.rise_window)} the cost per token changes by a factor of {law.rise:.3g} "
                f"({span(bounds)}), allowed {limit:.3g}; {_challenge_words(check)}."
            )
        if bounds is not None and bounds[0] > limit:
            verdict = "refuted"
        elif bounds is not None and bounds[1] <= limit and _not_contradicted(check):
            verdict = "supported"
        elif risen is not None and (bounds is None or bounds[1] > limit):
            size = _processes(risen[0], abs(math.log(limit) - risen[0].mean))
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=_settled(verdict, gaps),
                statistic=law.rise,
                interval=bounds,
                threshold=limit,
                margin=claim.margin,
                window=law.rise_window or (law.lengths[0], law.lengths[-1]),
                evidence=findings.evidence([label], sweep),
                detail=why + _fixed_words(law) + findings.ran(label, sweep) + findings.bounded(label, sweep),
                missing=gaps,
                sample_size=size,
                sample_unit="processes" if size else "",
            )
        )
    return _single(claim, variants, f"speed cells of {partner} at constant tokens")


def quadratic_attention(claim: Claim, findings: Findings) -> Ruling:
    """The cost per token of attention grows as length, per kernel.

    Supported when the growth v of the law T·(u + v·L) has an interval above 0, the data single that law
    out, and its challenge, with the claim's margin, does not contradict it. Refuted when the data single
    out a law that grows more slowly and the challenge contradicts the linear one. Overall: every kernel.
    """
    margin(claim)
    variants = []
    for name, label, sweep in findings.arms(findings.attention()):
        law, gaps = findings.law(label, sweep), findings.gaps(label, sweep)
        if law is None:
            variants.append(missing(claim, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        fit = next(f for f in law.fits if f.law == "linear")
        check = _challenge(law, "linear")
        grows = fit.growth_interval is not None and fit.growth_interval[0] > 0
        verdict: Verdict = "inconclusive"
        # Growth alone is no n²: with noise of 15 % n log n seldom contradicts the linear law.
        if grows and _not_contradicted(check) and law.chosen == "linear":
            verdict = "supported"
        elif law.chosen in ("constant", "log") and check is not None and check.outcome == "contradicted":
            verdict = "refuted"
        size, own = None, findings.series[label, sweep, "step"]
        if verdict == "inconclusive" and not grows:
            free = contrasts("linear", own)
            size = _processes(free[-1], abs(free[-1].mean)) if free else None
        elif verdict == "inconclusive" and law.chosen is None:
            size = processes_that_choose(own)
        chosen = f"the data single out the {law.chosen} law" if law.chosen else "no single law is singled out"
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=_settled(verdict, gaps),
                statistic=fit.growth_seconds,
                interval=fit.growth_interval,
                threshold=claim.threshold,
                margin=claim.margin,
                window=(law.lengths[0], law.lengths[-1]),
                evidence=findings.evidence([label], sweep),
                detail=f"Growth of the cost per token {fit.growth_seconds:.3g} s per event of length "
                f"({span(fit.growth_interval)}); {_challenge_words(check)}; {chosen}.{findings.bounded(label, sweep)}",
                missing=gaps,
                sample_size=size,
                sample_unit="processes" if size else "",
            )
        )
    return conjunction(claim, variants, "speed cells of an attention model at constant tokens"), variants


def speedup_6x(claim: Claim, findings: Findings) -> Ruling:
    """The paired speed-up over attention reaches the threshold somewhere, per kernel.

    Supported when the largest simultaneous lower bound over the lengths reaches the threshold and the
    speed-up is above the A/A noise floor; refuted, within the measured lengths, when all upper bounds
    lie below and every length of the study was measured: where attention ran out of memory or time
    the speed-up may be largest.

    A speed-up over `math` is another claim than one over `flash`: each kernel has its verdict, and the
    overall claim, "than attention", holds only if it holds over every kernel measured and is refuted
    by any.
    """
    limit = threshold(claim)
    variants = []
    for name, label, sweep in findings.arms(findings.attention()):
        points, gaps = findings.points(label, sweep), findings.gaps(label, sweep)
        if not points:
            variants.append(missing(claim, name, gaps or [f"paired speed cells of {label} in {sweep}"]))
            continue
        estimates = speedup.estimates(points)
        bounds = [p.simultaneous for p in points]
        complete = [b for b in bounds if b is not None]
        if complete:
            place = max(range(len(points)), key=lambda i: (bounds[i] or (0.0, 0.0))[0])
        else:
            place = max(range(len(points)), key=lambda i: points[i].speedup)
        best, floor = points[place], findings.floor(sweep)
        lacks = [*gaps, *_control_gaps(findings, sweep)]
        all_below = len(complete) == len(points) and all(b[1] < limit for b in complete)
        verdict: Verdict = "inconclusive"
        if (
            best.simultaneous is not None
            and best.simultaneous[0] >= limit
            and floor is not None
            and best.speedup > floor
        ):
            verdict = "supported"
        elif all_below and not gaps and not findings.bounded(label, sweep) and floor is not None:
            verdict = "refuted"
        size = None
        # Where only a length that could not be measured keeps it open, no number of processes decides.
        if verdict == "inconclusive" and floor is not None and not all_below:
            size = _processes(estimates[place], abs(estimates[place].mean - math.log(limit)), len(points))
        cross = next((c.sentence for c in findings.crossovers if (c.label, c.sweep) == (label, sweep)), "")
        within = " within the measured lengths" if verdict == "refuted" else ""
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=verdict,
                statistic=best.speedup,
                interval=best.simultaneous,
                threshold=limit,
                margin=claim.margin,
                window=(points[0].length, points[-1].length),
                evidence=findings.evidence([label, findings.partner], sweep),
                detail=f"Largest speed-up over {label}{within}: {best.speedup:.3g}× at length {best.length:,} "
                f"(simultaneous {span(best.simultaneous, '×')}{_unpaired(points)}). {cross}"
                f"{findings.bounded(label, sweep)}",
                missing=lacks,
                sample_size=size,
                sample_unit="processes" if size else "",
            )
        )
    return conjunction(claim, variants, "paired speed cells of an attention model at constant tokens"), variants


def long_sequences(claim: Claim, findings: Findings) -> Ruling:
    """The speed-up over attention grows with length, per kernel.

    The statistic is the slope of the log speed-up in log length. Supported when its whole interval
    lies above the threshold and the change over the window is above the A/A noise floor; refuted when
    its whole interval lies at or below the threshold. Overall: every kernel, and refuted only where one
    is after Holm's correction for their number.
    """
    limit = threshold(claim)
    variants, below = [], []
    for name, label, sweep in findings.arms(findings.attention()):
        points, gaps = findings.points(label, sweep), findings.gaps(label, sweep)
        found = speedup.trend(points) if len(points) >= 3 else None
        if found is None:
            variants.append(missing(claim, name, gaps or [f"three lengths of {label} in {sweep}"]))
            continue
        trend, estimate = found
        below.append(p_values(estimate, limit)[1])
        floor, interval = findings.floor(sweep), trend.interval
        change = abs(trend.slope) * math.log(trend.window[1] / trend.window[0])
        above_noise = floor is not None and change > math.log(floor)
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[0] > limit and above_noise:
            verdict = "supported"
        elif interval is not None and interval[1] <= limit and floor is not None:
            verdict = "refuted"
        size = None
        if verdict == "inconclusive" and (interval is None or interval[0] <= limit):
            size = _processes(estimate, abs(trend.slope - limit))
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=_settled(verdict, gaps),
                statistic=trend.slope,
                interval=interval,
                threshold=limit,
                margin=claim.margin,
                window=trend.window,
                evidence=findings.evidence([label, findings.partner], sweep),
                detail=f"The speed-up over {label} goes as length to the power {trend.slope:.3g} ({span(interval)}), "
                f"from {points[0].speedup:.3g}× at {points[0].length:,} to {points[-1].speedup:.3g}× at "
                f"{points[-1].length:,}.{findings.bounded(label, sweep)}",
                missing=[*gaps, *_control_gaps(findings, sweep)],
                sample_size=size,
                sample_unit="processes" if size else "",
            )
        )
    overall = conjunction(claim, variants, "paired speed cells of an attention model at constant tokens")
    if overall.verdict == "refuted" and min(statistics.holm(below)) >= ONE_SIDED:
        detail = f"{overall.detail} Among {len(below)} kernels one such is not enough (Holm's correction)."
        overall = msgspec.structs.replace(overall, verdict="inconclusive", detail=detail)
    return overall, variants


def linear_memory(claim: Claim, findings: Findings) -> Ruling:
    """The timing partner's net peak at a constant batch is linear in length.

    Supported when the whole interval of the exponent lies at or below the threshold and the longest
    length does not exceed the line a + b·L through the others by more than the margin: a constant hides
    growth from the exponent. Refuted when the interval lies above the threshold. Over four lengths or more.
    """
    limit = threshold(claim)
    tolerance = memory_module.CHALLENGE_TOLERANCE if claim.margin is None else claim.margin
    partner = findings.partner
    variants = []
    for name, label, sweep in findings.arms([partner], constant="batch", measure="memory"):
        points = memory_module.series(findings.memory, label, sweep)
        found, gaps = memory_module.slope(points), findings.gaps(label, sweep)
        if found is None:
            least = memory_module.MINIMUM_LENGTHS
            have = f"{least} lengths with a memory pass of {label} in {sweep}, there are {len(points)}"
            variants.append(missing(claim, name, [have, *gaps]))
            continue
        interval = found.interval()
        bend = memory_module.challenge(points)
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[1] <= limit and bend <= 1 + tolerance:
            verdict = "supported"
        elif interval is not None and interval[0] > limit:
            verdict = "refuted"
        size = None
        if interval is not None and interval[0] <= limit < interval[1]:
            # The error is that of a line over lengths: so many of them, in the same window, would do.
            size = statistics.sample_size(found, abs(limit - found.mean))
        wanted = {p.length for p in points}
        paths = [
            c.path for c, r in findings.folder.speed() if (r.label, r.sweep) == (label, sweep) and r.length in wanted
        ]
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=_settled(verdict, gaps),
                statistic=found.mean,
                interval=interval,
                threshold=limit,
                margin=claim.margin,
                window=(points[0].length, points[-1].length),
                evidence=paths,
                detail=f"Peak memory of {label} less the peak at a tiny batch goes as length to the power "
                f"{found.mean:.3g} ({span(interval)}) over {len(points)} lengths; at {points[-1].length:,} it is "
                f"{bend:.3g} times what a line through the shorter ones predicts, allowed {1 + tolerance:.3g}."
                f"{findings.bounded(label, sweep)}",
                missing=gaps,
                sample_size=size,
                sample_unit="lengths" if size else "",
            )
        )
    return _single(claim, variants, f"memory passes of {partner} at a constant batch")


def streaming(claim: Claim, findings: Findings) -> Ruling:
    """The streamed step's time does not grow with the history.

    The statistic is its time in the second half of the longest over that in the second half of the
    shortest history, of the longest model, both timed alternately in one process. Supported when the whole
    interval lies at or below the threshold, refuted when it lies above.
    """
    limit = threshold(claim)
    partner = findings.partner
    variants = []
    sweeps = dict.fromkeys(g.sweep for g in findings.groups if (g.label, g.phase) == (partner, STREAM))
    for sweep in sweeps:
        name = partner if len(sweeps) == 1 else f"{partner} ({sweep})"
        rows = streams.longest(findings.streams, partner, sweep)
        if not rows:
            variants.append(missing(claim, name, [f"streamed steps of {partner} after two histories or more"]))
            continue
        last, gaps = rows[-1], findings.gaps(partner, sweep)
        found = statistics.estimate([math.log(r) for r in last.process_ratios])
        interval = last.ratio_interval
        verdict: Verdict = "inconclusive"
        if interval is not None and interval[1] <= limit:
            verdict = "supported"
        elif interval is not None and interval[0] > limit:
            verdict = "refuted"
        size = _processes(found, abs(math.log(limit) - found.mean)) if verdict == "inconclusive" else None
        used = [g for g in findings.groups if (g.label, g.sweep, g.phase) == (partner, sweep, STREAM)]
        variants.append(
            ClaimVerdict(
                id=claim.id,
                variant=name,
                verdict=_settled(verdict, gaps),
                statistic=last.ratio,
                interval=interval,
                threshold=limit,
                margin=claim.margin,
                window=(last.shortest, last.history),
                evidence=[path for g in used if g.length == last.length for path in g.paths],
                detail=f"One more event costs {last.ratio:.3g} times as much within a history of {last.history:,} "
                f"events as within one of {last.shortest:,} ({span(interval)}): {1e6 * last.event_seconds:.3g} and "
                f"{1e6 * rows[0].event_seconds:.3g} µs, the longer timed over {streams.events(used, last):,} events "
                f"of its second half, for streams no longer than the kernel's window."
                f"{findings.bounded(partner, sweep)}",
                missing=gaps,
                sample_size=size,
                sample_unit="processes" if size else "",
            )
        )
    return _single(claim, variants, f"streamed steps of {partner} in speed cells")


def _settled(verdict: Verdict, gaps: Sequence[str]) -> Verdict:
    """Nothing is supported while a cell is missing: it may be the one that would say no."""
    return "inconclusive" if verdict == "supported" and gaps else verdict


def _single(claim: Claim, variants: list[ClaimVerdict], nothing: str) -> Ruling:
    """A claim about one label: the overall verdict says it all unless there are several sweeps."""
    overall = conjunction(claim, variants, nothing, larger_is_stronger=False)
    return overall, variants if len(variants) > 1 else []


def _processes(found: Estimate, gap: float, comparisons: int = 1) -> int | None:
    """Processes that would decide; the least that can where the spread is not known yet."""
    return MINIMUM_PROCESSES if found.error is None else statistics.sample_size(found, gap, comparisons)


def _challenge(law: ScalingLaw, name: Law) -> Challenge | None:
    return next((c for c in law.challenges if c.law == name), None)


def _not_contradicted(check: Challenge | None) -> bool:
    """What support asks of a challenge: an interval, and that it meets the tolerance."""
    return check is not None and check.interval is not None and check.outcome != "contradicted"


def _challenge_words(check: Challenge | None) -> str:
    if check is None:
        return "too few small lengths to challenge the law"
    return (
        f"challenge {check.outcome}: the {check.law} law fitted up to {check.fitted_lengths[-1]:,} meets "
        f"{check.ratio:.3g} times its prediction at {check.length:,} ({span(check.interval)}, "
        f"tolerance {check.tolerance:.0%})"
    )


def _fixed_words(law: ScalingLaw) -> str:
    """A clause on the fixed cost where the lengths tell it from the cost per token."""
    fit = next(f for f in law.fits if f.law == law.best)
    if fit.fixed_seconds is None or fit.fixed_interval is None or fit.fixed_interval[0] <= 0:
        return ""
    low, high = fit.fixed_interval
    return (
        f" {fit.fixed_seconds:.3g} s a step are fixed cost (95 % interval {low:.3g} to {high:.3g}), "
        f"{fit.fixed_seconds / fit.fitted_seconds[0]:.0%} of the step at {law.lengths[0]:,} and "
        f"{fit.fixed_seconds / fit.fitted_seconds[-1]:.0%} at {law.lengths[-1]:,}."
    )


def _control_gaps(findings: Findings, sweep: str) -> list[str]:
    if findings.floor(sweep) is not None:
        return []
    return [
        f"the A/A control: {MINIMUM_PROCESSES} processes of {findings.partner} at every length of {sweep}",
        *findings.gaps(findings.partner, sweep),
    ]


def _unpaired(points: Sequence[SpeedupPoint]) -> str:
    apart = [f"{p.length:,}" for p in points if not p.paired]
    return f"; timed one after the other at {', '.join(apart)}" if apart else ""


def _window(window: Interval | tuple[int, int] | None) -> str:
    return "no window" if window is None else f"{window[0]:,} to {window[1]:,}"
