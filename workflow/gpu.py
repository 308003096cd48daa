"""Measure a study on a bare machine with a GPU, in commands that end in time, and leave one archive of records.

    python workflow/gpu.py tests=2.5 speed           # first command: tests for 2.5 minutes at most, then speed
    python workflow/gpu.py speed                     # go on where the first ended
    python workflow/gpu.py bench training --resume gpu-out/gpu-half-hour.tar.gz

Phases run in the order given, each until it is done, its own minutes are over (`NAME=MINUTES`), or the whole command's
are: `tests` (all tests marked gpu), `speed` and `training` (the study's missing cells, most informative first), `bench`
(the convolution operator). After each, and once a minute meanwhile, `<study>.tar.gz` in the output folder is written
anew with all records so far, so that a command that is killed loses at most the cell in progress.

Needs neither an installed package, nor Snakemake, nor typst; runs from a checkout. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The project need not be installed; these modules of it need nothing but Python.
sys.path.insert(0, str(ROOT))
from harness.errors import USAGE, Parser  # noqa: E402
from harness.run.process import die_with_parent  # noqa: E402

PHASES = ("tests", "speed", "training", "bench")
# Import name → what pip calls it; nothing else is imported by what runs here.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "msgspec": "msgspec",
    "yaml": "pyyaml",
    "filelock": "filelock",
    "pynvml": "nvidia-ml-py",
}
NEEDED_FOR_TESTS = {"pytest": "pytest", "hypothesis": "hypothesis"}
# One layer of the operator in the `gpu` studies is B·L·D = 65,536 · 64; this is four of them, 16M numbers.
BENCH_ELEMENTS = 262_144
# Left at the end of a command for the last archive, and for a phase that is told to end.
RESERVE_SECONDS = 15.0
ARCHIVE_EVERY_SECONDS = 60.0


def missing(phases: list[str], cuda: bool) -> list[str]:
    """Packages, by pip's names, that these phases import and this environment lacks."""
    wanted = {**NEEDED, **(NEEDED_FOR_TESTS if "tests" in phases else {})}
    if not cuda:
        del wanted["pynvml"]
    return [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]


def mistake(options: argparse.Namespace, limits: list[float]) -> str | None:
    """What cannot be meant, in one line, before anything is begun or written."""
    from harness.errors import UserError
    from harness.study.check import load_study

    for minutes in (options.minutes, *limits):
        if not 0 < minutes < math.inf:
            return f"{minutes:g} minutes is no time to measure in; name minutes above 0"
    if options.device == "cuda" and shutil.which("nvidia-smi") is None:
        return "no NVIDIA driver here: nvidia-smi is not found; `--device cpu` rehearses with a study for it"
    if options.resume is not None and not (options.resume.is_file() and tarfile.is_tarfile(options.resume)):
        return f"--resume {options.resume} is no archive; name the .tar.gz of an earlier command, or leave it out"
    if options.data is not None and not options.data.is_dir():
        return f"--data {options.data} is no folder; name the one that holds the real data"
    try:
        load_study(options.study)
    except UserError as error:
        return str(error)
    return None


def commands(phase: str, options: argparse.Namespace, minutes: float) -> list[str]:
    """The command of one phase, to be run in the checkout."""
    python = [sys.executable, "-m"]
    if phase == "tests":
        marked = [p for p in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in p.read_text(encoding="utf-8")]
        names = [str(p.relative_to(ROOT)) for p in marked]
        # Without the project's own options: pytest-benchmark, which they name, need not be here.
        plain = ["-o", "addopts=", "-p", "no:cacheprovider", "--durations=15", "-v"]
        return [*python, "pytest", "-m", "gpu", *plain, *names]
    if phase == "bench":
        size = ["--quick", "--elements", str(options.bench_elements), "--threads", "1"]
        return [
            *python,
            "harness",
            "bench",
            "--device",
            options.device,
            *size,
            "--output",
            f"{records(options)}/operator.json",
        ]
    sweep = [*python, "harness", "sweep", options.study, "--kind", phase, "--minutes", f"{minutes:.3f}"]
    return [*sweep, "--results", str(records(options)), *(["--workers", options.workers] if options.workers else [])]


def records(options: argparse.Namespace) -> Path:
    """The study's folder of records."""
    return Path(options.results or ROOT / "results" / Path(options.study).stem)


def archive(options: argparse.Namespace) -> Path:
    """Write the archive of all records, checkpoints of unfinished cells, and logs, aside and then in place."""
    target = Path(options.output) / f"{Path(options.study).stem}.tar.gz"
    aside = target.with_suffix(".part")
    with tarfile.open(aside, "w:gz", compresslevel=6) as bundle:
        for path in sorted(p for p in records(options).rglob("*") if p.is_file()):
            # A file that is being written aside vanishes when it is renamed.
            with contextlib.suppress(FileNotFoundError):
                bundle.add(path, arcname=f"{target.name.removesuffix('.tar.gz')}/{path.relative_to(records(options))}")
        for log in sorted(Path(options.output).glob("*.txt")):
            bundle.add(log, arcname=f"logs/{log.name}")
    aside.replace(target)
    return target


