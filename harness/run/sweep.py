"""All missing cells of a study without a workflow engine, most informative first, in time."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import filelock

from harness.data.sources import own_files, prepare, sha256_of
from harness.data.summary import unusable
from harness.errors import NO_TORCH, UserError
from harness.records import operator as operators
from harness.records import schema as records
from harness.records.operator import OperatorRecord
from harness.records.schema import Record
from harness.records.spec import TrainingSpec
from harness.run.beside.crew import Crew
from harness.run.beside.places import Place
from harness.run.display import Display, Pace, failure_log
from harness.run.operator.bench import OperatorCell, bench, operator_cells
from harness.run.supervisor import run_cell
from harness.run.watch import OutOfTimeError, Said
from harness.run.workers import ForkError, ForkServers, Fresh, Workers, can_fork
from harness.study.cells import Cell, cells
from harness.study.manifest import FILE_NAME, Manifest, manifest, read_manifest
from harness.study.schema import Study

# So many failures without a single success have one cause, which time on a lent machine must not be spent on.
_HOPELESS = 5
# Cells from which on a display is worth reading what they took before.
_MANY = 20

# What a study asks for, and what becomes of it.
Task = Cell | OperatorCell
Result = Record | OperatorRecord


@dataclass
class Progress:
    """What a sweep did.

    Attributes:
        folder: The study's folder of records.
        measured: Cells that now have a record.
        failed: Cells that ended without a final status; they are tried again next time.
        left: Cells that no longer fitted the time, or were given up when it was over.
    """

    folder: Path
    measured: list[Task] = field(default_factory=list)
    failed: list[Task] = field(default_factory=list)
    left: list[Task] = field(default_factory=list)

    @property
    def hopeless(self) -> bool:
        """Whether the first cells all failed and the others were not begun."""
        return len(self.failed) >= _HOPELESS and not self.measured

    def summary(self) -> str:
        """One line of numbers."""
        why = "not started" if self.hopeless else "not finished (time limit)"
        return f"{self.folder}: {len(self.measured)} measured, {len(self.failed)} failed, {len(self.left)} {why}"

    def errors(self) -> list[str]:
        """One line for each failed cell: where the reason stands."""
        files = {task.key: (self.folder / task.path).with_suffix(records.FAILED_SUFFIX) for task in self.failed}
        return [
            f"{key} has no result; {f'{file} says why' if file.is_file() else 'the process that measured it died'}"
            for key, file in files.items()
        ]


def write_manifest(study: Study, folder: Path) -> Manifest:
    """Write `study.json`, which makes a folder of records explain itself.

    Raises:
        UserError: The folder's is of a study of another name, whose records would belong to nothing.
    """
    result = manifest(study)
    content = records.encode(result)
    path = folder / FILE_NAME
    there = study.name
    with contextlib.suppress(UserError):
        # One that cannot be read is written anew.
        there = read_manifest(folder).study.name
    if there != study.name:
        raise UserError(
            f"{folder} holds the records of study '{there}', not of '{study.name}'; name another folder "
            "(--results FOLDER), or move that one away"
        )
    if not path.is_file() or path.read_bytes() != content:
        records.write_atomic(path, content)
    return result


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The only sweep or workflow that measures into a folder, for as long as the context lasts.

    Two at once would time each other, and the later record of a cell would win. The lock is the kernel's: it goes with
    the process that has it, however that ends. The same process may take it again.

    Args:
        folder: A study's folder of records.

    Raises:
        UserError: Another one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".measuring.lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"another sweep or workflow measures into {folder}; wait for it, end it, or name another folder "
            "(--results FOLDER)"
        ) from None
    try:
        # Whoever left these was killed while writing: the lock is ours.
        for left in folder.rglob(".*.part"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def tasks(study: Study) -> list[Task]:
    """All that a study asks for: its cells, and the operator bench."""
    return [*cells(study), *operator_cells(study)]


def find(study: Study, kind: str, key: str, *, typed: str) -> Task:
    """The cell of a study that a key names.

    Args:
        study: The study.
        kind: `speed` or `training`.
        key: As `Cell.key`, or `operator`.
        typed: How the user named the study.

    Raises:
        UserError: There is none.
    """
    known = {task.key: task for task in tasks(study) if task.kind == kind}
    if key not in known:
        raise UserError(
            f"study '{study.name}' has no {kind} cell '{key}'; `python -m harness cells {typed}` lists its "
            f"{len(known)} (a changed study asks for new cells)"
        )
    return known[key]


def changed_data(study: Study, folder: Path) -> dict[str, Path]:
    """Records that were measured on another file than is there now.

    A data set whose checksum the study states cannot change: another file is refused.

    Args:
        study: The study.
        folder: Its folder of records.

    Returns:
        The file, by the key of the cell.

    Raises:
        UserError: A record that cannot be read.
    """
    now: dict[str, dict[str, tuple[Path, str]]] = {}
    found: dict[str, Path] = {}
    for cell in cells(study):
        path = folder / cell.path
        if not isinstance(cell.spec, TrainingSpec) or cell.spec.source.sha256 is not None or not path.is_file():
            continue
        name = cell.spec.dataset
        if name not in now:
            files = own_files(study.sources()[name], study.data_folder)
            now[name] = {part: (file, sha256_of(file)) for part, file in files.items()}
        measured = records.read(path).provenance
        before = measured.files_sha256 or {}
        for part, (file, sha256) in now[name].items():
            if before.get(part, measured.data_sha256) != sha256:
                found[cell.key] = file
    return found


def order(todo: Iterable[Task]) -> list[Task]:
    """Most informative first: one replicate of everything before the next, shuffled inside.

    A study may put some labels before the others; see `Cell.rank`. Short histories train before long ones. The
    operator bench, which no claim rests on, is the last that is timed before what only trains.
    """

    def place(cell: Cell) -> tuple[int, bool, int, int]:
        # No claim rests on how training time grows with the length, so that order may follow the cost.
        length = cell.spec.length or 0 if cell.kind == "training" else 0
        return cell.rank, cell.kind != "speed", length, cell.shuffle

    todo = list(todo)
    ordered: list[Task] = [*sorted((task for task in todo if isinstance(task, Cell)), key=place)]
    after = max((number for number, task in enumerate(ordered, 1) if task.kind == "speed"), default=0)
    ordered[after:after] = [task for task in todo if isinstance(task, OperatorCell)]
    return ordered


def run(
    study: Study,
    task: Task,
    output: Path,
    *,
    log: Path | None = None,
    workers: Workers | None = None,
    deadline: float | None = None,
    said: Said | None = None,
    beside: int | None = None,
) -> Result:
    """Measure and write one record; see `run_cell` and `bench`.

    Raises:
        OutOfTimeError: The deadline passed; nothing was written.
        UserError: The data set of a training cell is missing or malformed, or torch is; nothing was written.
    """
    _check_torch()
    if isinstance(task, Cell):
        return run_cell(study, task, output, log=log, workers=workers, deadline=deadline, said=said, beside=beside)
    record = bench(task.settings, log=log, deadline=deadline, said=said)
    records.write(record, output)
    return record


def _check_torch() -> None:
    """Before the first cell, which could only fail: the light installation has none."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(NO_TORCH)


