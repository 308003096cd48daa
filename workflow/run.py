"""`make report`: Snakemake with what a killed earlier run needs.

After a kill -9 Snakemake leaves a lock and half-known outputs behind. The lock is cleared here,
but only when no workflow runs in this folder; incomplete jobs run again.

`make pause` (`--pause`) ends the workflow of this folder in order: finished records stay, a training keeps the
checkpoint of its last epoch, and the next `make report` of the same study goes on from there, bit for bit.

Where many timed cells are missing they are measured first, as `python -m harness sweep` does: forked from
processes that have torch already. Snakemake starts Python for each, which takes as long as the timing of a short
cell and would leave no time for many processes a point.

All the while one display says how far it is. What Snakemake prints is kept in a file, `logs/STUDY/snakemake.log`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from harness.analysis.analyse import read as read_analysis
from harness.errors import USAGE, UserError
from harness.report.verdict_table import verdict_table
from harness.run.display import Display, in_words
from harness.run.follow import Follower
from harness.run.process import die_with_parent, exit_code, interrupted_by
from harness.run.sweep import Task, alone, show, sweep, tasks
from harness.study.check import load_study
from harness.study.find import default_study
from harness.study.schema import Study
from models.registry import RegistryError

HERE = Path.cwd()
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
# Missing cells from which on a server is worth its own start.
SERVED = 10
# A cell that was asked to end takes a second or two; Snakemake then sums up.
PATIENCE_SECONDS = 60.0
DOCUMENT = "reports/scaling.pdf"
PROFILE = "workflow/profiles/local"
# Ended by a signal: 128 and its number, as shells say it.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def running_workflows(before: float = math.inf) -> list[int]:
    """Process ids of others that run the workflow in this folder.

    Args:
        before: Only those that began before this time; of two that begin at once one goes on.
    """
    found = []
    # A program that started this one may name it in its own words.
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "create_time"]):
        runs = runs_workflow(process.info["cmdline"] or [])
        older = process.info["create_time"] < before
        if runs and older and process.info["cwd"] == str(HERE) and process.info["pid"] not in own:
            found.append(process.info["pid"])
    return found


def runs_workflow(command: Sequence[str]) -> bool:
    """Whether a command line is that of Snakemake or of this script, and not one that only names such a file."""
    first, *rest = [*command, ""]
    if Path(first).name == "snakemake":
        return True
    if not Path(first).name.startswith("python"):
        return False
    if "-m" in rest:
        return rest[rest.index("-m") + 1 : rest.index("-m") + 2] == ["snakemake"]
    script = next((word for word in rest if not word.startswith("-")), "")
    return Path(script).name in {"snakemake", Path(__file__).name}


def pause() -> int:
    """End the workflow of this folder, its cells too, and return the exit code."""
    found = [psutil.Process(pid) for pid in running_workflows()]
    if not found:
        print("no workflow runs in this folder")
        return 0
    tree = list(dict.fromkeys(p for process in found for p in (process, *process.children(recursive=True))))
    # This script first, which then knows why; then Snakemake, which starts nothing more.
    engines = [p for p in tree if _is(p, "snakemake")]
    scripts = [p for p in found if p not in engines]
    cells = [p for p in tree if _is(p, "harness")]
    for process in [*scripts, *engines, *cells]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and any(map(_runs, tree)):
        time.sleep(0.2)
    for process in filter(_runs, tree):
        process.kill()
    print("paused: finished records and the last epochs are kept; the same `make report` goes on")
    return 0


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        # One that ended, but whose parent has not asked how, is there all the same.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _is(process: psutil.Process, program: str) -> bool:
    """Whether a process is `python -m PROGRAM …` or the program itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command = process.cmdline()[:3]
        return command[1:] == ["-m", program] or any(Path(part).name == program for part in command[:2])
    return False


def named_study(arguments: Sequence[str]) -> Study | None:
    """The study that the arguments of Snakemake name; None where they ask for more than a study.

    Raises:
        RegistryError: It cannot be read for what a model's file says.
        UserError: There is none, or it is wrong.
    """
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    if set(words) - {"study"}:
        return None
    return load_study(words.get("study", default_study()))


def run(study: Study, arguments: Sequence[str]) -> int:
    """Measure what is missing, analyse, and draw the document, under one display.

    Returns:
        The exit code: Snakemake's, or 128 and the signal's number.
    """
    folder, begin = Path("results") / study.name, time.monotonic()
    log = Path("logs") / study.name / "snakemake.log"
    every = tasks(study)
    missing = [task for task in every if not (folder / task.path).is_file()]
    # Snakemake writes it, which a person may look for before the first timed cell has ended.
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    print(f"{study.name}: {len(every) - len(missing)} of {len(every)} cells are measured; log of Snakemake: {log}")
    sys.stdout.flush()
    display = show(study, folder, missing, study.trainings_beside() if study.speed is None else 1)
    follower = Follower(folder, {str(folder / task.path): task for task in every}, display)
    try:
        with display:
            timed = [task for task in missing if task.kind == "speed"]
            if len(timed) >= SERVED:
                sweep(study, folder, kind="speed", display=display)
            code = snakemake(arguments, log, follower)
    except KeyboardInterrupt as stop:
        return _kept(study, folder, every, exit_code(stop))
    if code < 0 or code in (INTERRUPTED, TERMINATED):
        return _kept(study, folder, every, code if code > 0 else 128 - code)
    _sum_up(study, folder, display, follower, code, log, time.monotonic() - begin)
    return code


