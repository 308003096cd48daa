"""Signals at random moments: no record is lost, half-written or wrong, nothing keeps running, the rerun finishes."""

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from scene import SPEED, TRAINING, moments

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="ends orphans on Linux only"),
]
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
# A sweep of this length has a child to hit at most moments.
MANY = {**SPEED, "sweeps": {"constant-tokens": {"lengths": [2, 4, 6, 8, 10, 12], "tokens": 120, "replicates": 1}}}
FEW = {**SPEED, "sweeps": {"constant-tokens": {"lengths": [2, 4, 8], "tokens": 16, "replicates": 1}}}


def hit(scene, kind, number, seconds=5.0):
    """Send a signal to one process of a kind, waiting for one to appear; whether there was one."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for process in scene.victims(kind):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                return True
        time.sleep(0.05)
    return False


def name(kind, number, how=""):
    return f"{signal.Signals(number).name} to {kind}{how}"


@pytest.mark.parametrize("kind", ["child", "server"])
def test_to_what_measures(scene, ledger, share, seed, kind):
    """The sweep goes on with the other cells, says what became of each, and the next sweep measures it."""
    wanted, waits, sent = share(0.4 if kind == "child" else 0.15), moments(seed, 2.0 if kind == "child" else 8.0), 0
    numbers = itertools.cycle(SIGNALS)
    while sent < wanted:
        own, ends = scene(speed=MANY, training=TRAINING), []
        process = own.start("sweep", "tiny.yaml")
        while process.poll() is None and sent < wanted:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(next(waits))
            number = next(numbers)
            if process.poll() is None and hit(own, kind, number):
                ends.append(number)
                sent += 1
        with contextlib.ExitStack() as stack:
            for number in ends:
                stack.enter_context(ledger.fault(name(kind, number)))
            code, said = own.end(process)
            # What a child says when it is interrupted is a traceback, of which its last line may be shown.
            assert "fault of the harness" not in said, said[-3000:]
            failed = list(own.results.rglob("*.failed.json"))
            # Each cell without a result is named, and the exit code says that there is one.
            assert code == (1 if failed else 0) or "fork" in said, said[-3000:]
            assert all(path.name.split(".")[0] in said for path in failed), said[-3000:]
            before = own.check_between({})
            own.rerun(attempts=2)
            own.check_whole(before)
            assert own.temporary() == []
        own.remove()


@pytest.mark.parametrize("kind", ["sweep", "group"])
def test_to_the_sweep(scene, ledger, share, seed, kind):
    """Each sweep is itself the rerun after the signal before it; the last one is left to finish."""
    wanted, sent, took = share(0.25 if kind == "sweep" else 0.1), 0, 12.0
    numbers, draw = itertools.cycle(SIGNALS), random.Random(seed)
    while sent < wanted:
        own, before = scene(speed=FEW, training=TRAINING), {}
        with contextlib.ExitStack() as stack:
            for _ in range(5):
                begin, number = time.monotonic(), next(numbers)
                process = own.start("sweep", "tiny.yaml")
                at_a_write = draw.random() < 0.5
                wait_for_a_write(own, process, draw.randrange(1, 6)) if at_a_write else None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0 if at_a_write else took * draw.random())
                if process.poll() is not None:
                    own.end(process)
                    break
                if kind == "group":
                    os.killpg(process.pid, number)
                else:
                    process.send_signal(number)
                sent += 1
                stack.enter_context(ledger.fault(name("the sweep" if kind == "sweep" else "the whole group", number)))
                code, said = own.end(process)
                took = 0.7 * took + 0.3 * 1.5 * (time.monotonic() - begin)
                check_end(own, number, code, said)
                own.temporary(remove=True)
                before = own.check_between(before)
            own.rerun(attempts=2)
            own.check_whole(before)
        own.remove()


def wait_for_a_write(own, process, count, seconds=60.0):
    """Until so many files were written more, or are being written."""
    ends, known = time.monotonic() + seconds, files(own)
    while time.monotonic() < ends and len(files(own) - known) < count and process.poll() is None:
        time.sleep(0.004)


def files(own):
    return {entry for place in (own.results, own.folder / "cache") for entry in place.rglob("*")}


def check_end(own, number, code, said):
    """A command that can speak says what is kept and how to go on, and leaves nothing; one that is killed cannot."""
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        return
    # A finished command may be on its way out, and one that has not begun has nothing to say.
    if code == 0 or (code == -number and not said):
        return
    # Python itself ends as by the signal where it came while a class was being made.
    assert code in (128 + number, -number), (code, said[-2000:])
    assert re.search("finished records are kept|are kept in results/tiny|nothing was begun", said), said[-2000:]
    assert "Traceback" not in said, said[-3000:]
    assert own.gone() == []
    assert own.temporary() == []


def test_in_the_background_ctrl_c_is_ignored_and_term_ends_it(scene, ledger, share, seed):
    """A shell makes what it starts with `&` deaf to SIGINT: it then reaches no cell either."""
    draw = random.Random(seed)
    for _ in range(share(0.03)):
        own = scene(speed=FEW, training=TRAINING)
        process = own.start("sweep", "tiny.yaml", deaf=True)
        with ledger.fault(name("a background group", signal.SIGINT), 2):
            for _ in range(2):
                time.sleep(8 * draw.random())
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
            code, said = own.end(process)
            assert code == 0, said[-3000:]
            assert "0 failed" in said
            own.check_whole({})
        own.remove()


@pytest.mark.parametrize("kind", ["snakemake", "job", "script"])
def test_to_the_workflow(scene, ledger, share, seed, kind):
    """Snakemake, one of its jobs, or the script around it; the next `make report` finishes."""
    wanted, sent, draw, numbers = share(0.04), 0, random.Random(seed), itertools.cycle(SIGNALS)
    while sent < wanted:
        own, before = scene(training=TRAINING).with_workflow(), {}
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                if sent == wanted:
                    break
                number, process = next(numbers), own.start("make")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(25 * draw.random())
                if process.poll() is None and hit(own, kind, number, 60.0):
                    sent += 1
                    stack.enter_context(ledger.fault(name(f"the workflow's {kind}", number)))
                code, said = own.end(process)
                assert "Traceback" not in said, said[-3000:]
                assert code != 0 or (own.folder / "reports" / "scaling.pdf").is_file()
                # Snakemake measures again what it was killed over, before it had noted that the record is there.
                before = own.check_between(before, again=1)
            own.rerun("make", attempts=2)
            own.check_whole(before, again=1)
            assert (own.folder / "reports" / "scaling.pdf").read_bytes().startswith(b"%PDF")
        own.remove()
