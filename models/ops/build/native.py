"""Operators written in C++: built by the machine's own compiler when first wanted, never required.

A build takes some seconds, once for a source, compiler and processor; the library is kept in
`$XDG_CACHE_HOME/hyenarec-bench` (default ~/.cache), with the checksum of its content in its name: to
load a library that was cut short ends the process. Without a compiler, with one that fails, or
with HYENAREC_NATIVE=0, the same operators run in torch; the terminal says so once and why, and
records name it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.ops.build import optional

SOURCES = tuple(
    Path(__file__).parent.parent / name
    for name in ("legendre/native.cpp", "scans/native.cpp", "convolution/short.cpp", "dropout/native.cpp")
)
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
_BUILD_SECONDS = 120
_suspended = False


@dataclass(frozen=True)
class Build:
    """What came of building the operators: a library, or the reason why there is none."""

    library: ctypes.CDLL | None
    status: str


@functools.cache
def build() -> Build:
    """Load the operators, compiling them first where no earlier build is kept whole; say so where neither works."""
    found = _build()
    if found.library is None:
        optional.note(
            f"C++ operators are {found.status}. Long convolutions and scans run in torch instead: models with them may "
            "take twice the time, and their records name it. Needed are a C++ compiler (g++, or its name in CXX), a "
            "cache that can be written (XDG_CACHE_HOME), and no HYENAREC_NATIVE=0"
        )
    return found


def _build() -> Build:
    if os.environ.get("HYENAREC_NATIVE", "1") == "0":
        return Build(None, "off: HYENAREC_NATIVE=0")
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        return Build(None, "off: no C++ compiler found")
    try:
        cache, key = _place(compiler)
        # One that is kept broken is built anew, once.
        return Build(_kept(cache, key) or _load(_compile(compiler, cache, key)), f"built with {Path(compiler).name}")
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        return Build(None, f"off: {Path(compiler).name} failed: {lines[-1] if lines else error.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return Build(None, f"off: {error}")


def library() -> ctypes.CDLL | None:
    """The operators to call, or None where torch must do."""
    return None if _suspended else build().library


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Do without native operators for a while: what counts torch's operations sees nothing of them."""
    global _suspended
    before, _suspended = _suspended, True
    try:
        yield
    finally:
        _suspended = before


def function(name: str) -> Any:
    """An operator by its name in C++.

    Raises:
        RuntimeError: It could not be built; ask `library` first.
    """
    found = build().library
    if found is None:
        raise RuntimeError(f"{name} cannot run natively: {status()}; ask `library` first")
    return getattr(found, name)


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers begin; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pointers(tensors: Sequence[Tensor]) -> object:
    """An array of pointers."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def integers(*numbers: int) -> list[ctypes.c_int64]:
    """Sizes as C++ takes them; the number of threads to use comes last."""
    return [ctypes.c_int64(number) for number in (*numbers, torch.get_num_threads())]


def status() -> str:
    """Whether the operators run natively in this process, and if not, why."""
    return build().status


def _place(compiler: str) -> tuple[Path, str]:
    """The folder of kept builds, and what this one's name begins with."""
    source = b"".join(path.read_bytes() for path in SOURCES)
    version = _run(compiler, "--version")
    # -march=native: a home folder may be shared by unlike processors.
    key = "\n".join((version, " ".join((*_FLAGS, *_openmp())), _processor())).encode() + source
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyenarec-bench"
    return cache, f"operators-{hashlib.sha256(key).hexdigest()[:16]}"


def _kept(cache: Path, key: str) -> ctypes.CDLL | None:
    """An earlier build that is as it was written and loads; any other is deleted."""
    for path in sorted(cache.glob(f"{key}-*.so")):
        try:
            if path.stem.endswith(_checksum(path)):
                return _load(path)
            why = "is not what the compiler wrote"
        except OSError as error:
            why = f"cannot be loaded ({optional.reason(error)})"
        optional.note(f"{path} {why}; it is built anew")
        path.unlink(missing_ok=True)
    return None


def _compile(compiler: str, cache: Path, key: str) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / "built.so"
        # By number: two sources have one name.
        units = [Path(folder) / f"{place}.o" for place in range(len(SOURCES))]
        for unit, compiled in zip(SOURCES, units, strict=True):
            _run(compiler, *_FLAGS, "-c", str(unit), "-o", str(compiled))
        _run(compiler, "-shared", *map(str, units), "-o", str(built), *_openmp())
        return built.replace(cache / f"{key}-{_checksum(built)}.so")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _run(*command: str) -> str:
    """What a command prints; a compiler need not write UTF-8."""
    seconds = _BUILD_SECONDS
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=seconds)
    return done.stdout


def _torch_openmp() -> Path | None:
    """Torch's own OpenMP runtime, where its wheel brings one."""
    folder = Path(torch.__file__).parent
    found = sorted(folder.glob("lib/libgomp*.so*")) + sorted(folder.parent.glob("torch.libs/libgomp*.so*"))
    return found[0] if found else None


def _openmp() -> tuple[str, ...]:
    # A second runtime would have threads of its own, spinning against torch's between operators.
    # Left undefined, its symbols are found in torch's.
    return () if _torch_openmp() else ("-fopenmp",)


def _load(path: Path) -> ctypes.CDLL:
    runtime = _torch_openmp()
    if runtime is not None:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
