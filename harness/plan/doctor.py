"""`python -m harness doctor`: what this machine has for measuring, what it lacks, and what to do about it.

Nothing is changed here but the cache of compiled operators, which the first cell would fill too.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import psutil

from harness import __version__
from harness.analysis.estimates.speedup import log_ratios
from harness.data.catalogue import SOURCES
from harness.data.sources import DATA_VARIABLE, cache_folder
from harness.plan.data_places import USABLE, place
from harness.records import cgroup
from harness.records.environment import cpu_name, describe, has_gpu, memory_bytes, processor, usable_cores
from harness.records.schema import Record, SpeedRecord
from harness.run.supervisor import run_cell
from harness.study.cells import cells
from harness.study.schema import SpeedSection, Study, Sweep

State = Literal["ok", "note", "problem"]
NOISE_SECONDS = 10.0
PROC, SYS = Path("/proc"), Path("/sys")
# The least free space that leaves room for records, checkpoints and prepared data.
_DISK_BYTES, _MEMORY_BYTES = 2 << 30, 2 << 30
# Beyond these, differences of a few per cent between models cannot be told in a process or two.
_QUIET_RATIO, _QUIET_SPREAD = 0.02, 0.10
_WIDTH = 100
# Package → the module that is imported of it, and who then runs on it.
_KERNELS = {
    "triton": ("triton.knobs", "HyenaRec's convolutions"),
    "flash-attn": ("flash_attn", "attention in bfloat16"),
    "mamba-ssm": ("mamba_ssm.ops.selective_scan_interface", "Mamba4Rec's scan"),
    "flash-linear-attention": ("fla.ops.hgrn", "the scans of minGRU and HGRN, and linear attention"),
}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        topic: What, in a word or two.
        state: `ok`; `note`: measurements work, with less or slower; `problem`: something asked for often cannot run.
        found: What was found.
        advice: What to do; "" where there is nothing to do.
    """

    topic: str
    state: State
    found: str
    advice: str = ""


def findings(noise_seconds: float) -> Iterator[Finding]:
    """Look at everything, in the order in which people read it.

    Args:
        noise_seconds: How long a model is timed against a copy of itself; 0: not at all.
    """
    machine = describe(None, {})
    torch = machine.packages.get("torch")
    versions = f"Python {machine.python}, harness {__version__}, torch {torch or 'not installed'}"
    yield Finding(topic="machine", state="ok", found=f"{cpu_name(machine, processor())}, {machine.system}; {versions}")
    yield from _system()
    yield _cores(machine.cores)
    yield _load()
    yield from _frequency()
    yield _memory()
    yield from _disk()
    yield _allocator()
    if torch is None:
        advice = "type  pip install -c constraints.txt torch"
        yield Finding(topic="torch", state="problem", found="not installed, so nothing can be measured", advice=advice)
    else:
        yield _compiler()
        yield from _gpu()
    yield from _data()
    if torch is not None and noise_seconds > 0:
        yield noise(noise_seconds)


def _system() -> Iterator[Finding]:
    if not (PROC / "self" / "stat").exists():
        yield Finding(
            topic="/proc",
            state="note",
            found="not there, so peak memory on the CPU, page faults and left processes are not recorded; times are",
            advice="for those, measure on Linux",
        )
    elif not os.access(PROC / "self" / "clear_refs", os.W_OK):
        yield Finding(
            topic="/proc",
            state="note",
            found=f"{PROC}/self/clear_refs cannot be written, so cells of peak memory on the CPU stay empty",
            advice="run outside the sandbox, or leave `memory` out of `measure` in the study",
        )


def _cores(cores: int) -> Finding:
    usable, quota = usable_cores(), cgroup.cores()
    limit = "" if quota is None else f"; a control group grants {quota:g}"
    found = f"{usable} of {cores} usable{limit}"
    if quota is not None and quota != int(quota):
        advice = "a quota of a fraction of a core stops threads now and then; ask for a whole number of cores"
        return Finding(topic="cores", state="note", found=found, advice=advice)
    return Finding(topic="cores", state="ok", found=found)