def prepare_data(study: Study, dataset: str) -> None:
    """Prepare a data set before the first cell that trains on it.

    Raises:
        UserError: It is missing or malformed, or nothing can be trained or ranked on it.
    """
    split = study.training.split if study.training is not None else "leave-one-out"
    if problem := unusable(prepare(dataset, study.sources()[dataset], study.data_folder), split):
        raise UserError(f"data set '{dataset}': {problem}")


def sweep(
    study: Study,
    folder: Path,
    *,
    minutes: float | None = None,
    kind: str | None = None,
    workers: Literal["fork", "fresh"] | None = None,
    places: Sequence[Place] = (),
    display: Display | None = None,
) -> Progress:
    """Run all cells of a study that have no record yet.

    All that a cell's process prints is kept in `log_of`.

    Args:
        study: What to measure.
        folder: The study's folder of records.
        minutes: Time for the whole sweep. A speed cell that would probably not end in it is not begun; what has not
            ended by then is given up, and a training cell goes on from its checkpoint next time.
        kind: `speed` or `training` to run only those.
        workers: How cells start: forked from a process that has imported torch, or each by itself. Default: forked
            where that works.
        places: Where to measure, a cell at a time at each; none: one after the other, on all of the machine.
        display: Shows them; None: one of its own.

    Raises:
        ForkError: `workers` is `fork`, and that does not work here.
        UserError: A data set is missing, or nothing can be trained on it, or torch is, or another sweep measures into
            the folder; nothing was measured.
    """
    _check_torch()
    with alone(folder):
        return _sweep(study, folder, minutes, kind, workers, places, display)


