"""From a card to its verdict: which rule decides it, and what rules share.

Supported, refuted or inconclusive where there is something to rule on, else missing. A refuted claim is
a result. Fewer than three processes, or one seed, is at most inconclusive; only peak
memory, which hardly varies between processes, is ruled on by the scatter about its line over lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from harness.analysis.estimates import statistics
from harness.analysis.estimates.scaling import LAWS
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES, ONE_SIDED, Estimate
from harness.analysis.evidence import Evidence
from harness.analysis.results import ClaimResult, ClaimVerdict, Interval, OpenInterval, SpeedupPoint
from harness.analysis.rows import Challenge, Law, ScalingLaw
from harness.errors import UserError
from harness.study.claim import RULES, Card, Verdict

Ruling = tuple[ClaimVerdict, list[ClaimVerdict]]
Question = Literal["", "faster", "growth", "memory", "accuracy", "why", "sure"]

# What a law's challenge lets pass where no claim says otherwise.
_CHALLENGE_TOLERANCE = 0.10


@dataclass(frozen=True)
class Rule:
    """How claims of one kind are decided.

    Attributes:
        decide: From a card and the evidence to the overall verdict and those of its variants.
        statistic: What is computed, in words.
        records: Which records it needs, in words.
        tolerances: Relative error that the challenge of a scaling law lets pass under a card, by law.
        marks_speedup: Whether the card's threshold is a speed-up, to be drawn into its figure.
        question: The page of the report that such claims bear on; "" names them on page one alone.
    """

    decide: Callable[[Card, Evidence], Ruling]
    statistic: str
    records: str
    tolerances: Callable[[Card], Mapping[Law, float]] = lambda card: {}
    marks_speedup: bool = False
    question: Question = ""


def find_rule(name: str) -> Rule:
    """The rule of a name.

    Raises:
        UserError: There is none, its module cannot be imported, or it defines no `RULE`.
    """
    found: Rule = RULES.load(name)
    return found


def tolerances(cards: Iterable[Card]) -> dict[Law, float]:
    """Relative error that each law's challenge lets pass, from the claims that rest on it."""
    found: dict[Law, float] = dict.fromkeys(LAWS, _CHALLENGE_TOLERANCE)
    for card in cards:
        found.update(find_rule(card.rule).tolerances(card))
    return found


def rule(card: Card, evidence: Evidence) -> ClaimResult:
    """Rule on one card. What is wrong with it, such as a number that its rule needs, stands in its verdict, `missing`.

    Raises:
        UserError: There is no such rule.
    """
    chosen = find_rule(card.rule)
    try:
        overall, variants = chosen.decide(card, evidence)
    except UserError as error:
        return unruled(card, evidence.challenger, str(error))
    return _result(card, evidence.challenger, overall, variants)


def unruled(card: Card, challenger: str, why: str) -> ClaimResult:
    """The result of a card that cannot be ruled on, such as one whose challenger the study does not have.

    Raises:
        UserError: There is no such rule.
    """
    return _result(card, challenger, missing(card, "", [why]), [])


def _result(card: Card, challenger: str, overall: ClaimVerdict, variants: Sequence[ClaimVerdict]) -> ClaimResult:
    chosen = find_rule(card.rule)
    return ClaimResult(
        id=card.id,
        rule=card.rule,
        card=card.digest,
        challenger=challenger,
        sentence=card.sentence,
        source=card.source,
        statistic=chosen.statistic,
        records=chosen.records,
        marks_speedup=chosen.marks_speedup,
        overall=overall,
        variants=list(variants),
        setting=card.setting,
        differs=card.differs,
    )


def ruled(
    card: Card,
    variant: str,
    verdict: Verdict,
    *,
    statistic: float | None,
    interval: OpenInterval | None,
    measured: str,
    allowed: str,
    window: tuple[int, int] | None,
    evidence: Sequence[str],
    detail: str,
    missing: Sequence[str] = (),
    size: int | None = None,
    unit: Literal["processes", "seeds"] = "processes",
    obstacles: Sequence[str] = (),
) -> ClaimVerdict:
    """A verdict on one variant of a card: its fields are those of `ClaimVerdict`, `size` its sample size.

    With `obstacles`, what stands against comparing its records at all, it is inconclusive whatever they say.
    """
    if obstacles:
        verdict, size = "inconclusive", None
        detail = f"{detail} Not ruled on: {'; '.join(obstacles)}."
    return ClaimVerdict(
        id=card.id,
        variant=variant,
        verdict=verdict,
        statistic=statistic,
        interval=interval,
        threshold=card.threshold,
        margin=card.margin,
        measured=measured,
        allowed=allowed,
        window=window,
        evidence=list(evidence),
        detail=detail,
        missing=list(missing),
        sample_size=size,
        sample_unit=unit if size else "",
    )