def _load() -> Finding:
    load, usable = os.getloadavg()[0], usable_cores()
    found = f"{load:.2f} programs wanted a core on average in the last minute"
    if load < 0.5:
        return Finding(topic="load", state="ok", found=found)
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    others = [p for p in psutil.process_iter(["name", "cpu_times"]) if p.pid not in own and p.info["cpu_times"]]
    before = {p.pid: sum(p.info["cpu_times"][:2]) for p in others}
    psutil.cpu_percent(interval=1.0)
    used = [(sum(times[:2]) - before[p.pid], p) for p in others if (times := _cpu_times(p)) is not None]
    busy = [f"{p.info['name']} ({p.pid})" for seconds, p in sorted(used, key=lambda one: -one[0])[:3] if seconds > 0.2]
    advice = f"times measured now are those of {usable} shared cores; wait, or end what else runs"
    return Finding(
        topic="load", state="note", found=f"{found}{'; now: ' if busy else ''}{', '.join(busy)}", advice=advice
    )


def _cpu_times(process: psutil.Process) -> Any | None:
    try:
        return process.cpu_times()
    except psutil.Error:
        return None


def _frequency() -> Iterator[Finding]:
    folder = SYS / "devices" / "system" / "cpu"
    governors = sorted({text for path in folder.glob("cpu*/cpufreq/scaling_governor") if (text := _read(path))})
    if not governors:
        found = "not readable here, as in most virtual machines: the host decides"
        yield Finding(topic="governor", state="ok", found=found)
    elif governors == ["performance"]:
        yield Finding(topic="governor", state="ok", found="performance")
    else:
        yield Finding(
            topic="governor",
            state="note",
            found=f"{', '.join(governors)}: clocks rise and fall with the load",
            advice="type  sudo cpupower frequency-set -g performance",
        )
    # Intel's driver says whether it is off, all others whether it is on.
    off, on = _read(folder / "intel_pstate" / "no_turbo"), _read(folder / "cpufreq" / "boost")
    turbo = on == "1" if off is None else off == "0"
    if off is None and on is None:
        yield Finding(topic="turbo", state="ok", found="not readable here: the host decides")
    elif turbo:
        yield Finding(
            topic="turbo",
            state="note",
            found="on: clocks depend on temperature and on how many cores work; pairs of blocks cancel most of it",
            advice="for the steadiest times type  echo 1 | sudo tee " + str(folder / "intel_pstate" / "no_turbo")
            if off is not None
            else "for the steadiest times type  echo 0 | sudo tee " + str(folder / "cpufreq" / "boost"),
        )
    else:
        yield Finding(topic="turbo", state="ok", found="off")


def _memory() -> Finding:
    usable, limit = memory_bytes(), cgroup.memory_bytes()
    free = min(psutil.virtual_memory().available, usable)
    group = "" if limit is None or limit > usable else " (limit of a control group)"
    found = f"{_gib(free)} free of {_gib(usable)}{group}; a cell counts as out of memory at {_gib(int(0.9 * usable))}"
    if free < _MEMORY_BYTES:
        advice = (
            "end other programs, or set memory_limit_bytes in the study so that a cell ends before the machine swaps"
        )
        return Finding(topic="memory", state="note", found=found, advice=advice)
    return Finding(topic="memory", state="ok", found=found)


def _disk() -> Iterator[Finding]:
    for what, folder in (
        ("records", Path.cwd()),
        ("prepared data", cache_folder()),
        ("temporary", tempfile.gettempdir()),
    ):
        there = Path(folder).absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            found = f"{what}: {there} is a file"
            yield Finding(topic="disk", state="problem", found=found, advice="name a folder: TMPDIR or HYENAREC_CACHE")
            continue
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK)
        found = f"{what}: {_gib(free)} free in {there}"
        if not writable:
            yield Finding(
                topic="disk", state="problem", found=f"{found}, which cannot be written", advice="work elsewhere"
            )
        elif free < _DISK_BYTES:
            advice = "make room, or name another folder: TMPDIR, HYENAREC_CACHE, or the folder you start in"
            yield Finding(topic="disk", state="note", found=found, advice=advice)
        else:
            yield Finding(topic="disk", state="ok", found=found)


def _allocator() -> Finding:
    name, version = platform.libc_ver()
    preloaded = os.environ.get("LD_PRELOAD", "").strip()
    if preloaded:
        found = f"LD_PRELOAD={preloaded}: its allocator need not obey the settings that every cell gets"
        return Finding(topic="allocator", state="note", found=found, advice="type  unset LD_PRELOAD")
    if name != "glibc":
        return Finding(
            topic="allocator",
            state="note",
            found="not glibc: freed memory is not kept between steps, and large temporaries cost page faults",
            advice="measure on a Linux with glibc where differences of a few per cent count",
        )
    return Finding(topic="allocator", state="ok", found=f"glibc {version}: freed memory is kept between timed steps")


