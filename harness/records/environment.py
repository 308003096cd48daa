"""Machine, software and git state of a cell. Imports no torch."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from harness.records import cgroup
from harness.records.schema import Environment

PACKAGES = ("torch", "triton", "flash-attn", "mamba-ssm", "flash-linear-attention", "numpy", "scipy", "pandas")
ROOT = Path(__file__).resolve().parents[2]
# The first that a processor has, by its flag: what kernels may use, and what parts generations of one model number.
_VECTORS = {
    "amx_tile": "AVX-512 and AMX",
    "avx512_bf16": "AVX-512 with BF16",
    "avx512_vnni": "AVX-512 with VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
# How the system tells a processor: x86, then ARM, which names no model.
_GENERATION = {"cpu family": "family", "model": "model", "CPU implementer": "implementer", "CPU part": "part"}


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is visible, told without loading a driver or torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in {"", "-1"}:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))


def usable_cores() -> int:
    """Cores this process may run on: its affinity, or its group's quota where that is lower.

    A quota is rounded down: one thread more than it pays for would be stopped again and again.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cores()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def memory_bytes() -> int:
    """Physical memory, or the limit of a group around this process where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = cgroup.memory_bytes()
    return total if limit is None else min(total, limit)


def describe(threads: int | None, allocator: dict[str, str]) -> Environment:
    """The machine and the installed software."""
    return Environment(
        cpu=_cpu_name(),
        cores=os.cpu_count() or 1,
        cores_usable=usable_cores(),
        memory_bytes=memory_bytes(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages=_versions(PACKAGES),
        threads=threads,
        allocator=allocator,
        libc=" ".join(platform.libc_ver()).strip() or None,
    )


def processor() -> str | None:
    """Generation and vector instructions of the processor, such as `family 25, model 1, AVX2`; None if not told."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        return None
    words = [f"{word} {fields[key]}" for key, word in _GENERATION.items() if fields.get(key)]
    flags = fields.get("flags", "").split()
    words += [width for flag, width in _VECTORS.items() if flag in flags][:1]
    return ", ".join(words) or None


def cpu_name(environment: Environment, processor: str | None) -> str:
    """A processor's name as the system gives it, with what `processor` adds."""
    return environment.cpu if processor is None else f"{environment.cpu} ({processor})"


def git_state() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout this package lies in.

    Outside one, such as in a copy of its files on another machine: the commit that HYENAREC_COMMIT names, and
    whether the files are still that commit's is not known. The source digest of a record tells in any case.
    """
    told = os.environ.get("HYENAREC_COMMIT") or None, None
    try:
        # Installed inside some other repository, its commit would say nothing.
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return told
        commit = _git("rev-parse", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return told
    return commit, dirty


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True)
    return os.fsdecode(done.stdout).strip()


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