def snakemake(arguments: Sequence[str], log: Path, follower: Follower) -> int:
    """Run Snakemake, its output kept in a file and its events shown.

    Returns:
        Its exit code, negative for a signal.
    """
    read, write = os.pipe()
    here = str(Path(__file__).resolve().parent)
    places = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "HYENAREC_EVENTS": str(write), "PYTHONPATH": places}
    command = [*SNAKEMAKE, *arguments[:1], "--workflow-profile", PROFILE, *arguments[1:]]
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*command, "--logger", "harness"],
            stdout=file,
            stderr=file,
            env=environment,
            pass_fds=[write],
            # Killed, this script could not say that cells still run; with Snakemake they end too.
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
        )
    os.close(write)
    try:
        follower.follow(read)
        return process.wait()
    finally:
        os.close(read)
        # Interrupted: it has had the signal too, and ends its jobs in order.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        process.kill()


def _python() -> str:
    """How a person types this Python: `make` runs one that need not be the one on their path."""
    here, found = Path(sys.executable), shutil.which("python")
    if found is not None and Path(found).absolute() == here.absolute():
        return "python"
    return str(here.relative_to(HERE)) if here.is_relative_to(HERE) else str(here)


def _kept(study: Study, folder: Path, every: Sequence[Task], code: int) -> int:
    """Say what an interrupted run leaves, and how to go on; the exit code."""
    done = sum((folder / task.path).is_file() for task in every)
    checkpoints = len(list(folder.rglob("*.checkpoint")))
    trainings = f", and the last epoch of {checkpoints} unfinished training(s)" if checkpoints else ""
    print(
        f"interrupted: {done} of {len(every)} cells are kept in {folder}{trainings}\n"
        f"next: the same command goes on from there; `{_python()} -m harness report {folder}` draws what there is",
        file=sys.stderr,
    )
    return code


def _sum_up(
    study: Study, folder: Path, display: Display, follower: Follower, code: int, log: Path, seconds: float
) -> None:
    """Verdicts, where everything lies, and what to type next."""
    if code == 0:
        if not follower.started and display.count() == f"{display.total}/{display.total}":
            print("nothing to measure: all cells and the document are up to date")
        print(f"\n{verdict_table(read_analysis(folder / 'analysis.json'))}\n")
        print(f"document  {DOCUMENT}   ({display.count()} cells, {in_words(seconds)})")
        print(f"page      {DOCUMENT.removesuffix('.pdf')}.html   (verdicts, charts and cells, to click through)")
        print(f"verdicts  {_python()} -m harness verify {folder}   (with threats to validity; --json for scripts)")
        print(f"next      harness.load({str(folder)!r}) in {_python()}: all cells as one table")
        return
    for line in [*follower.other, *(follower.told if not display.failed else [])]:
        print(f"error: {line}", file=sys.stderr)
    if display.failed:
        print(
            f"{display.failed} of {display.total} cells have no result, so there is no document yet; the lines above "
            "say where to read why.\nnext: the same command tries them again; `python -m harness report "
            f"{folder}` draws what is there",
            file=sys.stderr,
        )
    elif not follower.other and not follower.told:
        print("\n".join(log.read_text(errors="replace").splitlines()[-20:]), file=sys.stderr)
    print(f"the whole log of Snakemake: {log}", file=sys.stderr)


def make(arguments: list[str]) -> int:
    """What the arguments ask for; the exit code."""
    if arguments == ["--pause"]:
        return pause()
    if running := running_workflows(psutil.Process().create_time()):
        print(
            f"error: a workflow runs in this folder (process {running[0]}); wait for it, or type `make pause`",
            file=sys.stderr,
        )
        return 1
    locks = HERE / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        subprocess.run([*SNAKEMAKE, "--unlock", "--quiet", "all"], check=True)
    study = named_study(arguments)
    if study is None or {"-n", "--dry-run", "--dryrun"} & set(arguments):
        # What is wrong, or would be done, Snakemake itself says.
        return subprocess.run([*SNAKEMAKE, *arguments[:1], "--cores", "all", *arguments[1:]], check=False).returncode
    with alone(Path("results") / study.name):
        return run(study, arguments)


def main(arguments: list[str]) -> int:
    """Run Snakemake and return its exit code."""
    # By `make pause`, and by a terminal that is closed.
    interrupted_by(signal.SIGTERM, signal.SIGHUP)
    try:
        return make(arguments)
    except KeyboardInterrupt as stop:
        print("interrupted; finished records are kept", file=sys.stderr)
        return exit_code(stop)
    except (UserError, RegistryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
