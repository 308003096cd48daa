"""A study measured on a lent machine, in commands that end in time and one archive that the next goes on from.

Phases run in the order given, each until it is done, its own minutes are over, or the whole command's are: `tests` (all
tests marked gpu), `speed` and `training` (the study's missing cells, most informative first), `bench` (the convolution
operator). After each, and once a minute meanwhile, the archive is written anew with all records so far, so that a
command that is killed loses at most the cell in progress.

Every phase is a process of its own, which can be stopped whatever it does, and whose output is kept beside the archive.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import math
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.errors import UserError, unknown
from harness.records.environment import PACKAGES, ROOT
from harness.records.operator import FILE_NAME
from harness.records.schema import write_atomic
from harness.run.operator.bench import ELEMENTS
from harness.run.process import die_with_parent
from harness.study.schema import Study

PHASES = ("tests", "speed", "training", "bench")
# Left at the end of a command for the last archive, and for a phase that is told to end.
RESERVE_SECONDS = 15.0
ARCHIVE_EVERY_SECONDS = 60.0
# A sweep keeps its own time; it is stopped from here only if it fails to.
_GRACE_SECONDS = 10.0
# No study gives a file a longer one, and beside it a name for what is written aside needs room.
_LONGEST_NAME = 200
_ENDED_WELL = "exit status 0"


@dataclass(frozen=True)
class Session:
    """One command on a machine.

    Attributes:
        study: What to measure.
        typed: The study as a command names it.
        records: The study's folder of records.
        archive: The file to write; logs lie beside it.
        minutes: For all phases together; None: without end.
        workers: How cells start; None: as `sweep` chooses.
        bench_elements: Positions a batch of the operator bench; None: as many as that of a study has.
    """

    study: Study
    typed: str
    records: Path
    archive: Path
    minutes: float | None
    workers: str | None
    bench_elements: int | None

    def run(self, phases: Sequence[tuple[str, float | None]]) -> bool:
        """Run phases, each with its most minutes, and write the archive.

        Returns:
            Whether all ended by themselves without an error.
        """
        begin = time.monotonic()
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        (self.archive.parent / "machine.txt").write_text(self._describe_machine(), encoding="utf-8")
        ends: list[str] = []
        done = 0
        try:
            for phase, minutes in phases:
                seconds = self._seconds(minutes, begin)
                if seconds <= 0:
                    ends.append(f"{phase}: no time left")
                    continue
                print(f"== {phase}, at most {seconds:.0f} s" if seconds < math.inf else f"== {phase}", flush=True)
                started = time.monotonic()
                limit = seconds + (_GRACE_SECONDS if phase in ("speed", "training") else 0.0)
                # Tests lie in the checkout, studies and records where the command was typed.
                folder = ROOT if phase == "tests" else Path.cwd()
                log = self.archive.parent / f"{phase}.txt"
                words = run_phase(self._command(phase, seconds), folder, log, limit, self._write)
                ends.append(f"{phase}: {words}, {time.monotonic() - started:.0f} s")
                done += words == _ENDED_WELL
                self._write()
        finally:
            self._write()
            size = self.archive.stat().st_size / 2**20
            print("\n".join(["== done", *ends, f"{self.archive}, {size:.1f} MiB"]), flush=True)
        return done == len(phases)

    def _seconds(self, minutes: float | None, begin: float) -> float:
        left = math.inf if self.minutes is None else 60 * self.minutes - (time.monotonic() - begin) - RESERVE_SECONDS
        return left if minutes is None else min(left, 60 * minutes)

    def _command(self, phase: str, seconds: float) -> list[str]:
        # Not from the folder it is started in, where another checkout may lie: `run_phase` says from where.
        python = [sys.executable, "-P", "-m"]
        if phase == "tests":
            tests = sorted((ROOT / "tests").rglob("test_*.py"))
            marked = [str(p.relative_to(ROOT)) for p in tests if "mark.gpu" in p.read_text(encoding="utf-8")]
            # Without the project's own options: pytest-benchmark, which they name, need not be here.
            plain = ["-o", "addopts=", "-p", "no:cacheprovider", "--durations=15", "-v"]
            return [*python, "pytest", "-m", "gpu", *plain, *marked]
        if phase == "bench":
            device = self.study.device_here()
            elements = str(self.bench_elements or ELEMENTS[device])
            size = ["--quick", "--elements", elements, "--threads", "1", "--device", device]
            return [*python, "harness", "bench", *size, "--output", str(self.records / FILE_NAME)]
        sweep = [*python, "harness", "sweep", self.typed, "--kind", phase, "--results", str(self.records)]
        time_limit = ["--minutes", f"{seconds / 60:.3f}"] if seconds < math.inf else []
        return [*sweep, *time_limit, *(["--workers", self.workers] if self.workers else [])]

    def _write(self) -> None:
        """Write the archive of all records, checkpoints of unfinished cells, and logs, aside and then in place."""
        aside = self.archive.with_suffix(".part")
        own = {self.archive.resolve(), aside.resolve()}
        logs = [self.archive.parent / f"{name}.txt" for name in ("machine", *PHASES)]
        with tarfile.open(aside, "w:gz", compresslevel=6) as bundle:
            for path in sorted(p for p in self.records.rglob("*") if p.is_file() and p.resolve() not in own):
                # A file that is being written aside vanishes when it is renamed.
                with contextlib.suppress(FileNotFoundError):
                    bundle.add(path, arcname=f"{self.study.name}/{path.relative_to(self.records)}")
            for log in (log for log in logs if log.is_file()):
                bundle.add(log, arcname=f"logs/{log.name}")
        aside.replace(self.archive)

    def _describe_machine(self) -> str:
        """Versions, and what the driver says of the GPU."""
        lines = [f"{platform.platform()}, Python {platform.python_version()}"]
        for package in (*PACKAGES, "msgspec", "pyyaml", "filelock", "nvidia-ml-py", "seaborn", "pytest"):
            try:
                lines.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                lines.append(f"{package}: not installed")
        if self.study.device_here() == "cuda":
            done = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False)
            lines.append(done.stdout or done.stderr)
        return "\n".join(lines) + "\n"


def read_minutes(text: str, of: str = "--minutes") -> float:
    """Minutes above 0.

    Args:
        text: What the user typed.
        of: What the minutes are of, for the message.

    Raises:
        UserError: Anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"{of} must be a number above 0, got '{text}'")
    return value


