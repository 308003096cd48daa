"""Limits and clocks: memory that ends, two that measure at once, a clock that jumps back."""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scene import SPEED, TRAINING

from harness.records.schema import read

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")]
SMALL = {**SPEED, "sweeps": {"constant-tokens": {"lengths": [4], "tokens": 16, "replicates": 1}}}
SCENE = {"speed": SMALL, "training": TRAINING}
# Behind LD_PRELOAD: the clock of the day is a day late as soon as a file is there.
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t late(void) { return access(getenv("CLOCK_JUMPED"), F_OK) ? 0 : 86400; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec -= late();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (where) *where = found.tv_sec;
    return found.tv_sec;
}
"""


@contextlib.contextmanager
def memory_group(limit):
    """A cgroup with a limit of memory, in bytes; what joins it, and what that starts, shares it."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (first if first.is_dir() else second) / f"hyenarec-faults-{os.getpid()}"
    try:
        group.mkdir()
        name = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
        (group / name).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        yield group
    finally:
        ends = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < ends:
            time.sleep(0.1)
        group.rmdir()


def test_a_cgroup_with_too_little_memory(scene, ledger, share, seed):
    """What is killed before a model was there is no model's: it is tried again where there is memory."""
    draw = random.Random(seed)
    for _ in range(share(0.02)):
        # Less than torch alone takes, or more than such a cell does: between, a model that does not fit is a result.
        own, limit = scene(), draw.choice([draw.randrange(90, 200), draw.randrange(500, 900)]) << 20
        with memory_group(limit) as group, ledger.fault("memory limit by cgroup"):
            join = lambda g=group: (g / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
            code, said = own.run("sweep", "tiny.yaml", before=join)
            if code == 0:
                own.check_whole({})
                continue
            assert code < 0 or "error" in said or "failed" in said, said[-3000:]
            before = own.check_between({})
            statuses = {json.loads(content)["status"] for content in before.values()}
            assert statuses <= {"ok"}, (limit, [json.loads(c)["detail"] for c in before.values()])
        own.rerun()
        own.check_whole(before)
        own.remove()


def test_ulimit_with_too_little_memory(scene, ledger, share, seed):
    draw = random.Random(seed)
    for _ in range(share(0.03)):
        own, most = scene(), draw.randrange(100, 2500) << 20
        with ledger.fault("memory limit by ulimit -v"):
            bound = lambda m=most: resource.setrlimit(resource.RLIMIT_AS, (m, m))  # noqa: E731
            code, said = own.run("sweep", "tiny.yaml", before=bound)
            assert code == 0 or said, code
            before = own.check_between({})
            assert {json.loads(content)["status"] for content in before.values()} <= {"ok"}
            own.rerun()
            own.check_whole(before)
        own.remove()


def test_two_sweeps_in_one_folder(scene, ledger, share, seed):
    """The second measures nothing and says why; no cell is measured twice."""
    draw = random.Random(seed)
    for _ in range(share(0.02)):
        own = scene()
        with ledger.fault("two sweeps in one folder"):
            first = own.start("sweep", "tiny.yaml")
            time.sleep(3 * draw.random())
            ends = [own.end(process) for process in (own.start("sweep", "tiny.yaml"), first)]
            refused = [said for code, said in ends if code == 64]
            assert sorted(code for code, _ in ends) in ([0, 64], [0, 0]), ends
            assert all("another sweep or workflow measures into" in said for said in refused)
            counts = [said for code, said in ends if code == 0]
            assert sum("3 measured" in said for said in counts) == 1, ends
            own.rerun()
            own.check_whole(own.records())
        own.remove()


def test_two_workflows_in_one_folder(scene, ledger, share, seed):
    """One of them goes on, the other says that it does; a sweep beside a workflow is refused too."""
    draw = random.Random(seed)
    for _ in range(share(0.01)):
        own = scene(training=None).with_workflow()
        with ledger.fault("two workflows in one folder"):
            first = own.start("make")
            time.sleep(2 * draw.random())
            ends = [own.end(process) for process in (own.start("make"), first)]
            assert 0 in [code for code, _ in ends], ends
            assert all(code == 0 or said.count("\n") == 1 for code, said in ends), ends
            own.rerun("make")
            own.check_whole(own.records())
        own.remove()


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    """A library that sets the clock back."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for a clock that jumps")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "clock.so"), str(folder / "clock.c"), "-ldl"], check=True
    )
    return folder / "clock.so"


@pytest.mark.parametrize("words", [("sweep", "tiny.yaml"), ("make",)], ids=["sweep", "workflow"])
def test_a_clock_that_jumps_back_a_day(scene, ledger, share, seed, clock, words):
    """Times are read off another clock, and files of tomorrow make nothing be measured again."""
    draw = random.Random(seed)
    for _ in range(share(0.01)):
        own = scene().with_workflow()
        environment = {"LD_PRELOAD": str(clock), "CLOCK_JUMPED": str(own.folder / "jumped")}
        with ledger.fault("the clock jumps back a day"):
            process = own.start(*words, environment=environment)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10 * draw.random())
            (own.folder / "jumped").touch()
            code, said = own.end(process)
            assert code == 0, said[-3000:]
            assert "Traceback" not in said
            own.check_whole({})
            for path in own.results.rglob("*-*.json"):
                assert 0 < read(path).provenance.elapsed_seconds < 400
        with ledger.fault("files of tomorrow"):
            tomorrow = time.time() + 86400
            for path in [*own.results.rglob("*"), *(own.folder / "cache").rglob("*")]:
                os.utime(path, (tomorrow, tomorrow))
            before = own.records()
            own.rerun(*words)
            assert own.records() == before
            own.check_whole(before)
        own.remove()