def _sweep(
    study: Study,
    folder: Path,
    minutes: float | None,
    kind: str | None,
    workers: Literal["fork", "fresh"] | None,
    places: Sequence[Place],
    display: Display | None,
) -> Progress:
    begin = time.monotonic()
    deadline = None if minutes is None else begin + 60 * minutes
    write_manifest(study, folder)
    todo = [t for t in order(tasks(study)) if (kind is None or t.kind == kind) and not (folder / t.path).is_file()]
    # Once and beforehand: each cell would ask for it again, and fetch what cannot be fetched.
    for dataset in sorted({t.spec.where for t in todo if isinstance(t, Cell) and t.kind == "training"}):
        prepare_data(study, dataset)
    progress = Progress(folder)
    if display is None:
        with show(study, folder, todo, max(1, len(places))) as display:
            return _measure(study, todo, _Ledger(study, progress, display, deadline), workers, places)
    return _measure(study, todo, _Ledger(study, progress, display, deadline), workers, places)


def show(study: Study, folder: Path, todo: Sequence[Task], beside: int = 1) -> Display:
    """The display of some cells of a study, which knows what they took on a machine like this one.

    Args:
        study: The study.
        folder: Its folder of records.
        todo: Cells that are to run.
        beside: How many run at a time.
    """
    every = tasks(study)
    expected, elsewhere = {}, {}
    # Reading records takes a second, which a few cells are not worth; what it needs takes half of one to import.
    if len(todo) >= _MANY:
        from harness.run.past import folders, known

        past = known(study.device_here(), folders(folder))
        expected, elsewhere = _means(todo, past.elapsed), _means(todo, past.elsewhere)
        if past.operator_seconds is not None:
            expected |= {task.path: past.operator_seconds for task in todo if isinstance(task, OperatorCell)}
    done = sum((folder / task.path).is_file() for task in every)
    return Display(len(every), done, Pace(todo, expected, beside, elsewhere))


def _means(todo: Sequence[Task], past: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, float]:
    """Mean seconds by path of the cells that something is known of."""
    seen = {t.path: past[t.kind, t.digest] for t in todo if isinstance(t, Cell) and (t.kind, t.digest) in past}
    return {path: sum(seconds) / len(seconds) for path, seconds in seen.items()}


def log_of(study: Study, task: Task) -> Path:
    """Where a cell's output is kept, here and by the workflow."""
    return Path("logs") / study.name / Path(task.path).with_suffix(".log")


class _Ledger:
    """What a sweep keeps account of: which cells may still begin, and how each ended."""

    def __init__(self, study: Study, progress: Progress, display: Display, deadline: float | None) -> None:
        self.progress, self.display, self.deadline = progress, display, deadline
        self._study = study
        self._longest: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    @property
    def hopeless(self) -> bool:
        """See `Progress`."""
        return self.progress.hopeless

    def places_of(self, task: Task) -> tuple[Path, Path]:
        """Where its record goes, and its log."""
        return self.progress.folder / task.path, log_of(self._study, task)

    def begins(self, task: Task) -> bool:
        """Whether a cell begins now; else it is left: nothing works here, or it would not end in time."""
        now = time.monotonic()
        needed = self._longest.get(task.label, 0.0) if task.kind == "speed" else 0.0
        if self.hopeless or (self.deadline is not None and now + needed > self.deadline):
            self.leave([task])
            return False
        self._begun[task.path] = now
        self.display.begun(task)
        return True

    def recorded(self, task: Task) -> bool:
        """A cell has left a record, or one of a failure; whether it is final."""
        result = _result(task, self.places_of(task)[0])
        self.ended(task, result)
        return result.status in records.FINAL

    def ended(self, task: Task, result: Result | None) -> None:
        """A cell has ended with a result; None: it left none."""
        if task.kind == "speed":
            seconds = time.monotonic() - self._begun[task.path]
            self._longest[task.label] = max(self._longest.get(task.label, 0.0), seconds)
        well = result is not None and result.status in records.FINAL
        (self.progress.measured if well else self.progress.failed).append(task)
        output, log = self.places_of(task)
        # A process that died at its place leaves no record that says why, and an older one would say something else.
        why = failure_log(output, log) if result is not None else log if log.is_file() else None
        if result is None:
            output.with_suffix(records.FAILED_SUFFIX).unlink(missing_ok=True)
        self.display.ended(task, result, why)

    def again(self, task: Task) -> None:
        """A cell was not begun after all."""
        self.display.given_up(task)

    def given_up(self, task: Task) -> None:
        """A cell was ended since the time was over."""
        self.leave([task])
        self.display.given_up(task)

    def leave(self, left: Iterable[Task]) -> None:
        """Cells that are not begun any more."""
        self.progress.left += left


