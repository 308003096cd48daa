"""The wait for a core, from files as the kernel writes them, and beside programs that take all cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from harness.measure.neighbours import Neighbours


def _thread(tasks: Path, name: str, text: str) -> None:
    (tasks / name).mkdir(exist_ok=True)
    (tasks / name / "schedstat").write_text(text)


@pytest.mark.parametrize(("waited", "flagged"), [(0, None), (40, None), (100, "10%"), (900, "50%")])
def test_the_share_is_of_what_threads_wanted(tmp_path: Path, waited: int, flagged: str | None) -> None:
    _thread(tmp_path, "1", "1000 5000 7\n")
    neighbours = Neighbours(tmp_path)
    _thread(tmp_path, "1", f"1500 {5000 + waited // 2} 9\n")
    # One that began meanwhile, and one that cannot be read.
    _thread(tmp_path, "2", f"400 {waited - waited // 2} 1\n")
    _thread(tmp_path, "3", "")
    flags = neighbours.flags()
    assert (flagged is None) == (not flags)
    assert flagged is None or f"waited {flagged} of the time" in flags[0]


def test_nothing_is_known_without_the_files(tmp_path: Path) -> None:
    assert Neighbours(tmp_path / "none").flags() == []


def _spin() -> None:
    while True:
        pass


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="this kernel does not count how long threads wait"
)
def test_beside_busy_programs_it_is_flagged() -> None:
    """Two per core leave a third of each to this one."""
    others = [multiprocessing.get_context("fork").Process(target=_spin) for _ in range(2 * (os.cpu_count() or 1))]
    for other in others:
        other.start()
    try:
        neighbours, end = Neighbours(), time.monotonic() + 1
        while time.monotonic() < end:
            pass
        assert "neighbours" in neighbours.flags()[0]
    finally:
        for other in others:
            other.kill()
            other.join()
