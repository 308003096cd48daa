"""`python -m harness plan STUDY`: what would run, on what, for how long, and which claims it can rule on."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from harness.plan.data_places import USABLE, place
from harness.plan.forecast import Forecast, Forecaster
from harness.plan.rehearsal import Prospect, prospects
from harness.records.environment import cpu_name, describe, memory_bytes, processor, usable_cores
from harness.report.numbers import counted, duration, storage
from harness.run.past import folders, known
from harness.run.sweep import Task, tasks
from harness.study.cells import Cell
from harness.study.manifest import manifest
from harness.study.schema import Study

WIDTH = 100
# Seconds that the workflow takes to start a cell that it starts by itself, and for analysis and document.
_JOB_SECONDS, _REPORT_SECONDS = 2.0, 20.0
# By how much forecasts from records and from a calibration may be off; shown, so that no number passes for a promise.
_FACTORS = {"records": 1.2, "calibration": 1.5}

Ruling = Literal["support or refute", "support only", "refute only", "neither"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one model is asked for.

    Attributes:
        cells: Cells of the study, `done` of them measured; `unknown` of the others nobody can tell the time of.
        lengths: Shortest and longest, in events; null for references.
        seconds: What the missing cells take, one after the other.
        peak_bytes: Most memory of one of its processes; null: not known.
        backends: What runs by operator, as far as records or a calibration tell.
        basis: What the forecast rests on.
    """

    kind: Literal["speed", "training"]
    label: str
    cells: int
    done: int
    unknown: int
    lengths: tuple[int, int] | None
    seconds: float
    peak_bytes: int | None
    backends: dict[str, list[str]]
    basis: list[str]


class DataRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where a data set comes from; see `harness.plan.data_places.Place`."""

    name: str
    state: str
    usable: bool
    path: str | None
    advice: str


class ClaimRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the study can say of a claim once all its cells are measured; `why` says why not more."""

    id: str
    sentence: str
    can: Ruling
    why: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All of a plan; fields carry their units.

    Attributes:
        seconds: What is left to run, with analysis and document; an upper bound where trainings may stop early.
        factor: By what `seconds` may be off either way.
        memory_bytes: What this machine has.
        problems: Why something is not known.
    """

    study: str
    description: str
    folder: str
    device: str
    machine: str
    cores: int
    memory_bytes: int
    cells: int
    done: int
    seconds: float
    factor: float
    peak_bytes: int | None
    rows: list[Row]
    data: list[DataRow]
    claims: list[ClaimRow]
    problems: list[str]


def plan(study: Study, folder: Path, *, calibrate: bool = True) -> Plan:
    """What a study would do here.

    Args:
        study: The study.
        folder: Its folder of records.
        calibrate: Whether models without records of a like machine are timed, which takes seconds for each.
    """
    found = tasks(study)
    missing = [task for task in found if not (folder / task.path).is_file()]
    data = [_data(name, study) for name in study.training.datasets] if study.training else []
    forecaster = Forecaster(study, known(study.device_here(), folders(folder)))
    problems = []
    if calibrate and (models := forecaster.unknown(missing)):
        problems += forecaster.calibrate(models, missing)
    forecasts = {task.path: forecaster.forecast(task) for task in missing}
    rows = _rows(found, forecasts, forecaster)
    unknown = sum(row.unknown for row in rows)
    if unknown:
        problems.append(f"{counted(unknown, 'cell', 'cells')} of unknown time: {_unknown_words(rows, data, calibrate)}")
    machine = describe(study.threads, {})
    peaks = [row.peak_bytes for row in rows if row.peak_bytes is not None]
    return Plan(
        study=study.name,
        description=study.description,
        folder=str(folder),
        device=study.device_here(),
        machine=cpu_name(machine, processor()),
        cores=usable_cores(),
        memory_bytes=memory_bytes(),
        cells=len(found),
        done=len(found) - len(missing),
        seconds=_seconds(study, missing, forecasts),
        factor=max((_FACTORS.get(f.basis, 1.0) for f in forecasts.values()), default=1.0),
        peak_bytes=max(peaks, default=None),
        rows=rows,
        data=data,
        claims=[_claim(one) for one in prospects(manifest(study))],
        problems=problems,
    )


def _seconds(study: Study, missing: Sequence[Task], forecasts: Mapping[str, Forecast]) -> float:
    """Wall time of what is missing; trainings that are not timed run side by side."""
    beside = study.trainings_beside()
    total = _REPORT_SECONDS
    for task in missing:
        seconds = forecasts[task.path].seconds or 0.0
        if task.kind == "training":
            total += (seconds + _JOB_SECONDS) / beside
        else:
            total += seconds
    return total


def _unknown_words(rows: Sequence[Row], data: Sequence[DataRow], calibrate: bool) -> str:
    if any(not row.usable for row in data):
        return "their data are missing"
    if any(row.state == "to be fetched" for row in data):
        return "their data are to be fetched first, `python -m harness data NAME` does"
    labels = ", ".join(dict.fromkeys(row.label for row in rows if row.unknown))
    remedy = "" if calibrate else "; leave --no-calibration out to time them for seconds each"
    return f"no record of a like machine for {labels}{remedy}"


def _data(name: str, study: Study) -> DataRow:
    found = place(name, study.sources()[name], study.data_folder)
    return DataRow(name=name, state=found.state, usable=found.state in USABLE, path=found.path, advice=found.advice)


def _claim(one: Prospect) -> ClaimRow:
    cans: dict[tuple[bool, bool], Ruling] = {
        (True, True): "support or refute",
        (True, False): "support only",
        (False, True): "refute only",
        (False, False): "neither",
    }
    return ClaimRow(id=one.id, sentence=one.sentence, can=cans[one.supports, one.refutes], why=one.why)


def _rows(found: Sequence[Task], forecasts: Mapping[str, Forecast], forecaster: Forecaster) -> list[Row]:
    rows = []
    for kind, label in dict.fromkeys((task.kind, task.label) for task in found):
        own = [task for task in found if (task.kind, task.label) == (kind, label)]
        mine = [forecasts[task.path] for task in own if task.path in forecasts]
        lengths = [task.spec.length for task in own if isinstance(task, Cell) and task.spec.length is not None]
        peaks = [f.peak_bytes for f in mine if f.peak_bytes is not None]
        ran: dict[str, dict[str, None]] = {}
        for task in own:
            for name, backends in forecaster.known.ran(task).items() if isinstance(task, Cell) else ():
                ran.setdefault(name, {}).update(dict.fromkeys(backends))
        rows.append(
            Row(
                kind=kind,
                label=label,
                cells=len(own),
                done=len(own) - len(mine),
                unknown=sum(f.seconds is None for f in mine),
                lengths=(min(lengths), max(lengths)) if lengths else None,
                seconds=sum(f.seconds or 0.0 for f in mine),
                peak_bytes=max(peaks, default=None),
                backends={name: list(found_there) for name, found_there in ran.items()},
                basis=list(dict.fromkeys(f.basis for f in mine)),
            )
        )
    return rows


def table(found: Plan, typed: str) -> str:
    """A plan for the terminal, at most 100 columns wide.

    Args:
        found: The plan.
        typed: The study as the user names it.

    Returns:
        Lines without a newline at the end.
    """
    lines = [f"study {found.study}: {found.description}".rstrip(": ")]
    lines += [f"on {found.machine}, {found.cores} cores, device {found.device}; records in {found.folder}", ""]
    lines += [*_model_lines(found.rows), ""]
    for row in found.data:
        lines += _wrapped("data", f"{row.name}: {row.state}{f', {row.path}' if row.path else ''}")
        lines += _wrapped("", row.advice) if row.advice else []
    missing = found.cells - found.done
    lines += _wrapped("cells", f"{found.cells:,}, of which {found.done:,} are done and {missing:,} are to be measured")
    lines += _wrapped("time", _time_words(found))
    memory = "not known" if found.peak_bytes is None else f"at most {storage(found.peak_bytes)} in one process"
    lines += _wrapped("memory", f"{memory}, of {storage(found.memory_bytes)}")
    if found.peak_bytes is not None and found.peak_bytes > 0.9 * found.memory_bytes:
        lines += _wrapped("", "cells beyond 90 % of it end as out of memory, which is a result")
    lines += ["", *_claim_lines(found.claims)]
    for problem in found.problems:
        lines += _wrapped("note", problem)
    # The workflow is a checkout's; `sweep` measures anywhere.
    workflow = Path("Snakefile").is_file() and Path("Makefile").is_file()
    target = f"make report STUDY={typed}" if workflow else f"python -m harness sweep {typed}"
    drawn = "   (measures nothing, draws the document)" if workflow else "   (all is measured)"
    lines += ["", f"next: {target}" if missing else f"next: {target}{drawn}"]
    return "\n".join(lines)


def _time_words(found: Plan) -> str:
    if found.cells == found.done:
        return "seconds: analysis and document alone"
    low, high = found.seconds / found.factor, found.seconds * found.factor
    if unknown := sum(row.unknown for row in found.rows):
        return f"not known: {duration(found.seconds)} and that of {counted(unknown, 'cell', 'cells')} more; see below"
    about = f"about {duration(found.seconds)}"
    return about if found.factor == 1.0 else f"{about}; between {duration(low)} and {duration(high)} on an idle machine"


def _model_lines(rows: Sequence[Row]) -> list[str]:
    head = ("", "model", "cells", "done", "lengths", "time", "memory", "from", "kernels")
    cells = [head]
    for row in rows:
        lengths = "-" if row.lengths is None else "-".join(f"{n:,}" for n in dict.fromkeys(row.lengths))
        kernels = "; ".join(f"{name} {', '.join(ran)}" for name, ran in row.backends.items())
        seconds = "?" if row.unknown else duration(row.seconds) if row.cells > row.done else "-"
        memory = "-" if row.peak_bytes is None else storage(row.peak_bytes)
        basis = ", ".join(row.basis) or "-"
        cells.append(
            (row.kind, row.label, f"{row.cells:,}", f"{row.done:,}", lengths, seconds, memory, basis, kernels or "-")
        )
    widths = [max(len(line[place]) for line in cells) for place in range(len(head) - 1)]
    lines = []
    for line in cells:
        start = "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=False))
        lines += textwrap.wrap(
            f"{start}  {line[-1]}",
            max(WIDTH, len(start) + 30),
            subsequent_indent=" " * (len(start) + 2),
            drop_whitespace=True,
        )
    return lines


def _claim_lines(claims: Sequence[ClaimRow]) -> list[str]:
    if not claims:
        return ["claims: the study asks for none"]
    able = [claim.id for claim in claims if claim.can == "support or refute"]
    lines = _wrapped("claims", f"it can support or refute: {', '.join(able) or 'none'}")
    words = {
        "support only": "it can support, not refute",
        "refute only": "it can refute, not support",
        "neither": "it cannot rule on",
    }
    for claim in claims:
        if claim.can in words:
            lines += _wrapped("", f"{words[claim.can]} {claim.id}: {claim.why}")
    return lines


def _wrapped(word: str, text: str) -> list[str]:
    head = f"{word:8}"
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    ) or [head.rstrip()]
