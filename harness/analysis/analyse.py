"""A folder of records → analysis.json. Needs nothing but the folder, and no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.analysis.estimates import accuracy, memory, scaling, speedup, timing
from harness.analysis.estimates.operator import operator_bench
from harness.analysis.evidence import Evidence, against
from harness.analysis.load import Counted, Folder, load
from harness.analysis.problems import completeness, machines, other_split, record_rows, threats, versions
from harness.analysis.results import (
    ANALYSIS_VERSION,
    AccuracyDifference,
    Analysis,
    ClaimResult,
    FailedCell,
    ModelRow,
    Problems,
    RefusedFile,
)
from harness.analysis.rows import OperatorBench, SpeedupPoint, Trend
from harness.analysis.ruling import rule, tolerances, unruled
from harness.analysis.stale import is_stale_operator, stale
from harness.errors import UserError
from harness.records import operator as operator_record
from harness.records import read_json
from harness.records.schema import FAILED_SUFFIX, ModelFacts, SpeedRecord, encode, write_atomic
from harness.study.claim import Card


def analyse(folder: Path) -> Analysis:
    """Fits, comparisons and verdicts of a folder of records.

    Raises:
        UserError: No readable study.json there, or a claim without a rule or without its number. A bad
            record is no error: it stands in `problems.refused`.
    """
    loaded = load(folder)
    claims, views = rule_on(loaded, loaded.manifest.claims)
    evidence = views.get(_MAIN) or Evidence(against(loaded), tolerances([]))
    partner = evidence.challenger
    steps = [g for g in evidence.groups if g.phase != timing.STREAM]
    times = timing.time_points(steps)
    series, runs = evidence.series, evidence.runs
    rows = accuracy.rows(runs, partner)
    learning = accuracy.learning(runs)
    operator, operator_refused, operator_failed, operator_stale = _operator(folder)
    return Analysis(
        version=ANALYSIS_VERSION,
        study=loaded.manifest.study,
        machines=machines(loaded),
        versions=versions(loaded),
        completeness=completeness(loaded),
        claims=claims,
        models=_models(loaded),
        times=times,
        speedups=evidence.speedups,
        controls=evidence.controls,
        noise_floors=evidence.floors,
        crossovers=evidence.crossovers,
        trends=_trends(evidence.arms),
        laws=evidence.laws,
        exponents=[
            *(e for (a, s, phase), own in series.items() if phase == "step" and (e := scaling.exponent(a, s, own))),
            *memory.exponents(evidence.memory),
        ],
        local_slopes=[
            *(
                slope
                for (a, s, phase), own in series.items()
                if phase == "step"
                for slope in scaling.local_slopes(a, s, own)
            ),
            *memory.local_slopes(evidence.memory),
        ],
        memory=evidence.memory,
        energy=timing.energy_points(evidence.groups),
        censored=evidence.censored,
        accuracy=rows,
        accuracy_differences=_differences(runs, partner),
        learning=learning,
        times_to_quality=accuracy.times_to_quality(learning),
        records=record_rows(loaded),
        problems=Problems(
            failed=[*loaded.failed, *operator_failed],
            refused=[*loaded.refused, *operator_refused],
            orphans=loaded.orphans,
            stale=[*stale(loaded), *operator_stale],
            threats=threats(
                loaded,
                evidence.controls,
                evidence.floors,
                rows,
                [*times, *evidence.speedups],
                unlike=[sweep for (sweep, phase), arm in evidence.together.items() if phase == "step" and arm.unlike],
            ),
            other_split=other_split(loaded),
        ),
        operator=operator,
        streams=evidence.streams,
    )


def _operator(folder: Path) -> tuple[OperatorBench | None, list[RefusedFile], list[FailedCell], list[str]]:
    """What the folder's operator.json gives; why it does not count; how the last try failed; its name if stale."""
    path = folder / operator_record.FILE_NAME
    bench, refused, failed, old = None, [], [], []
    for file in (path, path.with_suffix(FAILED_SUFFIX)):
        if not file.is_file():
            continue
        try:
            record = operator_record.read(file)
            if file == path:
                old = [path.name] if is_stale_operator(record) else []
                bench = operator_bench(record)
            else:
                found = FailedCell(path=file.name, label="operator", status=record.status, detail=record.detail or "")
                failed.append(found)
        except UserError as error:
            refused.append(RefusedFile(path=file.name, message=str(error).removeprefix(f"{file}: ")))
    return bench, refused, failed, old


