"""A folder of records → analysis.json. Needs nothing but the folder, and no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.analysis.claims.evidence import Findings
from harness.analysis.claims.ruling import rule
from harness.analysis.estimates import accuracy, memory, scaling, speedup, streams, timing
from harness.analysis.estimates.operator import operator_bench
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.timing import Group
from harness.analysis.load import Counted, Folder, load
from harness.analysis.problems import completeness, machines, other_split, record_rows, threats, versions
from harness.analysis.results import (
    ANALYSIS_VERSION,
    AccuracyDifference,
    Analysis,
    FailedCell,
    ModelRow,
    Problems,
    RefusedFile,
)
from harness.analysis.rows import Censored, Law, OperatorBench, ScalingLaw, SpeedupPoint, Trend
from harness.analysis.stale import stale, stale_operator
from harness.errors import UserError
from harness.records import operator as operator_record
from harness.records.schema import FAILED_SUFFIX, ModelFacts, SpeedRecord, encode, write_atomic
from harness.study.claim import Claim

# What a law's challenge lets pass where no claim says otherwise.
CHALLENGE_TOLERANCE = 0.10


def analyse(folder: Path) -> Analysis:
    """Fits, comparisons and verdicts of a folder of records.

    Raises:
        UserError: No readable study.json there, or a claim without a rule or without its number. A bad
            record is no error: it stands in `problems.refused`.
    """
    loaded = load(folder)
    manifest = loaded.manifest
    partner = manifest.study.timing_partner
    groups = timing.groups(loaded)
    steps = [g for g in groups if g.phase != timing.STREAM]
    series = _series(steps)
    controls = speedup.controls(groups, partner)
    floors = speedup.noise_floors(controls)
    speedups = speedup.speedups(groups, partner, floors)
    arms = _by_arm(speedups)
    crossovers = [speedup.crossover(points) for points in arms]
    censored = timing.censored(loaded)
    laws = _laws(series, censored, _tolerances(manifest.claims))
    memory_points = memory.points(loaded)
    stream_points = streams.points(groups)
    runs = accuracy.runs(loaded)
    rows = accuracy.rows(runs, partner)
    learning = accuracy.learning(runs)
    operator, operator_refused, operator_failed = _operator(folder)
    findings = Findings(
        folder=loaded,
        groups=groups,
        series=series,
        speedups=speedups,
        floors=floors,
        crossovers=crossovers,
        laws=laws,
        memory=memory_points,
        censored=censored,
        runs=runs,
        streams=stream_points,
    )
    return Analysis(
        version=ANALYSIS_VERSION,
        study=manifest.study,
        machines=machines(loaded),
        versions=versions(loaded),
        completeness=completeness(loaded),
        claims=[rule(claim, findings) for claim in manifest.claims],
        models=_models(loaded),
        times=timing.time_points(steps),
        speedups=speedups,
        controls=controls,
        noise_floors=floors,
        crossovers=crossovers,
        trends=_trends(arms),
        laws=laws,
        exponents=[
            *(e for (a, s, phase), own in series.items() if phase == "step" and (e := scaling.exponent(a, s, own))),
            *memory.exponents(memory_points),
        ],
        local_slopes=[
            *(
                slope
                for (a, s, phase), own in series.items()
                if phase == "step"
                for slope in scaling.local_slopes(a, s, own)
            ),
            *memory.local_slopes(memory_points),
        ],
        memory=memory_points,
        energy=timing.energy_points(groups),
        censored=censored,
        accuracy=rows,
        accuracy_differences=_differences(runs, partner),
        learning=learning,
        times_to_quality=accuracy.times_to_quality(learning),
        records=record_rows(loaded),
        problems=Problems(
            failed=[*loaded.failed, *operator_failed],
            refused=[*loaded.refused, *operator_refused],
            orphans=loaded.orphans,
            stale=[*stale(loaded), *stale_operator(folder)],
            threats=threats(loaded, controls, floors, rows),
            other_split=other_split(loaded),
        ),
        operator=operator,
        streams=stream_points,
    )


def _operator(folder: Path) -> tuple[OperatorBench | None, list[RefusedFile], list[FailedCell]]:
    """What the folder's operator.json gives, if it holds one; why it does not count; how the last try failed."""
    path = folder / operator_record.FILE_NAME
    bench, refused, failed = None, [], []
    for file in (path, path.with_suffix(FAILED_SUFFIX)):
        if not file.is_file():
            continue
        try:
            record = operator_record.read(file)
            if file == path:
                bench = operator_bench(record)
            else:
                found = FailedCell(path=file.name, label="operator", status=record.status, detail=record.detail or "")
                failed.append(found)
        except UserError as error:
            refused.append(RefusedFile(path=file.name, message=str(error).removeprefix(f"{file}: ")))
    return bench, refused, failed


def write(analysis: Analysis, path: Path) -> None:
    """Write analysis.json atomically; identical records give identical bytes."""
    write_atomic(path, encode(analysis))


def read(path: Path) -> Analysis:
    """Read analysis.json.

    Raises:
        UserError: No such file, no JSON, another version, or not this schema.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); `python -m harness analyse DIR` writes it"
        ) from None
    try:
        header = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a complete JSON file ({error}); run `python -m harness analyse DIR` again"
        ) from None
    version = header.get("version") if isinstance(header, dict) else None
    if version is None:
        raise UserError(f"{path}: no analysis; name its folder, or a file that `python -m harness analyse DIR` wrote")
    if version != ANALYSIS_VERSION:
        raise UserError(
            f"{path}: analysis version {version}, this harness reads version {ANALYSIS_VERSION}; "
            "run `python -m harness analyse DIR` again, the records stay valid"
        )
    try:
        return msgspec.json.decode(content, type=Analysis)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: not a valid analysis: {error}; run `python -m harness analyse DIR` again") from None


def _series(groups: Sequence[Group]) -> dict[tuple[str, str, str], Series]:
    keys = dict.fromkeys((g.label, g.sweep, g.phase) for g in groups)
    return {key: timing.series(g for g in groups if (g.label, g.sweep, g.phase) == key) for key in keys}


def _by_arm(speedups: Sequence[SpeedupPoint]) -> list[list[SpeedupPoint]]:
    arms = dict.fromkeys((p.label, p.sweep) for p in speedups)
    return [[p for p in speedups if (p.label, p.sweep) == arm] for arm in arms]


def _trends(arms: Sequence[Sequence[SpeedupPoint]]) -> list[Trend]:
    return [found[0] for points in arms if (found := speedup.trend(points)) is not None]


def _tolerances(claims: Sequence[Claim]) -> dict[Law, float]:
    """Relative error that each law's challenge lets pass, from the claims that rest on it."""
    found: dict[Law, float] = dict.fromkeys(scaling.LAWS, CHALLENGE_TOLERANCE)
    for claim in claims:
        if claim.id == "linear-time" and claim.threshold is not None:
            found["constant"] = claim.threshold - 1
        if claim.id == "quadratic-attention" and claim.margin is not None:
            found["linear"] = claim.margin
    return found


def _laws(
    series: dict[tuple[str, str, str], Series], censored: Sequence[Censored], tolerances: dict[Law, float]
) -> list[ScalingLaw]:
    result = []
    for (label, sweep, phase), own in series.items():
        if phase == "step":
            lost = {c.length for c in censored if (c.kind, c.label, c.where) == ("speed", label, sweep)}
            lengths = sorted(length for length in lost if length is not None)
            law = scaling.scaling_law(label, sweep, own, tolerances=tolerances, censored_lengths=lengths)
            if law is not None:
                result.append(law)
    return result


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
