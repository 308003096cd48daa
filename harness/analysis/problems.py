"""What a reader must know about these very records: machines, versions, gaps, threats to validity."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

import harness
from harness.analysis.estimates import circumstances
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES
from harness.analysis.estimates.timing import step_seconds
from harness.analysis.load import Counted, Folder
from harness.analysis.results import AccuracyRow, Completeness, Machine, RecordRow, RefusedFile, Versions
from harness.analysis.rows import ControlPoint, NoiseFloor, SpeedupPoint, TimePoint
from harness.analysis.stale import stale, untold
from harness.metrics import SELECTION
from harness.records.environment import cpu_name
from harness.records.schema import SCHEMA_VERSION, Record, SpeedRecord, TrainingRecord
from harness.study.claim import shipped_cards

# Kinds of flags that are named; the table of cells shows all.
_KINDS = 3


def _records(folder: Folder) -> list[Record]:
    return [c.record for c in folder.counted if c.record is not None]


def machines(folder: Folder) -> list[Machine]:
    """The machines of the counted records, the commonest first."""
    groups: dict[tuple[str, str, int, int, str | None], list[Record]] = {}
    for record in _records(folder):
        own = record.environment
        device = own.device_before or own.device_after
        cpu = cpu_name(own, record.provenance.processor)
        key = (cpu, own.system, own.cores, own.cores_usable, device.name if device else None)
        groups.setdefault(key, []).append(record)
    result = []
    for (cpu, *_), members in sorted(groups.items(), key=lambda group: len(group[1]), reverse=True):
        own = members[0].environment
        device = own.device_before or own.device_after
        result.append(
            Machine(
                name=device.name if device else cpu,
                cpu=cpu,
                cores=own.cores,
                cores_usable=own.cores_usable,
                memory_bytes=own.memory_bytes,
                system=own.system,
                accelerator=device.name if device else None,
                accelerator_memory_bytes=device.memory_total_bytes if device else None,
                driver=device.driver if device else None,
                power_limit_watts=device.power_limit_watts if device else None,
                threads=sorted({m.environment.threads for m in members if m.environment.threads is not None}),
                allocator=next((m.environment.allocator for m in members if m.environment.allocator), {}),
                tf32=own.tf32,
                records=len(members),
            )
        )
    return result


def versions(folder: Folder) -> Versions:
    """Software and provenance of the counted records."""
    found = _records(folder)
    packages: dict[str, set[str]] = {}
    for record in found:
        for name, version in record.environment.packages.items():
            packages.setdefault(name, set()).add(version)
    starts = sorted(r.provenance.started_at for r in found)
    return Versions(
        harness=harness.__version__,
        record_schema=SCHEMA_VERSION,
        python=sorted({r.environment.python for r in found}),
        packages={name: sorted(packages[name]) for name in sorted(packages)},
        cuda=sorted({r.environment.cuda for r in found if r.environment.cuda is not None}),
        git_commits=sorted({r.provenance.git_commit for r in found if r.provenance.git_commit is not None}),
        git_dirty_records=sum(1 for r in found if r.provenance.git_dirty),
        started_first=starts[0] if starts else None,
        started_last=starts[-1] if starts else None,
        elapsed_seconds=sum(r.provenance.elapsed_seconds or 0.0 for r in found),
    )


def completeness(folder: Folder) -> Completeness:
    """How many cells of the study have which status."""
    states = [c.status for c in folder.counted]
    return Completeness(
        cells=len(states),
        ok=states.count("ok"),
        censored=states.count("oom") + states.count("timeout"),
        failed=states.count("killed") + states.count("error") + states.count("refused"),
        missing=states.count("missing"),
        diverged=states.count("diverged"),
    )


def other_split(folder: Folder) -> list[RefusedFile]:
    """Training records of another split than most on their data set (of equally many: than the first)."""
    found: dict[str, dict[str | None, list[str]]] = {}
    for counted, record in folder.training():
        if record.status == "ok":
            splits = found.setdefault(record.dataset, {})
            splits.setdefault(record.provenance.split_sha256, []).append(counted.path)
    result = []
    for dataset, splits in found.items():
        usual = max(splits, key=lambda split: len(splits[split]))
        for split, paths in splits.items():
            if split != usual:
                message = (
                    f"split {(split or 'unknown')[:8]} of {dataset}, most records there have "
                    f"{(usual or 'unknown')[:8]}: compared with its like only; delete it and it is measured again"
                )
                result += [RefusedFile(path=path, message=message) for path in paths]
    return sorted(result, key=lambda file: file.path)


def record_rows(folder: Folder) -> list[RecordRow]:
    """The full table: one row per cell of the study."""
    return [_row(c) for c in folder.counted]


def _row(counted: Counted) -> RecordRow:
    cell, record = counted.cell, counted.record
    seconds: dict[str, float | None] = {"model": None, "partner": None}
    net, ndcg = None, None
    if isinstance(record, SpeedRecord):
        for side in seconds:
            steps = step_seconds(record, side, "step")
            seconds[side] = float(np.median(steps)) if steps.size else None
        if record.memory is not None:
            net = record.memory.peak_bytes - record.memory.tiny_peak_bytes
    elif isinstance(record, TrainingRecord) and record.test is not None:
        ndcg = record.test.metrics[SELECTION]
    return RecordRow(
        kind=cell.kind,
        label=cell.label,
        coordinates=cell.coordinates,
        where=cell.spec.where,
        length=cell.spec.length,
        number=cell.spec.number,
        status=counted.status,
        flags=record.flags if record is not None else [],
        stale=counted.stale,
        step_seconds=seconds["model"],
        partner_step_seconds=seconds["partner"],
        net_bytes=net,
        ndcg10=ndcg,
        detail=counted.detail or "",
        path=counted.path,
    )


def threats(
    folder: Folder,
    controls: Sequence[ControlPoint],
    floors: Sequence[NoiseFloor],
    rows: Sequence[AccuracyRow],
    points: Sequence[TimePoint | SpeedupPoint],
    unlike: Sequence[str],
) -> list[str]:
    """Threats to validity found in these records, one sentence each."""
    return [
        *_cards(folder),
        *_coverage(folder),
        *_speed(folder, controls, floors),
        *_unlike(folder, unlike),
        *_ran(folder),
        *_outlying(points),
        *_accuracy(rows),
        *_splits(folder),
        *_leaks(rows),
        *_provenance(folder),
    ]


def _cards(folder: Folder) -> Iterable[str]:
    """Cards that decide by other numbers than those shipped under their name.

    A set's study.json holds its cards whole, and is what is ruled on; the shipped ones lie under version control, so
    that their date can be held against the records'.
    """
    shipped = {card.id: card for cards in shipped_cards().values() for card in cards}
    for card in folder.manifest.claims:
        known = shipped.get(card.id)
        if known is None or known.digest == card.digest:
            continue
        here, there = card.deciding(), known.deciding()
        pairs = {name: (here.get(name, "not given"), there.get(name, "not given")) for name in {**there, **here}}
        fields = [f"{name} {own} here, {other} shipped" for name, (own, other) in pairs.items() if own != other]
        yield f"Card {card.id} is not the shipped one of that name: {'; '.join(fields)}."


def _kind(flag: str) -> str:
    """What flags of one kind say alike: what is wrong, without its numbers, the side and the remedy."""
    words = re.sub(r"\d[\d.,]*", "…", flag.partition(";")[0])
    return re.sub(r"^(model|partner) ", "", words)


def flag_kinds(flags: Iterable[Sequence[str]]) -> list[tuple[str, int]]:
    """Kinds of flags of several cells and how many cells carry each, the commonest first."""
    counts = Counter(kind for own in flags for kind in dict.fromkeys(map(_kind, own)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _coverage(folder: Folder) -> Iterable[str]:
    found = completeness(folder)
    if found.missing:
        yield f"{_count(found.missing, 'cell')} of {found.cells} were never measured."
    if found.failed:
        yield f"{_count(found.failed, 'cell')} failed (tried again by the next run) or cannot be read (delete them)."
    censored = dict.fromkeys(
        f"{c.cell.label} at {c.cell.spec.length:,} ({c.status})"
        for c in folder.counted
        if c.status in ("oom", "timeout")
    )
    if censored:
        yield f"Censored by memory or time, so absent from every fit: {', '.join(censored)}."
    diverged = [f"{r.label} on {r.dataset}, seed {r.seed}" for _, r in folder.training() if r.status == "diverged"]
    if diverged:
        yield f"Training diverged before its first evaluation, so there is no accuracy: {'; '.join(diverged)}."
    if folder.orphans:
        yield f"{_count(len(folder.orphans), 'record')} no cell of this study asks for; they count nowhere."


def _speed(folder: Folder, controls: Sequence[ControlPoint], floors: Sequence[NoiseFloor]) -> Iterable[str]:
    timed = [(c, r) for c, r in folder.speed() if r.timing is not None]
    flagged = [r for _, r in timed if r.flags]
    if flagged:
        labels = ", ".join(dict.fromkeys(r.label for r in flagged))
        most = "; ".join(f"{count} × {kind}" for kind, count in flag_kinds(r.flags for r in flagged)[:_KINDS])
        yield f"{len(flagged)} of {len(timed)} timed cells carry a flag ({labels}), and count all the same: {most}."
    throttled = dict.fromkeys(r.label for r in flagged if any(f.startswith("device throttled") for f in r.flags))
    if throttled:
        yield f"The device held its clocks back while these were timed: {', '.join(throttled)}."
    apart = dict.fromkeys(
        f"{r.label} at {r.length:,}" for _, r in timed if r.timing is not None and not r.timing.paired
    )
    if apart:
        yield f"Timed one side after the other, so drift does not cancel: {', '.join(apart)}."
    few: dict[tuple[str, str, int], int] = {}
    for _, record in timed:
        key = (record.label, record.sweep, record.length)
        few[key] = few.get(key, 0) + 1
    short = dict.fromkeys(label for (label, _, _), count in few.items() if count < MINIMUM_PROCESSES)
    if short:
        yield f"Fewer than {MINIMUM_PROCESSES} processes at some length, so no interval there: {', '.join(short)}."
    for floor in floors:
        off = [f"{c.length:,}" for c in controls if c.sweep == floor.sweep and c.covers_one is False]
        if off:
            where = f"{floor.sweep} at length {', '.join(off)}"
            yield f"The A/A control of {where} does not cover 1: timing is biased there."
    if timed and not any(f.factor is not None for f in floors):
        yield "There is no A/A control with an interval, so the noise floor is unknown and no speed-up is ruled on."


def _unlike(folder: Folder, sweeps: Sequence[str]) -> Iterable[str]:
    """Sweeps in which the partner's side depends on who is measured beside it."""
    if sweeps:
        yield (
            f"{folder.manifest.study.timing_partner} takes another time beside some labels than beside others "
            f"({', '.join(sweeps)}), so costs against length rest on each label's own processes alone there."
        )