def brackets(interval: OpenInterval | None) -> str:
    """An interval in brackets with a blank before it, or nothing."""
    if interval is None or interval == (None, None):
        return ""
    low, high = ("open" if end is None else f"{end:.3g}" for end in interval)
    return f" [{low}, {high}]"


# The verdict that decides a conjunction, strongest first.
_SEVERITY: tuple[Verdict, ...] = ("refuted", "inconclusive", "missing", "supported")


def threshold(card: Card) -> float:
    """The claim's threshold.

    Raises:
        UserError: The claim has none.
    """
    if card.threshold is None:
        raise UserError(f"claim '{card.id}' has no threshold; its rule needs one; write it on its card")
    return card.threshold


def positive_threshold(card: Card) -> float:
    """The claim's threshold, where it is one of a ratio.

    Raises:
        UserError: The claim has none, or it is no number above 0.
    """
    found = threshold(card)
    if not 0 < found < math.inf:
        raise UserError(f"claim '{card.id}' has the threshold {found:g}; its rule needs a number above 0")
    return found


def margin(card: Card) -> float:
    """The claim's margin.

    Raises:
        UserError: The claim has none, or it is no number from 0 to below 1.
    """
    if card.margin is None:
        raise UserError(f"claim '{card.id}' has no margin; its rule needs one; write it on its card")
    if not 0 <= card.margin < 1:
        raise UserError(f"claim '{card.id}' has the margin {card.margin:g}; its rule needs a number from 0 to below 1")
    return card.margin


def missing(card: Card, variant: str, what: Sequence[str]) -> ClaimVerdict:
    """The verdict where nothing that could decide was measured."""
    return ClaimVerdict(
        id=card.id,
        variant=variant,
        verdict="missing",
        threshold=card.threshold,
        margin=card.margin,
        detail=f"Nothing to rule on: {'; '.join(what)}.",
        missing=list(what),
    )


def conjunction(
    card: Card, variants: Sequence[ClaimVerdict], nothing: str, *, larger_is_stronger: bool = True
) -> ClaimVerdict:
    """The overall verdict of a claim that must hold for every one of its variants.

    Refuted if any variant is refuted; supported if all are supported; missing if all are missing; else
    inconclusive. The numbers are those of the variant that decides: of those with the verdict that
    counts, the one that speaks least for the card.

    Args:
        card: The claim.
        variants: Verdicts on its variants.
        nothing: What is missing where there are none.
        larger_is_stronger: Whether a larger statistic speaks more for the card.
    """
    if not variants:
        return missing(card, "", [nothing])
    verdicts = [v.verdict for v in variants]
    verdict: Verdict = "inconclusive"
    if "refuted" in verdicts:
        verdict = "refuted"
    elif len(set(verdicts)) == 1:
        verdict = verdicts[0]

    def strength(v: ClaimVerdict) -> tuple[int, float]:
        value = math.inf if v.statistic is None else v.statistic if larger_is_stronger else -v.statistic
        return _SEVERITY.index(v.verdict), value

    deciding = min(variants, key=strength)
    if len(variants) == 1:
        return msgspec.structs.replace(deciding, variant="")
    larger = max(variants, key=lambda v: v.sample_size or 0) if verdict == "inconclusive" else None
    parts = ", ".join(f"{v.variant}: {v.verdict}{number(v.statistic)}" for v in variants)
    return msgspec.structs.replace(
        deciding,
        variant="",
        verdict=verdict,
        detail=f"{parts}. {deciding.variant}: {deciding.detail}",
        evidence=list(dict.fromkeys(path for v in variants for path in v.evidence)),
        missing=list(dict.fromkeys(what for v in variants for what in v.missing)),
        sample_size=larger.sample_size if larger else None,
        sample_unit=larger.sample_unit if larger else "",
    )


