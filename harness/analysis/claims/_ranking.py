"""What the rules about ranking quality share: comparisons of runs, and one verdict over many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from harness.analysis.estimates import accuracy, statistics
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.statistics import ONE_SIDED, Estimate
from harness.analysis.evidence import Evidence
from harness.analysis.results import AccuracyDifference, ClaimVerdict
from harness.analysis.ruling import Ruling, brackets, conjunction, missing, number, ruled, span, threshold
from harness.records.schema import TrainingRecord
from harness.records.spec import TrainingSpec
from harness.study.claim import Card, Verdict


@dataclass(frozen=True)
class Pair:
    """One comparison of the timing partner with one label; `collapsed` names the runs it leaves out."""

    row: AccuracyDifference
    absolute: Estimate
    relative: Estimate
    evidence: tuple[str, ...]
    below_reference: bool
    collapsed: tuple[str, ...] = ()


def over_labels(
    card: Card,
    evidence: Evidence,
    labels: list[str],
    *,
    by_dataset: bool,
    nothing: str,
    families: Sequence[str] = (),
    strong: bool = False,
) -> Ruling:
    """Comparisons with these labels, a variant per data set or per label; each set needs all `families`.

    With `strong`, a label below the best untrained reference is no opponent.
    """
    bound = threshold(card)
    datasets = list(dict.fromkeys(c.spec.where for c in evidence.folder.manifest.cells if c.kind == "training"))
    trained = {c.label for c in evidence.folder.manifest.cells if c.kind == "training"}
    wanted = [label for label in labels if label in trained]
    variants, everything, lacks = [], [], []
    groups = [(d, wanted, [d]) for d in datasets] if by_dataset else [(label, [label], datasets) for label in wanted]
    for name, members, sets in groups if wanted else []:
        pairs = [p for p in pairs_with(evidence, members) if p.row.dataset in sets]
        lacking = absent(evidence, members, sets)
        if strong:
            pairs, weak = opponents_among(evidence, pairs)
            lacking += weak
        known = {p.row.family for p in pairs} if pairs else set(families)
        lacking += [f"a trained {family} baseline on {name}" for family in families if family not in known]
        everything += pairs
        lacks += lacking if pairs else lacking or [nothing]
        if pairs:
            lacking += built_in(evidence, (p.row.dataset for p in pairs))
            variants.append(
                weakest(card, name, pairs, lacking, bound=bound, value=lambda p: p.absolute, words="NDCG@10 difference")
            )
        else:
            variants.append(missing(card, name, lacking or [nothing]))
    # One real data set among several is enough.
    lacks = list(dict.fromkeys([*lacks, *built_in(evidence, (p.row.dataset for p in everything))]))
    overall = conjunction(card, variants, nothing)
    if everything and len(variants) > 1:
        # Over all, Holm's correction counts the comparisons of all variants together.
        joint = weakest(
            card, "", everything, lacks, bound=bound, value=lambda p: p.absolute, words="NDCG@10 difference over all"
        )
        parts = ", ".join(f"{v.variant}: {v.verdict}{number(v.statistic)}" for v in variants)
        overall = msgspec.structs.replace(joint, missing=lacks, detail=f"{parts}. {joint.detail}")
    return overall, variants


def weakest(
    card: Card,
    name: str,
    pairs: Sequence[Pair],
    lacking: list[str],
    *,
    bound: float,
    value: Callable[[Pair], Estimate],
    words: str,
    obstacles: Sequence[str] = (),
) -> ClaimVerdict:
    """Intersection-union for support, Holm for refutation, against `bound`; nothing is ruled with `obstacles`."""
    estimates = [value(p) for p in pairs]
    intervals = [e.interval() for e in estimates]
    several = [p.row.seeds >= accuracy.SEEDS_TO_SUPPORT for p in pairs]
    p_below = statistics.holm(below(pairs, bound, value))
    verdict: Verdict = "inconclusive"
    if min(p_below) < ONE_SIDED:
        verdict = "refuted"
        place = p_below.index(min(p_below))
    else:
        place = min(range(len(pairs)), key=lambda i: (intervals[i] or (estimates[i].mean, 0.0))[0])
        above = all(i is not None and i[0] > bound and many for i, many in zip(intervals, several, strict=True))
        if above and not lacking:
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
    interval = intervals[place]
    if verdict == "inconclusive" and (interval is None or interval[0] <= bound or not several[place]):
        # What lies below refutes only after the correction over all of them; what lies above must do so by itself.
        size = _seeds(weakest, estimate, bound, len(pairs) if estimate.mean < bound else 1)
        few = "" if size else f" No number of seeds decides with {row.users:,} users."
        if several[place] and interval is not None and interval[1] < bound:
            few = f" Among {len(pairs)} comparisons one such is not enough (Holm's correction).{few}"
    lengths = [p.row.length for p in pairs if p.row.length is not None]
    return ruled(
        card,
        name,
        verdict,
        statistic=estimate.mean,
        interval=intervals[place],
        measured=f"{words} {estimate.mean:+.3g}{brackets(intervals[place])} against {row.label} on {row.dataset}",
        allowed=f"> {bound:.3g}",
        window=(min(lengths), max(lengths)) if lengths else None,
        evidence=list(dict.fromkeys(path for p in pairs for path in p.evidence)),
        detail=f"Weakest of {len(pairs)} comparisons, {row.partner} less {row.label} on {row.dataset}{at}: {words} "
        f"{estimate.mean:+.3g} ({span(intervals[place])}; {seeds}; {row.method}).{reference}{collapsed}{few}",
        missing=lacking,
        size=size,
        unit="seeds",
        obstacles=obstacles,
    )


def below(pairs: Iterable[Pair], bound: float, value: Callable[[Pair], Estimate]) -> list[float]:
    """p-values against "not below `bound`", each by itself; 1 for one seed, which decides nothing."""
    return [accuracy.p_values(value(p), bound)[1] if p.row.seeds > 1 else 1.0 for p in pairs]


def _seeds(pair: Pair, estimate: Estimate, bound: float, comparisons: int) -> int | None:
    """Seeds that would decide among so many comparisons; the least that can where the spread is not known yet."""
    if pair.row.seeds == 1 or estimate.error is None:
        return accuracy.SEEDS_TO_SUPPORT
    size = statistics.sample_size(estimate, abs(estimate.mean - bound), comparisons)
    return None if size is None else max(size, accuracy.SEEDS_TO_SUPPORT)


def pairs_with(evidence: Evidence, labels: Sequence[str]) -> list[Pair]:
    found = []
    rows = {accuracy.key(r): r for r in accuracy.rows(evidence.runs, evidence.challenger)}
    for mine, other in accuracy.comparable(evidence.runs, evidence.challenger):
        result = accuracy.difference(mine, other) if other.label in labels else None
        if result is not None:
            own = rows[mine.dataset, mine.split, mine.label, mine.length]
            found.append(
                Pair(
                    *result,
                    evidence=(*mine.paths, *other.paths),
                    below_reference=own.below_best_reference,
                    collapsed=tuple(_seeds_of(r, r.collapsed) for r in (mine, other) if r.collapsed),
                )
            )
    return found


def weak_labels(evidence: Evidence) -> set[accuracy.RunKey]:
    """Trained models below the best untrained reference: they are no opponents.

    Who is below counting was not trained as it is meant to be: to be better than that says nothing.
    """
    rows = accuracy.rows(evidence.runs, evidence.challenger)
    return {accuracy.key(r) for r in rows if r.below_best_reference}


def too_weak(label: str, dataset: str) -> str:
    """What such a model lacks to be an opponent."""
    return f"{label} on {dataset} above the best untrained reference"


def opponents_among(evidence: Evidence, pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    """The pairs with an opponent that is one, and what those with the others lack."""
    weak = weak_labels(evidence)
    kept = [p for p in pairs if accuracy.key(p.row) not in weak]
    words = dict.fromkeys(too_weak(p.row.label, p.row.dataset) for p in pairs if accuracy.key(p.row) in weak)
    return kept, list(words)


def built_in(evidence: Evidence, datasets: Iterable[str]) -> list[str]:
    """What support lacks where all of these data are made by the built-in generator."""
    made = {
        c.spec.dataset
        for c in evidence.folder.manifest.cells
        if isinstance(c.spec, TrainingSpec) and c.spec.source.format == "synthetic"
    }
    wanted = set(datasets)
    return ["a real data set; what is measured is built in"] if wanted and wanted <= made else []


def absent(evidence: Evidence, labels: Sequence[str], datasets: Sequence[str] | None = None) -> list[str]:
    """What keeps a claim from support: cells without a result, collapsed runs, another split."""
    found: list[str] = []
    wanted = [
        d
        for d in dict.fromkeys(c.spec.where for c in evidence.folder.manifest.cells if c.kind == "training")
        if datasets is None or d in datasets
    ]
    for dataset in wanted:
        splits = {r.split for r in _runs(evidence, dataset, evidence.challenger)}
        for label in [evidence.challenger, *labels]:
            found += evidence.training_gaps(label, dataset)
            own = _runs(evidence, dataset, label)
            # A method that fails on some seeds is no better for ranking well on the others.
            found += [
                f"a run that did not collapse for {_seeds_of(r, r.collapsed)}"
                for r in own
                if r.collapsed and (label == evidence.challenger or not r.records)
            ]
            if splits and own and not splits & {r.split for r in own}:
                found.append(
                    f"records of {label} on {dataset} with the split of {evidence.challenger}; theirs is another"
                )
    if not wanted:
        found.append(untrained(evidence, [evidence.challenger, *labels]))
    return found


def _seeds_of(runs: Runs, records: Sequence[TrainingRecord]) -> str:
    at = "" if runs.length is None else f" at length {runs.length:,}"
    seeds = ", ".join(str(r.seed) for r in records)
    return f"{runs.label} on {runs.dataset}{at}, seed{'s' if len(records) > 1 else ''} {seeds}"


def untrained(evidence: Evidence, labels: Sequence[str]) -> str:
    """Which of the labels the study does not train; all of them where it trains each, but not together."""
    trained = {c.label for c in evidence.folder.manifest.cells if c.kind == "training"}
    lacking = [label for label in labels if label not in trained] or list(labels)
    return f"training cells of {', '.join(lacking[:-1])}{' and ' if len(lacking) > 1 else ''}{lacking[-1]}"


def _runs(evidence: Evidence, dataset: str, label: str) -> list[Runs]:
    return [r for r in evidence.runs if (r.dataset, r.label) == (dataset, label)]
