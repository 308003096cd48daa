"""Rules of the claims about ranking quality. Thresholds and margins come from the claims alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from harness.analysis.claims.evidence import Findings, conjunction, margin, missing, number, span, threshold
from harness.analysis.estimates import accuracy, statistics
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.statistics import ONE_SIDED, Estimate
from harness.analysis.results import AccuracyDifference, ClaimVerdict
from harness.records.schema import TrainingRecord
from harness.study.claim import Claim, Verdict

# Baselines that the sentence of the claim `accuracy` names.
_FAMILIES = ("attention", "recurrent")

Ruling = tuple[ClaimVerdict, list[ClaimVerdict]]


@dataclass(frozen=True)
class _Pair:
    """One comparison of the timing partner with one label; `collapsed` names the runs it leaves out."""

    row: AccuracyDifference
    absolute: Estimate
    relative: Estimate
    evidence: tuple[str, ...]
    below_reference: bool
    collapsed: tuple[str, ...] = ()


def ranks_better(claim: Claim, findings: Findings) -> Ruling:
    """The timing partner ranks better than every trained baseline, per data set and over all.

    Supported when every single comparison, at the same length and on the same split, has its whole
    interval above the threshold (intersection-union, no correction); refuted when a comparison lies
    below after Holm's correction. Overall the same over all comparisons of all data sets. One seed
    decides nothing. Nothing is supported while a seed of the partner's own collapsed, nor on a data set
    without an attention and a recurrent baseline, as the sentence names both.
    """
    own_name = findings.model_name(findings.partner)
    baselines = [
        label
        for label in findings.folder.labels()
        if findings.model_name(label) != own_name and not _reference(findings, label)
    ]
    nothing = "training cells of a baseline"
    return _against(claim, findings, baselines, by_dataset=True, nothing=nothing, families=_FAMILIES)


def kernel(claim: Claim, findings: Findings) -> Ruling:
    """The timing partner ranks better than its own model with every other kernel, by the same rule.

    The other reading of the Legendre kernel (`legendre-mlp`) counts as Legendre.
    """
    own_name = findings.model_name(findings.partner)
    others = []
    for cell in findings.folder.manifest.cells:
        options = cell.spec["model"]["options"]
        other = not str(options.get("kernel", "legendre")).startswith("legendre")
        if (
            cell.kind == "training"
            and cell.spec["model"]["name"] == own_name
            and other
            and cell.label != findings.partner
        ):
            others.append(cell.label)
    wanted = list(dict.fromkeys(others))
    nothing = f"training cells of {findings.partner} variants with other kernels"
    return _against(claim, findings, wanted, by_dataset=False, nothing=nothing)


def no_sacrifice(claim: Claim, findings: Findings) -> Ruling:
    """Where the timing partner is faster than attention and trained, it ranks no worse; per kernel.

    Faster: simultaneous interval above 1 and the effect above the noise floor. A ruling covers the
    trained ones of those lengths and names them; the others, about which it says nothing, stand in
    `missing`. Supported when the relative difference's whole interval lies above minus the margin at all
    lengths covered, refuted when one lies wholly below (after Holm's correction).

    Kernels of one attention model compute the same: one that the study only times is ruled on by the
    training of one that it trains. Overall: every kernel, and refuted only where a comparison is after
    Holm's correction for those of all kernels.
    """
    allowed = margin(claim)
    variants: list[ClaimVerdict] = []
    decisive: list[_Pair] = []
    for label in findings.attention():
        faster = {
            p.length for p in findings.speedups if p.label == label and p.faster and _at_tokens(findings, p.sweep)
        }
        timed = {p.length for p in findings.speedups if p.label == label and _at_tokens(findings, p.sweep)}
        learned = _trained_kernel(findings, label)
        pairs = _pairs(findings, [learned])
        trained = sorted({p.row.length for p in pairs if p.row.length is not None})
        own = [p for p in pairs if p.row.length in faster]
        if not own:
            lacks = _absent(findings, [learned]) if not pairs else []
            if not timed:
                lacks.append(f"paired speed cells of {label} at constant tokens")
            if pairs and timed:
                lacks.append(
                    f"training cells at a length where {findings.partner} is faster than {label} "
                    f"(trained at {_listed(trained)})"
                )
            variants.append(missing(claim, label, lacks or [_untrained(findings, [findings.partner, label])]))
            continue
        decisive += own
        ruled = _rule(
            claim,
            label,
            own,
            _absent(findings, [learned]),
            bound=-allowed,
            value=_relative,
            words=f"relative NDCG@10 difference at lengths where {findings.partner} is faster",
        )
        beyond = sorted(faster - set(trained))
        words = f" Covers length {_listed(sorted(faster & set(trained)))}"
        words += f", not {_listed(beyond)}, where it is faster too." if beyond else ", all where it is faster."
        if learned != label:
            words += f" {learned} was trained for {label}: only the attention kernel differs."
        lacks = [f"training cells at length {_listed(beyond)}, where {findings.partner} is faster than {label}"]
        variants.append(
            msgspec.structs.replace(
                ruled, detail=ruled.detail + words, missing=[*ruled.missing, *(lacks if beyond else [])]
            )
        )
    return _over_kernels(claim, variants, decisive), variants


def _over_kernels(claim: Claim, variants: list[ClaimVerdict], decisive: Sequence[_Pair]) -> ClaimVerdict:
    """Every kernel; a refutation must survive Holm's correction over the comparisons of all of them."""
    overall = conjunction(claim, variants, "training cells of an attention model")
    # Kernels that share a training share its comparisons.
    distinct = {(p.row.dataset, p.row.split_sha256, p.row.label, p.row.length): p for p in decisive}
    if overall.verdict == "refuted" and min(_below([*distinct.values()], -margin(claim), _relative)) >= ONE_SIDED:
        detail = f"{overall.detail} Among {len(distinct)} comparisons one such is not enough (Holm's correction)."
        overall = msgspec.structs.replace(overall, verdict="inconclusive", detail=detail)
    return overall


def _trained_kernel(findings: Findings, label: str) -> str:
    """The label, or if it is only timed one that is trained and differs from it in the kernel alone."""
    models: dict[str, tuple[str, dict[str, object]]] = {}
    trained = []
    for cell in findings.folder.manifest.cells:
        model = cell.spec["model"]
        models[cell.label] = (model["name"], {k: v for k, v in model["options"].items() if k != "attention"})
        if cell.kind == "training":
            trained.append(cell.label)
    return next((t for t in [label, *trained] if t in trained and models[t] == models[label]), label)


def _relative(pair: _Pair) -> Estimate:
    return pair.relative


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(f"{length:,}" for length in lengths)


def _against(
    claim: Claim,
    findings: Findings,
    labels: list[str],
    *,
    by_dataset: bool,
    nothing: str,
    families: Sequence[str] = (),
) -> Ruling:
    """Comparisons with these labels, a variant per data set or per label; each set needs all `families`."""
    bound = threshold(claim)
    datasets = list(dict.fromkeys(c.spec["dataset"] for c in findings.folder.manifest.cells if c.kind == "training"))
    trained = {c.label for c in findings.folder.manifest.cells if c.kind == "training"}
    wanted = [label for label in labels if label in trained]
    variants, everything, lacks = [], [], []
    groups = [(d, wanted, [d]) for d in datasets] if by_dataset else [(label, [label], datasets) for label in wanted]
    for name, members, sets in groups if wanted else []:
        pairs = [p for p in _pairs(findings, members) if p.row.dataset in sets]
        absent = _absent(findings, members, sets)
        known = {p.row.family for p in pairs} if pairs else set(families)
        absent += [f"a trained {family} baseline on {name}" for family in families if family not in known]
        everything += pairs
        lacks += absent if pairs else absent or [nothing]
        if pairs:
            variants.append(
                _rule(claim, name, pairs, absent, bound=bound, value=lambda p: p.absolute, words="NDCG@10 difference")
            )
        else:
            variants.append(missing(claim, name, absent or [nothing]))
    overall = conjunction(claim, variants, nothing)
    if everything and len(variants) > 1:
        # Over all, Holm's correction counts the comparisons of all variants together.
        joint = _rule(
            claim, "", everything, lacks, bound=bound, value=lambda p: p.absolute, words="NDCG@10 difference over all"
        )
        parts = ", ".join(f"{v.variant}: {v.verdict}{number(v.statistic)}" for v in variants)
        overall = msgspec.structs.replace(joint, missing=list(dict.fromkeys(lacks)), detail=f"{parts}. {joint.detail}")
    return overall, variants


def _rule(
    claim: Claim,
    name: str,
    pairs: Sequence[_Pair],
    absent: list[str],
    *,
    bound: float,
    value: Callable[[_Pair], Estimate],
    words: str,
) -> ClaimVerdict:
    """Intersection-union for support, Holm for refutation, against `bound`."""
    estimates = [value(p) for p in pairs]
    intervals = [e.interval() for e in estimates]
    several = [p.row.seeds > 1 for p in pairs]
    below = _below(pairs, bound, value)
    verdict: Verdict = "inconclusive"
    if min(below) < ONE_SIDED:
        verdict = "refuted"
        place = below.index(min(below))
    else:
        place = min(range(len(pairs)), key=lambda i: (intervals[i] or (estimates[i].mean, 0.0))[0])
        above = all(i is not None and i[0] > bound and many for i, many in zip(intervals, several, strict=True))
        if above and not absent:
            verdict = "supported"
    weakest, estimate = pairs[place], estimates[place]
    row = weakest.row
    at = f" at length {row.length:,}" if row.length is not None else ""
    seeds = f"{row.seeds} seeds" if row.seeds > 1 else "one seed, which decides nothing"
    low = any(p.below_reference for p in pairs)
    reference = f" {row.partner} ranks below the best untrained reference." if low else ""
    gone = list(dict.fromkeys(runs for p in pairs for runs in p.collapsed))
    collapsed = f" Collapsed and left out: {'; '.join(gone)}." if gone else ""
    size, few = None, ""
    if verdict == "inconclusive" and not absent:
        size = _seeds(weakest, estimate, bound)
        few = "" if size else f" No number of seeds decides with {row.users:,} users."
    lengths = [p.row.length for p in pairs if p.row.length is not None]
    return ClaimVerdict(
        id=claim.id,
        variant=name,
        verdict=verdict,
        statistic=estimate.mean,
        interval=intervals[place],
        threshold=claim.threshold,
        margin=claim.margin,
        window=(min(lengths), max(lengths)) if lengths else None,
        evidence=list(dict.fromkeys(path for p in pairs for path in p.evidence)),
        detail=f"Weakest of {len(pairs)} comparisons, {row.partner} less {row.label} on {row.dataset}{at}: {words} "
        f"{estimate.mean:+.3g} ({span(intervals[place])}; {seeds}; {row.method}).{reference}{collapsed}{few}",
        missing=absent,
        sample_size=size,
        sample_unit="seeds" if size else "",
    )


def _below(pairs: Sequence[_Pair], bound: float, value: Callable[[_Pair], Estimate]) -> list[float]:
    """p-values against "not below `bound`" after Holm's correction; 1 for one seed, which decides nothing."""
    return statistics.holm([accuracy.p_values(value(p), bound)[1] if p.row.seeds > 1 else 1.0 for p in pairs])


def _seeds(pair: _Pair, estimate: Estimate, bound: float) -> int | None:
    """Seeds that would decide; five, the least for a t interval, where the spread is not known yet."""
    if pair.row.seeds == 1 or estimate.error is None:
        return accuracy.SEEDS_FOR_T
    size = statistics.sample_size(estimate, abs(estimate.mean - bound))
    return None if size is None else max(size, accuracy.SEEDS_FOR_T)


def _pairs(findings: Findings, labels: Sequence[str]) -> list[_Pair]:
    found = []
    rows = {(r.dataset, r.split_sha256, r.label, r.length): r for r in accuracy.rows(findings.runs, findings.partner)}
    for mine, other in accuracy.comparable(findings.runs, findings.partner):
        result = accuracy.difference(mine, other) if other.label in labels else None
        if result is not None:
            own = rows[mine.dataset, mine.split, mine.label, mine.length]
            found.append(
                _Pair(
                    *result,
                    evidence=(*mine.paths, *other.paths),
                    below_reference=own.below_best_reference,
                    collapsed=tuple(_seeds_of(r, r.collapsed) for r in (mine, other) if r.collapsed),
                )
            )
    return found


def _absent(findings: Findings, labels: Sequence[str], datasets: Sequence[str] | None = None) -> list[str]:
    """What keeps a claim from support: cells without a result, collapsed runs, another split."""
    found: list[str] = []
    wanted = [
        d
        for d in dict.fromkeys(c.spec["dataset"] for c in findings.folder.manifest.cells if c.kind == "training")
        if datasets is None or d in datasets
    ]
    for dataset in wanted:
        splits = {r.split for r in _runs(findings, dataset, findings.partner)}
        for label in [findings.partner, *labels]:
            found += findings.training_gaps(label, dataset)
            own = _runs(findings, dataset, label)
            # A method that fails on some seeds is no better for ranking well on the others.
            found += [
                f"a run that did not collapse for {_seeds_of(r, r.collapsed)}"
                for r in own
                if r.collapsed and (label == findings.partner or not r.records)
            ]
            if splits and own and not splits & {r.split for r in own}:
                found.append(f"records of {label} on {dataset} with the split of {findings.partner}; theirs is another")
    if not wanted:
        found.append(_untrained(findings, [findings.partner, *labels]))
    return found


def _seeds_of(runs: Runs, records: Sequence[TrainingRecord]) -> str:
    at = "" if runs.length is None else f" at length {runs.length:,}"
    seeds = ", ".join(str(r.seed) for r in records)
    return f"{runs.label} on {runs.dataset}{at}, seed{'s' if len(records) > 1 else ''} {seeds}"


def _untrained(findings: Findings, labels: Sequence[str]) -> str:
    """Which of the labels the study does not train; all of them where it trains each, but not together."""
    trained = {c.label for c in findings.folder.manifest.cells if c.kind == "training"}
    lacking = [label for label in labels if label not in trained] or list(labels)
    return f"training cells of {', '.join(lacking[:-1])}{' and ' if len(lacking) > 1 else ''}{lacking[-1]}"


def _runs(findings: Findings, dataset: str, label: str) -> list[Runs]:
    return [r for r in findings.runs if (r.dataset, r.label) == (dataset, label)]


def _reference(findings: Findings, label: str) -> bool:
    return any(
        c.label == label and c.kind == "training" and c.spec["length"] is None for c in findings.folder.manifest.cells
    )


def _at_tokens(findings: Findings, sweep: str) -> bool:
    return any(g.sweep == sweep and g.constant == "tokens" for g in findings.groups)