def _ran(folder: Folder) -> Iterable[str]:
    timed = [r for _, r in folder.speed() if r.timing is not None]
    for words in circumstances.conflicts(timed):
        yield f"Not what was asked for, so no cost of it is ruled on: {words}."
    changed = [
        circumstances.in_words(label, operator, backends)
        for (label, _, operator), backends in circumstances.changes(timed).items()
        if len(backends) > 1
    ]
    if changed:
        yield f"What ran changes with length: {'; '.join(dict.fromkeys(changed))}."


def _outlying(points: Sequence[TimePoint | SpeedupPoint]) -> Iterable[str]:
    found: dict[str, int] = {}
    for point in points:
        place = f"{point.label} at {point.length:,}"
        # A process that is slow on both sides is an outlier of the time alone, one slow on one side of both.
        found[place] = max(found.get(place, 0), point.outlying)
    apart = [f"{place} ({count})" for place, count in found.items() if count]
    if apart:
        yield f"Processes far from all others, shown in the tables and left out of the means: {', '.join(apart)}."


def _accuracy(rows: Sequence[AccuracyRow]) -> Iterable[str]:
    trained = [r for r in rows if not r.is_reference]
    for dataset in dict.fromkeys(r.dataset for r in trained):
        own = [r for r in trained if r.dataset == dataset]
        single = list(dict.fromkeys(r.label for r in own if len(r.seeds) == 1))
        if single and all(len(r.seeds) <= 1 for r in own):
            yield f"One seed on {dataset}: its accuracy figures describe, they decide nothing."
        elif single:
            yield f"One seed on {dataset}: {', '.join(single)}."
    for row in trained:
        where = f"{row.label} on {row.dataset}"
        if row.collapsed_seeds:
            yield f"{where}: {_count(len(row.collapsed_seeds), 'run')} collapsed and is left out of the mean."
        if row.below_best_reference:
            yield f"{where} ranks below the best untrained reference."
        others = [flag for flag in row.flags if not flag.startswith("collapsed")]
        if others:
            yield f"{where}: {'; '.join(others)}."