def _compiler() -> Finding:
    from models.ops.build import native

    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    built = native.build()
    if built.library is not None:
        return Finding(topic="C++ operators", state="ok", found=f"{built.status} ({compiler})")
    advice = "type  unset HYENAREC_NATIVE" if "HYENAREC_NATIVE" in built.status else ""
    if compiler is None:
        advice = "install g++ (Debian, Ubuntu:  sudo apt install g++), or name one:  CXX=PATH"
    found = f"{built.status}; convolutions and scans run in torch, up to twice as long"
    return Finding(
        topic="C++ operators", state="note", found=found, advice=advice or "the reason above is the compiler's own"
    )


def _gpu() -> Iterator[Finding]:
    import torch

    if not has_gpu():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = (
            f": CUDA_VISIBLE_DEVICES={hidden!r} hides all"
            if hidden is not None and hidden.strip() in ("", "-1")
            else ""
        )
        found = f"none seen{why}; the default study is `cpu`, and studies with `device: cuda` cannot run here"
        yield Finding(topic="GPU", state="ok", found=found)
    elif not torch.cuda.is_available():
        yield Finding(
            topic="GPU",
            state="problem",
            found=f"one is there, but torch {torch.__version__} cannot use it (CUDA: {torch.version.cuda or 'none'})",
            advice="install a torch for the driver's CUDA: pytorch.org, `nvidia-smi` shows the version; or use `cpu`",
        )
    else:
        yield from _board()
    yield from _kernels()


def _board() -> Iterator[Finding]:
    import torch

    from harness.measure.device import nvml

    with nvml.open_library() as library:
        if library is not None:
            library.survey()
        properties = torch.cuda.get_device_properties(0)
        device = (
            None if library is None else library.device(str(properties.uuid), os.environ.get("CUDA_VISIBLE_DEVICES"))
        )
        state = None if device is None else device.state(os.getpid())
    capability = f"compute capability {properties.major}.{properties.minor}"
    size = f"{_gib(properties.total_memory)}, CUDA {torch.version.cuda}"
    if state is None:
        found = f"{properties.name}, {capability}, {size}; its driver cannot be asked"
        advice = (
            "clocks, energy and neighbours will not be recorded; install nvidia-ml-py and make libnvidia-ml visible"
        )
        yield Finding(topic="GPU", state="note", found=found, advice=advice)
        return
    found = f"{state.name}, driver {state.driver or 'unknown'}, {capability}, {size}"
    if state.other_processes:
        advice = "times measured now are shared; wait until it is free (`nvidia-smi` lists who uses it)"
        yield Finding(
            topic="GPU", state="note", found=f"{found}; {state.other_processes} other processes use it", advice=advice
        )
    elif state.throttle_reasons:
        slow = ", ".join(state.throttle_reasons)
        yield Finding(
            topic="GPU", state="note", found=f"{found}; throttled: {slow}", advice="let it cool, then measure"
        )
    else:
        yield Finding(topic="GPU", state="ok", found=found)


def _kernels() -> Iterator[Finding]:
    """Optional kernels, and why one is not used."""
    import torch

    from models.ops.build import accelerated

    gpu = has_gpu() and torch.cuda.is_available()
    for package, (module, who) in _KERNELS.items():
        topic, top = package, module.partition(".")[0]
        there = importlib.util.find_spec(top) is not None
        version = _version(package) if there else None
        name = f"{package} {version}" if version else package
        if not gpu:
            found = f"{name} {'is installed' if there else 'is not installed'}; not used: it is for NVIDIA GPUs"
            yield Finding(topic=topic, state="ok", found=found)
        elif not there:
            advice = {"triton": "pip install '.[kernels]'", "flash-attn": "pip install '.[gpu]'"}
            words = f"type  {advice.get(package, f'pip install {package}')}"
            yield Finding(topic=topic, state="note", found=f"not installed; {who} run in torch", advice=words)
        elif not accelerated.is_usable(module):
            found = f"{name} is installed but cannot be imported; {who} run in torch"
            yield Finding(topic=topic, state="note", found=found, advice="install a build for this torch and CUDA")
        elif package == "triton" and not accelerated.available(torch.device("cuda")):
            off = os.environ.get("HYENAREC_TRITON") == "0"
            least = ".".join(map(str, accelerated.LEAST_CAPABILITY))
            why = "HYENAREC_TRITON=0" if off else f"they need compute capability {least} (H100, H200, B200)"
            words = "type  unset HYENAREC_TRITON" if off else ""
            yield Finding(topic=topic, state="note", found=f"{name}; not used: {why}", advice=words)
        else:
            yield Finding(topic=topic, state="ok", found=f"{name}; used by {who}")