def read_phases(text: str) -> list[tuple[str, float | None]]:
    """`tests=2.5,speed` as phases, each with its most minutes or None.

    Raises:
        UserError: An unknown phase, or minutes that are not a number above 0.
    """
    found = []
    for word in text.split(","):
        phase, sign, limit = word.partition("=")
        if phase not in PHASES:
            raise unknown("phase", phase, PHASES, "Type NAME or NAME=MINUTES.")
        found.append((phase, read_minutes(limit, f"the minutes of {phase}") if sign else None))
    return found


def resume(archive: Path, records: Path, study: str) -> int:
    """Unpack the records of an earlier command's archive that are not here yet.

    Args:
        archive: What `--archive` wrote.
        records: The study's folder of records.
        study: Its name.

    Returns:
        The number of files.

    Raises:
        UserError: No such file, not an archive, a damaged one, one of another study, or one whose files would lie
            outside the folder; nothing was written, or only whole files before the damage.
    """
    try:
        if not (archive.is_file() and tarfile.is_tarfile(archive)):
            raise UserError(
                f"--resume: '{archive}' is not an archive; give the .tar.gz of an earlier command, or leave it out"
            )
        with tarfile.open(archive) as bundle:
            return _unpacked(bundle, archive, records, study)
    except (tarfile.TarError, EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"--resume: '{archive}' is damaged ({error}); give another one, or leave it out") from None


def _unpacked(bundle: tarfile.TarFile, archive: Path, records: Path, study: str) -> int:
    # Plain files alone: a link may point anywhere.
    members = [(member, *member.name.partition("/")[::2]) for member in bundle.getmembers() if member.isfile()]
    others = {top for _, top, name in members if name} - {"logs", study}
    if others:
        raise UserError(
            f"--resume: '{archive}' holds records of study '{min(others)}', not of '{study}'; name that study, or give "
            "another archive. Nothing was written"
        )
    wanted = [(member, records / name) for member, top, name in members if top != "logs" and name]
    for member, target in wanted:
        if any(len(part) > _LONGEST_NAME for part in target.parts):
            raise UserError(
                f"--resume: '{archive}' holds a name of more than {_LONGEST_NAME} letters; it is not an archive "
                "of this program. Nothing was written"
            )
        if not target.resolve().is_relative_to(records.resolve()):
            raise UserError(
                f"--resume: '{archive}' holds '{member.name}', which would lie outside {records}; it is not an archive "
                "of this program. Nothing was written"
            )
    count = 0
    for member, target in wanted:
        source = bundle.extractfile(member)
        if source is not None and not target.exists():
            write_atomic(target, source.read())
            count += 1
    return count


def name_sources(data: Path | None, commit: str | None) -> None:
    """Where real data lies, and the commit of a checkout without git, for this process and its children.

    Raises:
        UserError: There is no such folder.
    """
    if data is not None:
        if not data.is_dir():
            raise UserError(f"--data: '{data}' is not a folder; give the one that holds the real data")
        os.environ["HYENAREC_DATA"] = str(data.resolve())
    if commit is not None:
        os.environ["HYENAREC_COMMIT"] = commit


def run_phase(command: list[str], folder: Path, log: Path, seconds: float, meanwhile: Callable[[], object]) -> str:
    """Run a command in a process group of its own, its output shown and kept.

    Args:
        command: What to run.
        folder: Where to run it.
        log: Where to keep what it prints.
        seconds: When to stop it; infinite: never.
        meanwhile: Called once a minute.

    Returns:
        How it ended, in words.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment["PYTHONUNBUFFERED"] = "1"
    with log.open("a", encoding="utf-8") as lines:
        lines.write(f"$ {' '.join(command)}\n")
        lines.flush()
        # `tee` outlives this process's own reading, and needs no thread.
        shown = subprocess.Popen(["tee", "-a", str(log)], stdin=subprocess.PIPE)
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=shown.stdin,
            stderr=subprocess.STDOUT,
            process_group=0,
            # What outlived a killed command would disturb the next one's timings.
            preexec_fn=functools.partial(die_with_parent, os.getpid()),
        )
        assert shown.stdin is not None
        shown.stdin.close()
    begin = last = time.monotonic()
    words = ""
    try:
        while child.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if now - begin > seconds:
                words = f"stopped after {seconds:.0f} s"
                break
            if now - last > ARCHIVE_EVERY_SECONDS:
                meanwhile()
                last = time.monotonic()
    finally:
        # Children of a sweep end with it; those of a test only with its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
        shown.wait()
    return words or f"exit status {code}"