def after_holm(overall: ClaimVerdict, p_values: Sequence[float], what: str) -> ClaimVerdict:
    """A refutation of a conjunction must survive Holm's correction over all that could have refuted it.

    Args:
        overall: The conjunction's verdict.
        p_values: One-sided p-values of what refutes, one a comparison.
        what: What was compared, in the plural.
    """
    if overall.verdict != "refuted" or min(statistics.holm(p_values), default=0.0) < ONE_SIDED:
        return overall
    detail = f"{overall.detail} Among {len(p_values)} {what} one such is not enough (Holm's correction)."
    return msgspec.structs.replace(overall, verdict="inconclusive", detail=detail)


def exceeds(interval: Interval | None, limit: float) -> Verdict:
    """Supported where the whole interval lies above a limit, refuted where it lies below."""
    if interval is None or interval[0] <= limit <= interval[1]:
        return "inconclusive"
    return "supported" if interval[0] > limit else "refuted"


def number(value: float | None) -> str:
    """A statistic in brackets, or nothing."""
    return "" if value is None else f" ({value:.3g})"


def span(interval: OpenInterval | None, unit: str = "") -> str:
    """An interval in words."""
    if interval is None:
        return "no interval"
    low, high = ("open" if end is None else f"{end:.3g}{unit}" for end in interval)
    return f"95 % interval {low} to {high}"


def settled(verdict: Verdict, gaps: Sequence[str]) -> Verdict:
    """Nothing is supported while a cell is missing: it may be the one that would say no."""
    return "inconclusive" if verdict == "supported" and gaps else verdict


def single(card: Card, variants: list[ClaimVerdict], nothing: str) -> Ruling:
    """A claim about one label: the overall verdict says it all unless there are several sweeps."""
    overall = conjunction(card, variants, nothing, larger_is_stronger=False)
    return overall, variants if len(variants) > 1 else []


def processes(found: Estimate, gap: float, comparisons: int = 1) -> int | None:
    """Processes that would decide; the least that can where the spread is not known yet."""
    return MINIMUM_PROCESSES if found.error is None else statistics.sample_size(found, gap, comparisons)


def challenge(law: ScalingLaw, name: Law) -> Challenge | None:
    """How a law met the largest length; None where it was not challenged."""
    return next((c for c in law.challenges if c.law == name), None)


def grows(law: ScalingLaw) -> bool:
    """Whether the data single out a law that grows."""
    return law.chosen in ("log", "linear")


def not_contradicted(check: Challenge | None) -> bool:
    """What support asks of a challenge: an interval, and that it meets the tolerance."""
    return check is not None and check.interval is not None and check.outcome != "contradicted"


def challenge_words(check: Challenge | None) -> str:
    """How a challenge ended, in words."""
    if check is None:
        return "too few small lengths to challenge the law"
    return (
        f"challenge {check.outcome}: the {check.law} law fitted up to {check.fitted_lengths[-1]:,} meets "
        f"{check.ratio:.3g} times its prediction at {check.length:,} ({span(check.interval)}, "
        f"tolerance {check.tolerance:.0%})"
    )


def control_gaps(evidence: Evidence, sweep: str) -> list[str]:
    """What the A/A control of a sweep lacks."""
    if evidence.floor(sweep) is not None:
        return []
    return [
        f"the A/A control: {MINIMUM_PROCESSES} processes of {evidence.challenger} at every length of {sweep}",
        *evidence.gaps(evidence.challenger, sweep),
    ]


def gives_way(bias: float) -> str:
    """A sentence on bounds that give way to what the A/A control shows, or ""; `bias` as `Evidence.bias` has it."""
    return f" The A/A control leaves 1: bounds give way by {bias:.3g}×." if bias > 1 else ""


def unpaired(points: Sequence[SpeedupPoint]) -> str:
    """A clause on lengths whose sides were not timed in pairs."""
    apart = [f"{p.length:,}" for p in points if not p.paired]
    return f"; timed one after the other at {', '.join(apart)}" if apart else ""


def window(lengths: Interval | tuple[int, int] | None) -> str:
    """Shortest and longest length, in words."""
    return "no window" if lengths is None else f"{lengths[0]:,} to {lengths[1]:,}"
