"""Building the C++ operators, and doing without."""

import hashlib
import os
import re
import shutil
import subprocess
import sys

import pytest

from models.ops.build import native
from models.ops.legendre.geometry import CHUNK

SCRIPT = """
import torch
from models.ops.build import native
from models.ops.convolution.causal import causal_convolution, describe_backend
from models.ops.legendre.taps import LegendreKernel
kernel = LegendreKernel(torch.ones(2, 3), 200)
y = causal_convolution(torch.ones(2, 1, 200), kernel, backend="tree")
print(native.status(), "|", describe_backend("tree", 200, y.device, kernel), "|", bool(y.isfinite().all()))
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A compiler that does not optimise: what is tested is the building, not the speed."""
    return compiler(tmp_path_factory.mktemp("compiler") / "quick")


def compiler(path, first=""):
    path.write_bytes(b"#!/bin/sh\n" + os.fsencode(first) + b'exec c++ "$@" -O0\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, quick):
    """A folder with a whole build in its cache, to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, CXX=quick)
    return folder


def run(tmp_path, **variables):
    """What the script prints, and on the terminal a note where torch did it, and only there."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=True)
    status, backend, finite = (part.strip() for part in done.stdout.split("|"))
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: C++ operators are off")]
    assert len(notes) == (backend == "tree (torch)")
    assert all(status in line and "twice the time" in line for line in notes)
    return [status, backend, finite]


def kept(tmp_path):
    (found,) = (tmp_path / "cache" / "hyenarec-bench").iterdir()
    return found


@pytest.mark.skipif(native.build().library is None, reason=native.status())
def test_builds_once_and_is_kept(tmp_path):
    """As users build it, optimised."""
    status, backend, finite = run(tmp_path)
    assert status.startswith("built with")
    assert (backend, finite) == ("tree (native)", "True")
    time = kept(tmp_path).stat().st_mtime_ns
    assert run(tmp_path)[1] == "tree (native)"
    assert kept(tmp_path).stat().st_mtime_ns == time


DAMAGES = {
    "cut short": lambda content: content[: len(content) // 3],
    "empty": lambda content: b"",
    "garbled": lambda content: content[:4096] + bytes(len(content) - 4096),
}


@pytest.mark.skipif(native.build().library is None, reason=native.status())
@pytest.mark.parametrize("damage", [*DAMAGES, "no library"])
def test_a_broken_build_is_built_anew_once(tmp_path, damage, quick, whole):
    shutil.copytree(whole / "cache", tmp_path / "cache")
    path = kept(tmp_path)
    if damage == "no library":
        # As its name says, but nothing that can be loaded.
        content = b"text"
        path = path.rename(path.with_stem(f"{path.stem[:-16]}{hashlib.sha256(content).hexdigest()[:16]}"))
    else:
        content = DAMAGES[damage](path.read_bytes())
    path.write_bytes(content)
    assert run(tmp_path, CXX=quick)[1:] == ["tree (native)", "True"]
    assert kept(tmp_path).read_bytes() != content
    if damage == "no library":
        time = kept(tmp_path).stat().st_mtime_ns
        assert run(tmp_path, CXX=quick)[1] == "tree (native)"
        assert kept(tmp_path).stat().st_mtime_ns == time


@pytest.mark.skipif(native.build().library is None, reason=native.status())
def test_a_broken_build_without_a_compiler_that_works(tmp_path):
    broken = f'[ -e {tmp_path}/broken ] && [ "$1" != --version ] && exit 1\n'
    found = compiler(tmp_path / "compiler", broken)
    assert run(tmp_path, CXX=found)[1] == "tree (native)"
    kept(tmp_path).write_bytes(b"")
    (tmp_path / "broken").touch()
    assert run(tmp_path, CXX=found) == ["off: compiler failed: 1", "tree (torch)", "True"]


@pytest.mark.skipif(native.build().library is None, reason=native.status())
def test_a_compiler_that_does_not_write_utf_8(tmp_path):
    odd = '[ "$1" = --version ] && printf "\\377\\376 12.2\\n" && exit 0\n'
    found = compiler(tmp_path / "compiler", odd)
    assert run(tmp_path, CXX=found, LC_ALL="C.UTF-8")[1:] == ["tree (native)", "True"]


def test_can_be_turned_off(tmp_path):
    assert run(tmp_path, HYENAREC_NATIVE="0") == ["off: HYENAREC_NATIVE=0", "tree (torch)", "True"]


def test_without_a_compiler(tmp_path):
    status, backend, finite = run(tmp_path, CXX="no-such-compiler", PATH=str(tmp_path))
    assert status == "off: no C++ compiler found"
    assert (backend, finite) == ("tree (torch)", "True")


def test_with_a_compiler_that_fails(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no such target >&2\nexit 1\n')
    broken.chmod(0o755)
    status, backend, finite = run(tmp_path, CXX=str(broken))
    assert status == "off: broken failed: no such target"
    assert (backend, finite) == ("tree (torch)", "True")


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    status, backend, finite = run(tmp_path)
    assert status.startswith("off: ")
    assert (backend, finite) == ("tree (torch)", "True")


def test_the_tree_in_cpp_cuts_rows_into_the_same_chunks():
    (source,) = (path for path in native.SOURCES if path.parent.name == "legendre")
    assert re.search(r"kChunk = (\d+)", source.read_text())[1] == str(CHUNK)


def test_an_operator_that_was_not_built_says_why(monkeypatch):
    monkeypatch.setattr(native, "build", lambda: native.Build(None, "off: no C++ compiler found"))
    with pytest.raises(RuntimeError, match="tree_forward cannot run natively: off: no C"):
        native.function("tree_forward")
