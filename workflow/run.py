"""`make report`: Snakemake with what a killed earlier run needs.

After a kill -9 Snakemake leaves a lock and half-known outputs behind. The lock is cleared here,
but only when no workflow runs in this folder; incomplete jobs run again.

`make pause` (`--pause`) ends the workflow of this folder in order: finished records stay, a training keeps the
checkpoint of its last epoch, and the next `make report` of the same study goes on from there, bit for bit.

Where many timed cells are missing they are measured first, as `python -m harness sweep` does: forked from
processes that have torch already. Snakemake starts Python for each, which takes as long as the timing of a short
cell and would leave no time for many processes a point.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from harness.errors import UserError
from harness.run.sweep import sweep
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.find import default_study
from models.registry import RegistryError

HERE = Path.cwd()
# Missing cells from which on a server is worth its own start.
SERVED = 10
# A cell that was asked to end takes a second or two; Snakemake then sums up.
PATIENCE_SECONDS = 60.0


def running_workflows() -> list[int]:
    """Process ids of others that run the workflow in this folder."""
    found = []
    # A program that started this one may name it in its own words.
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        runs = any(Path(part).name in {"snakemake", "run.py"} for part in command[:3])
        if runs and process.info["cwd"] == str(HERE) and process.info["pid"] not in own:
            found.append(process.info["pid"])
    return found


def pause() -> int:
    """End the workflow of this folder, its cells too, and return the exit code."""
    found = [psutil.Process(pid) for pid in running_workflows()]
    if not found:
        print("no workflow runs in this folder")
        return 0
    tree = list(dict.fromkeys(p for process in found for p in (process, *process.children(recursive=True))))
    # Snakemake first, which then starts nothing more; this script itself ends with it, or is alone and measures.
    engines = [p for p in tree if _is(p, "snakemake")]
    cells = [p for p in tree if _is(p, "harness")]
    for process in [*engines, *cells] if engines else [*cells, *found]:
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


def measure_speed(arguments: list[str]) -> None:
    """Measure the timed cells that have no record, where they are many; what is wrong, Snakemake says."""
    words = dict(word.split("=", 1) for word in arguments if "=" in word)
    if set(words) - {"study"}:
        return
    try:
        study = load_study(words.get("study", default_study()))
    except (UserError, RegistryError):
        return
    folder = HERE / "results" / study.name
    missing = [cell for cell in cells(study) if cell.kind == "speed" and not (folder / cell.path).is_file()]
    if len(missing) >= SERVED:
        sweep(study, folder, kind="speed")


def main(arguments: list[str]) -> int:
    """Run Snakemake and return its exit code."""
    if arguments == ["--pause"]:
        return pause()
    snakemake = [sys.executable, "-m", "snakemake"]
    if running := running_workflows():
        print(
            f"error: a workflow runs in this folder (process {running[0]}); wait for it, or type `make pause`",
            file=sys.stderr,
        )
        return 1
    locks = HERE / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    begin = time.time()
    if not {"-n", "--dry-run", "--dryrun"} & set(arguments):
        measure_speed(arguments)
    command = [*snakemake, *arguments[:1], "--cores", "all", "--keep-going", "--rerun-incomplete", *arguments[1:]]
    code = subprocess.run(command, check=False).returncode
    if code and any(path.stat().st_mtime >= begin for path in Path("results").rglob("*.failed.json")):
        print(
            "Some cells have no result; their *.failed.json beside the records say why, and the next run tries them\n"
            "again. `python -m harness report results/STUDY` builds the document from what is there.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