def resume(path: Path, options: argparse.Namespace) -> int:
    """Unpack an archive's records that are not here yet, and say how many."""
    count = 0
    with tarfile.open(path) as bundle:
        for member in bundle.getmembers():
            study, _, name = member.name.partition("/")
            target = records(options) / name
            source = bundle.extractfile(member)
            if study == "logs" or source is None or target.exists() or ".." in Path(name).parts:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read())
            count += 1
    return count


def run(command: list[str], log: Path, seconds: float, meanwhile: Callable[[], object]) -> str:
    """Run a command in a process group of its own, its output shown and kept.

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
            cwd=ROOT,
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


def describe_machine(options: argparse.Namespace) -> str:
    """Versions, and what the driver says of the GPU."""
    from importlib import metadata

    lines = [f"{platform.platform()}, Python {platform.python_version()}"]
    for package in [*NEEDED.values(), "triton", "flash-attn", "mamba-ssm", "pandas", "seaborn", "pytest"]:
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package}: not installed")
    if options.device == "cuda":
        done = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False)
        lines.append(done.stdout or done.stderr)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Run the phases; 0 when all ended by themselves without an error, 1 otherwise."""
    parser = Parser(description=(__doc__ or "").split("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="+", metavar="PHASE[=MINUTES]", help=f"in this order, of: {', '.join(PHASES)}")
    parser.add_argument("--study", default="gpu-half-hour", help="name or path (default: gpu-half-hour)")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all phases together (default: 9.5)")
    parser.add_argument("--output", type=Path, default=Path("gpu-out"), help="folder of the archive and the logs")
    parser.add_argument("--results", type=Path, help="folder of records (default: results/<study> of the checkout)")
    parser.add_argument("--resume", type=Path, metavar="ARCHIVE", help="records of an earlier command, from elsewhere")
    parser.add_argument("--data", type=Path, help="folder of real data (default: what HYENAREC_DATA names)")
    parser.add_argument("--commit", help="commit of these files, where they are a copy without its git folder")
    parser.add_argument(
        "--workers", choices=["fork", "fresh"], help="how cells start; see `python -m harness sweep -h`"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu rehearses with a study for it")
    parser.add_argument("--bench-elements", type=int, default=BENCH_ELEMENTS, help="positions a batch of `bench`")
    options = parser.parse_args(arguments)
    begin = time.monotonic()
    wanted: list[tuple[str, float]] = []
    for word in options.phases:
        name, _, limit = word.partition("=")
        try:
            wanted.append((name, float(limit) if limit else options.minutes))
        except ValueError:
            name = word
        if name not in PHASES or not wanted:
            print(
                f"error: unknown phase '{word}'; legal: {', '.join(PHASES)}, as NAME or NAME=MINUTES", file=sys.stderr
            )
            return USAGE
    if lacking := missing([name for name, _ in wanted], options.device == "cuda"):
        print(
            f"error: this Python ({sys.executable}) lacks {', '.join(lacking)}; install with:  "
            f"{sys.executable} -m pip install {' '.join(lacking)}",
            file=sys.stderr,
        )
        return USAGE
    if words := mistake(options, [limit for _, limit in wanted]):
        print(f"error: {words}", file=sys.stderr)
        return USAGE
    if options.data is not None:
        os.environ["HYENAREC_DATA"] = str(options.data.resolve())
    if options.commit is not None:
        os.environ["HYENAREC_COMMIT"] = options.commit
    # Phases run in the checkout, wherever this was called.
    options.output = options.output.resolve()
    options.results = options.results and options.results.resolve()
    if Path(options.study).suffix in {".yaml", ".yml"}:
        options.study = str(Path(options.study).resolve())
    options.output.mkdir(parents=True, exist_ok=True)
    # A machine that ends its commands with TERM: end as from an exception, so that the archive is written.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if options.resume is not None:
        print(
            f"{resume(options.resume, options)} files of {options.resume} unpacked into {records(options)}", flush=True
        )
    (options.output / "machine.txt").write_text(describe_machine(options), encoding="utf-8")
    ends: list[str] = []
    try:
        for name, limit in wanted:
            left = 60 * options.minutes - (time.monotonic() - begin) - RESERVE_SECONDS
            seconds = min(60 * limit, left)
            if seconds <= 0:
                ends.append(f"{name}: no time left")
                continue
            print(f"== {name}, at most {seconds:.0f} s", flush=True)
            started = time.monotonic()
            # A sweep keeps its own time; it is stopped from here only if it fails to.
            grace = 10.0 if name in ("speed", "training") else 0.0
            log = options.output / f"{name}.txt"
            words = run(commands(name, options, seconds / 60), log, seconds + grace, lambda: archive(options))
            ends.append(f"{name}: {words}, {time.monotonic() - started:.0f} s")
            archive(options)
    finally:
        target = archive(options)
        print("\n".join(["== done", *ends, f"{target}, {target.stat().st_size / 2**20:.1f} MiB"]), flush=True)
    return 0 if all("exit status 0" in line for line in ends) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
