"""Where it is faster, the challenger ranks no worse."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from harness.analysis.claims._ranking import (
    Pair,
    absent,
    below,
    built_in,
    opponents_among,
    pairs_with,
    untrained,
    weakest,
)
from harness.analysis.estimates import accuracy
from harness.analysis.estimates.statistics import Estimate
from harness.analysis.evidence import Evidence
from harness.analysis.results import ClaimVerdict
from harness.analysis.ruling import Rule, Ruling, after_holm, conjunction, margin, missing
from harness.study.claim import Card


def decide(card: Card, evidence: Evidence) -> Ruling:
    """Where the timing partner is faster than attention and trained, it ranks no worse; per kernel.

    Faster: simultaneous interval above 1 and the effect above the noise floor. A ruling covers the
    trained ones of those lengths and names them; the others, about which it says nothing, stand in
    `missing`. Supported when the relative difference's whole interval lies above minus the margin at all
    lengths covered, refuted when one lies wholly below (after Holm's correction). Attention that ranks below the
    best untrained reference is no opponent: where all of it does, the difference is shown and nothing is decided.
    Support asks for three seeds and a data set that is not built in.

    Kernels of one attention model compute the same: one that the study only times is ruled on by the
    training of one that it trains. Overall: every kernel, and refuted only where a comparison is after
    Holm's correction for those of all kernels.
    """
    allowed = margin(card)
    variants: list[ClaimVerdict] = []
    decisive: list[Pair] = []
    for label in evidence.opponents(card):
        faster = {
            p.length for p in evidence.speedups if p.label == label and p.faster and _at_tokens(evidence, p.sweep)
        }
        timed = {p.length for p in evidence.speedups if p.label == label and _at_tokens(evidence, p.sweep)}
        learned = _trained_kernel(evidence, label)
        pairs = pairs_with(evidence, [learned])
        trained = sorted({p.row.length for p in pairs if p.row.length is not None})
        there = [p for p in pairs if p.row.length in faster]
        own, weak = opponents_among(evidence, there)
        compared = own or there
        if not compared:
            lacks = absent(evidence, [learned]) if not pairs else []
            if not timed:
                lacks.append(f"paired speed cells of {label} at constant tokens")
            if pairs and timed:
                lacks.append(
                    f"training cells at a length where {evidence.challenger} is faster than {label} "
                    f"(trained at {_listed(trained)})"
                )
            variants.append(missing(card, label, lacks or [untrained(evidence, [evidence.challenger, label])]))
            continue
        decisive += own
        ruled = weakest(
            card,
            label,
            compared,
            [*absent(evidence, [learned]), *weak, *built_in(evidence, (p.row.dataset for p in compared))],
            bound=-allowed,
            value=_relative,
            words=f"relative NDCG@10 difference at lengths where {evidence.challenger} is faster",
            # What was measured stands, but against nobody who is an opponent nothing follows from it.
            obstacles=[] if own else [f"it lacks {', '.join(weak)}"],
        )
        beyond = sorted(faster - set(trained))
        words = f" Covers length {_listed(sorted(faster & set(trained)))}"
        words += f", not {_listed(beyond)}, where it is faster too." if beyond else ", all where it is faster."
        if learned != label:
            words += f" {learned} was trained for {label}: only the attention kernel differs."
        lacks = [f"training cells at length {_listed(beyond)}, where {evidence.challenger} is faster than {label}"]
        variants.append(
            msgspec.structs.replace(
                ruled, detail=ruled.detail + words, missing=[*ruled.missing, *(lacks if beyond else [])]
            )
        )
    return over_kernels(card, variants, decisive), variants


def over_kernels(card: Card, variants: list[ClaimVerdict], decisive: Sequence[Pair]) -> ClaimVerdict:
    """Every kernel; a refutation must survive Holm's correction over the comparisons of all of them."""
    overall = conjunction(card, variants, "training cells of an attention model")
    # Kernels that share a training share its comparisons.
    distinct = {accuracy.key(p.row): p for p in decisive}
    return after_holm(overall, below(distinct.values(), -margin(card), _relative), "comparisons")


def _trained_kernel(evidence: Evidence, label: str) -> str:
    """The label, or if it is only timed one that is trained and differs from it in the kernel alone."""
    models: dict[str, tuple[str, dict[str, object]]] = {}
    trained = []
    for cell in evidence.folder.manifest.cells:
        model = cell.spec.model
        models[cell.label] = (model.name, {k: v for k, v in model.options.items() if k != "attention"})
        if cell.kind == "training":
            trained.append(cell.label)
    return next((t for t in [label, *trained] if t in trained and models[t] == models[label]), label)


def _relative(pair: Pair) -> Estimate:
    return pair.relative


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(f"{length:,}" for length in lengths)


def _at_tokens(evidence: Evidence, sweep: str) -> bool:
    return any(g.sweep == sweep and g.constant == "tokens" for g in evidence.groups)


RULE = Rule(
    decide,
    statistic="lower bound of the relative difference in test NDCG@10 to attention at the trained lengths where it "
    "is faster",
    records="training cells of the challenger and the opponents at the same length, and paired speed cells there",
    question="accuracy",
)