def write(analysis: Analysis, path: Path) -> None:
    """Write analysis.json atomically; identical records give identical bytes."""
    write_atomic(path, encode(analysis))


def read(path: Path) -> Analysis:
    """Read analysis.json.

    Raises:
        UserError: No such file, no JSON, another version, or not this schema.
    """
    remedy = "run `python -m harness analyse DIR` again, the records stay valid"
    analysis: Analysis = read_json.read(path, Analysis, "analysis", remedy, version=ANALYSIS_VERSION, field="version")
    return analysis


def _trends(arms: Sequence[Sequence[SpeedupPoint]]) -> list[Trend]:
    return [found[0] for points in arms if (found := speedup.trend(points)) is not None]


# What a ruling rests on: the card's challenger, its lengths, the phase, its data set, and how many cards before it have
# its rule there too, whose tolerances may differ.
View = tuple[str | None, object, str, str | None, int]
_MAIN: View = (None, "all", "step", None, 0)


def rule_on(loaded: Folder, cards: Sequence[Card]) -> tuple[list[ClaimResult], dict[View, Evidence]]:
    """Rule on all cards; those about the same cells share one view of the records, and its tolerances.

    Returns:
        The rulings in the order of the cards, and the views that they rest on.
    """
    partner = loaded.manifest.study.timing_partner
    cards = [msgspec.structs.replace(c, challenger=None) if c.challenger == partner else c for c in cards]
    before = Counter[object]()
    chosen: list[View] = []
    for card in cards:
        cells = (card.challenger, card.lengths, card.phase, card.dataset)
        chosen.append((*cells, before[cells, card.rule]))
        before[cells, card.rule] += 1
    views: dict[View, Evidence] = {}
    unfit: dict[View, str] = {}
    for view in dict.fromkeys(chosen):
        own = [card for card, mine in zip(cards, chosen, strict=True) if mine == view]
        borrowed = tolerances(own)
        try:
            views[view] = Evidence(against(loaded, own[0]), borrowed, own[0].phase)
        except UserError as error:
            # One card that names what the study does not have keeps no other from its verdict.
            unfit[view] = str(error)
    results = [
        unruled(card, card.challenger or partner, unfit[view]) if view in unfit else rule(card, views[view])
        for card, view in zip(cards, chosen, strict=True)
    ]
    return results, views


def _differences(runs: Sequence[accuracy.Runs], partner: str) -> list[AccuracyDifference]:
    found = (accuracy.difference(mine, other) for mine, other in accuracy.comparable(runs, partner))
    return [result[0] for result in found if result is not None]


def _facts(counted: Counted) -> list[ModelFacts]:
    record = counted.record
    if record is None:
        return []
    sides = [record.model, record.partner] if isinstance(record, SpeedRecord) else [record.model]
    return [side for side in sides if side is not None]


def _models(folder: Folder) -> list[ModelRow]:
    known: dict[str, list[ModelFacts]] = {}
    for counted in folder.counted:
        for facts in _facts(counted):
            known.setdefault(facts.label, []).append(facts)
    order = [label for label in folder.labels() if label in known]
    partner = folder.manifest.study.timing_partner
    result = []
    for label in [*order, *(extra for extra in known if extra not in order)]:
        own = known[label]
        backends: dict[str, dict[str, None]] = {}
        for one in own:
            for operator, backend in one.backends.items():
                backends.setdefault(operator, {})[backend] = None
        sizes = [one.parameters for one in own]
        result.append(
            ModelRow(
                label=label,
                name=own[0].name,
                family=own[0].family,
                causal=own[0].causal,
                citation=own[0].citation,
                options=own[0].options,
                parameters=(min(sizes), max(sizes)),
                backends={operator: list(names) for operator, names in backends.items()},
                is_partner=label == partner,
            )
        )
    return result