def _data() -> Iterator[Finding]:
    given = os.environ.get(DATA_VARIABLE)
    if given is None:
        found = f"{DATA_VARIABLE} is not set: only data that come with the package, are generated or can be fetched"
        advice = f"to train on others, put their files into a folder and type  export {DATA_VARIABLE}=FOLDER"
        yield Finding(topic="data", state="ok", found=found, advice=advice)
    elif not Path(given).is_dir():
        found = f"{DATA_VARIABLE}={given} is not a folder"
        yield Finding(topic="data", state="problem", found=found, advice=f"type  export {DATA_VARIABLE}=FOLDER")
    else:
        yield Finding(topic="data", state="ok", found=f"{DATA_VARIABLE}={given}")
    far: dict[str, list[str]] = {}
    for name, source in sorted(SOURCES.items()):
        where = place(name, source)
        if where.state in ("to be fetched", "waits for consent"):
            far.setdefault(where.state, []).append(name)
            continue
        found = where.state if where.path is None else f"{where.state}: {where.path}"
        if where.state == "missing":
            found += f"; where to get it, should you train on it: python -m harness data {name}"
        state: State = "ok" if where.state in USABLE else "problem" if where.state == "another file" else "note"
        advice = where.advice if state == "problem" else ""
        yield Finding(topic=f"data {name}", state=state, found=found, advice=advice)
    for what, named in far.items():
        yield Finding(topic="data", state="ok", found=f"{what}, when it is asked for: {', '.join(named)}")


def noise(seconds: float) -> Finding:
    """Time HyenaRec against a copy of itself in a process of its own, as a study's A/A control does.

    Args:
        seconds: How long, without the start of the process.
    """
    section = SpeedSection(
        models=["hyenarec"],
        sweeps={"a-a": Sweep(lengths=[512], tokens=4096, replicates=1)},
        budget_seconds=seconds,
        minimum_seconds=seconds / 4,
        catalogue_items=1000,
    )
    study = Study(name="doctor", speed=section)
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        return judge(run_cell(study, next(cells(study)), Path(folder) / "a-a.json"))


def judge(record: Record) -> Finding:
    """What the record of an A/A control says of the machine."""
    ratios = log_ratios(record) if isinstance(record, SpeedRecord) else np.empty(0)
    if record.status != "ok" or ratios.size == 0:
        found = f"could not be measured: {record.status}: {record.detail or 'no pairs'}"
        return Finding(topic="noise", state="problem", found=found, advice="type  python -m harness check hyenarec")
    middle, spread = float(np.median(ratios)), float(np.quantile(np.abs(ratios), 0.9))
    found = (
        f"HyenaRec against a copy of itself, {ratios.size} pairs of blocks: {np.exp(middle):.3f} times as long, "
        f"nine in ten pairs within {np.expm1(spread):.1%}"
    )
    # What a flag advises is about a record, which is not kept here.
    flags = "".join(f"; {flag.partition(';')[0]}" for flag in record.flags)
    if abs(middle) > _QUIET_RATIO or spread > _QUIET_SPREAD or record.flags:
        advice = "something else uses the machine, or its clock changes: see load, governor and turbo above, and repeat"
        return Finding(topic="noise", state="note", found=found + flags, advice=advice)
    return Finding(topic="noise", state="ok", found=found)


def line(finding: Finding) -> str:
    """A finding for the terminal: a line, more where it is long, and what to do below it."""
    head = f"{finding.state:8}{finding.topic:24}"
    wrapped = textwrap.wrap(
        finding.found, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    )
    if finding.advice:
        indent = " " * (len(head) - 3) + "-> "
        wrapped += textwrap.wrap(
            finding.advice,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=" " * len(head),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(wrapped)


def summary(found: list[Finding]) -> str:
    """The last line: how many of what."""
    problems, notes = (sum(f.state == state for f in found) for state in ("problem", "note"))
    if not problems and not notes:
        return "nothing to do"
    return f"{problems} problem{'' if problems == 1 else 's'}, {notes} note{'' if notes == 1 else 's'}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