def _measure(
    study: Study,
    todo: Sequence[Task],
    ledger: _Ledger,
    workers: Literal["fork", "fresh"] | None,
    places: Sequence[Place],
) -> Progress:
    progress = ledger.progress
    if places:
        _measure_beside(study, todo, ledger, workers, places)
    else:
        with ForkServers() as servers:
            runner = Runner(study, servers, workers, ledger.deadline, ledger.display)
            for task in todo:
                if not ledger.begins(task):
                    continue
                result = runner.run(task, *ledger.places_of(task))
                if result is None:
                    ledger.given_up(task)
                else:
                    ledger.ended(task, result)
    if progress.hopeless:
        count = len(progress.failed)
        ledger.display.note(f"error: the first {count} cells failed and none was measured; the others were not begun")
    return progress


def _measure_beside(
    study: Study,
    todo: Sequence[Task],
    ledger: _Ledger,
    workers: Literal["fork", "fresh"] | None,
    places: Sequence[Place],
) -> None:
    """Measure at several places; trainings whose times count run at one of them, alone, when all else is done."""
    last = [task for task in todo if _is_timed_training(task)]
    if last and len(places) > 1:
        ledger.display.note(f"note: {len(last)} trainings are timed, and run one after the other when all else is done")
    Crew(study, ledger, workers, places).measure([task for task in todo if not _is_timed_training(task)])
    Crew(study, ledger, workers, places[:1]).measure(last)


def _is_timed_training(task: Task) -> bool:
    return isinstance(task, Cell) and isinstance(task.spec, TrainingSpec) and task.spec.timed


def _result(task: Task, output: Path) -> Result:
    written = output if output.is_file() else output.with_suffix(records.FAILED_SUFFIX)
    return records.read(written) if isinstance(task, Cell) else operators.read(written)


class Listener(Protocol):
    """Who is told what happens while a cell runs; a display is one."""

    def said(self, job: Task, line: str) -> None:
        """A cell's process has printed a line."""

    def note(self, line: str) -> None:
        """A person should read this."""


class Runner:
    """Runs one cell after the other as `sweep` was told to, and by itself what turns out not to be forkable here."""

    def __init__(
        self,
        study: Study,
        servers: ForkServers,
        wanted: Literal["fork", "fresh"] | None,
        deadline: float | None,
        listener: Listener,
        beside: int | None = None,
    ) -> None:
        self._study, self._servers, self._wanted, self._deadline = study, servers, wanted, deadline
        self._listener, self._beside = listener, beside
        self._workers: Workers = servers if wanted == "fork" or (wanted is None and can_fork()) else Fresh()
        self._rank: int | None = None

    def run(self, task: Task, output: Path, log: Path) -> Result | None:
        """The cell's result; None where it was given up for time."""
        if isinstance(task, Cell) and task.rank != self._rank:
            # Children of one server share its memory layout, which replicates must not.
            self._servers.close()
            self._rank = task.rank
        try:
            return self._run(task, output, log)
        except ForkError as error:
            if self._wanted == "fork":
                raise
            self._listener.note(f"warning: {error}; each cell now starts by itself")
            self._workers = Fresh()
            return self._run(task, output, log)

    def _run(self, task: Task, output: Path, log: Path) -> Result | None:
        said = functools.partial(self._listener.said, task)
        try:
            return run(
                self._study,
                task,
                output,
                log=log,
                workers=self._workers,
                deadline=self._deadline,
                said=said,
                beside=self._beside,
            )
        except OutOfTimeError:
            return None