def _splits(folder: Folder) -> Iterable[str]:
    odd = [file.path for file in other_split(folder)]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        yield (
            "Records of one data set come from different splits; only those of the same split are compared. "
            f"Another than most: {', '.join(odd[:3])}{more}."
        )


def _leaks(rows: Sequence[AccuracyRow]) -> Iterable[str]:
    found = {(row.dataset, words): None for row in rows if row.leaks is not None for words in row.leaks.warnings}
    for dataset, words in found:
        yield f"{dataset}: {words}."


def _provenance(folder: Folder) -> Iterable[str]:
    old = stale(folder)
    if old:
        yield f"{_count(len(old), 'record')} from sources that changed since (stale); measure them again."
    unknown = untold(folder)
    if unknown:
        yield f"{_count(len(unknown), 'record')} of models not installed here: whether they are stale cannot be told."
    found = _records(folder)
    dirty = sum(1 for r in found if r.provenance.git_dirty)
    if dirty:
        yield f"{_count(dirty, 'record')} from a checkout with uncommitted changes."
    places = machines(folder)
    if len(places) > 1:
        words = [
            f"{m.name}, {m.cores_usable} of {m.cores} cores, {m.system} ({_count(m.records, 'record')})" for m in places
        ]
        yield f"Records of {len(places)} machines are mixed: {'; '.join(words)}."
    timed = [r for r in found if isinstance(r, SpeedRecord) and r.timing is not None]
    beside = [r.provenance.beside for r in timed if r.provenance.beside]
    if beside:
        yield (
            f"{_count(len(beside), 'record')} timed while up to {max(beside)} other place(s) of the machine measured: "
            "times hold what these share (memory, bus, heat), ratios inside a record less so."
        )
    threads = {r.environment.threads for r in timed}
    if len(threads) > 1:
        yield f"Timed with different numbers of threads: {', '.join(sorted(str(t) for t in threads))}."
    torch = {r.environment.packages.get("torch", "unknown") for r in found}
    if len(torch) > 1:
        yield f"Records of different torch versions are mixed: {', '.join(sorted(torch))}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
