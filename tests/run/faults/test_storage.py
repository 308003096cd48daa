"""Storage that fails: full, read-only, gone, or with other bytes in it than were written."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from scene import SPEED, TRAINING, Scene, mounted

from harness import cli
from harness.records.schema import read

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="mounts and limits of Linux")]
# Small tmpfs file systems are mounted, which only root may.
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
SMALL = {**SPEED, "sweeps": {"constant-tokens": {"lengths": [4], "tokens": 16, "replicates": 1}}}
SCENE = {"speed": SMALL, "training": TRAINING}
DOCUMENT = ["report", "results/tiny", "--output", "out/scaling.pdf"]
ANALYSIS = ["analyse", "results/tiny", "--output", "out/analysis.json"]
# What each place holds, and the command that writes there.
WRITTEN = {
    "record": ("results", ["sweep", "tiny.yaml", "--kind", "speed"]),
    "checkpoint": ("results", ["sweep", "tiny.yaml", "--kind", "training"]),
    "arrays": ("cache", ["sweep", "tiny.yaml", "--kind", "training"]),
    "log": ("logs", ["sweep", "tiny.yaml"]),
    "result of a child": ("tmp", ["sweep", "tiny.yaml"]),
    "analysis": ("out", ANALYSIS),
    "PDF": ("out", DOCUMENT),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A study that is measured, with its analysis and documents."""
    own = Scene(tmp_path_factory.mktemp("measured") / "scene", speed=SPEED, training=TRAINING)
    own.rerun()
    for words in (ANALYSIS, DOCUMENT):
        own.rerun(*words)
    own.check_whole({})
    yield own
    own.remove()


def copy_of(request, tmp_path, name):
    """The measured study in a folder of its own."""
    measured = request.getfixturevalue("measured")
    own = Scene(tmp_path / name, speed=SPEED, training=TRAINING)
    for part in ("results", "cache", "out"):
        shutil.copytree(measured.folder / part, own.folder / part)
    return own


def check_refusal(code, said):
    """One clear line; a cell that failed says why, with where it stands."""
    assert code not in (0, 70), said[-3000:]
    assert "this is a fault of the harness" not in said, said[-3000:]
    assert re.search("error|failed", said), said[-3000:]


@ROOT_ONLY
@pytest.mark.parametrize("what", WRITTEN)
def test_a_disk_that_is_full(scene, request, tmp_path, ledger, share, seed, what):
    place, words = WRITTEN[what]
    draw = random.Random(seed)
    for number in range(share(0.02)):
        own = copy_of(request, tmp_path, f"full-{number}") if place == "out" else scene()
        shutil.rmtree(own.folder / place, ignore_errors=True)
        kibibytes = 4 * draw.randrange(1, 4 if what != "checkpoint" else 80)
        small = mounted(own.folder / place, "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs")
        with small as folder, ledger.fault(f"disk full: {what}"):
            code, said = own.run(*words)
            # A log that cannot be kept costs no measurement, and all of it may have found room.
            if code != 0:
                check_refusal(code, said)
                assert "No space left" in said or "could not be" in said or what in ("PDF", "log"), said[-3000:]
            before = own.check_between({}) if place != "out" else {}
            assert not list(folder.rglob("*.part"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            own.rerun(*words)
            if place == "out":
                assert all(path.stat().st_size for path in folder.iterdir())
            else:
                own.rerun()
                own.check_whole(before)
        own.remove()


@pytest.mark.parametrize("what", ["record", "analysis", "PDF"])
def test_files_that_may_not_grow(scene, request, tmp_path, ledger, share, seed, what):
    """`ulimit -f`: a write ends in the middle, for users who may not mount too."""
    place, words = WRITTEN[what]
    draw = random.Random(seed)
    for number in range(share(0.02)):
        own = copy_of(request, tmp_path, f"limit-{number}") if place == "out" else scene(training=None)
        most = draw.randrange(1, 3000)
        with ledger.fault(f"file size limit: {what}"):
            code, said = own.run(*words, before=lambda m=most: resource.setrlimit(resource.RLIMIT_FSIZE, (m, m)))
            check_refusal(code, said)
            before = own.check_between({}) if place != "out" else {}
            own.rerun(*words)
            if place != "out":
                own.check_whole(before)
        own.remove()


@ROOT_ONLY
@pytest.mark.parametrize("place", ["results", "cache", "logs", "tmp", "out"])
def test_a_folder_that_is_read_only(scene, request, tmp_path, ledger, place):
    own = copy_of(request, tmp_path, "locked") if place == "out" else scene()
    words = DOCUMENT if place == "out" else ["sweep", "tiny.yaml"]
    shutil.rmtree(own.folder / place, ignore_errors=True)
    with mounted(own.folder / place, "-t", "tmpfs", "-o", "ro", "tmpfs") as folder, ledger.fault(f"read-only: {place}"):
        code, said = own.run(*words)
        if place in ("logs", "tmp"):
            # Logs are not needed, and Python finds another folder for what is temporary.
            assert code == 0 or "error" in said, said[-3000:]
        else:
            check_refusal(code, said)
            assert "Read-only file system" in said, said[-3000:]
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        own.rerun(*words)
        if place != "out":
            own.check_whole({})


@ROOT_ONLY
@pytest.mark.parametrize("place", ["data", "cache", "results"])
def test_what_is_unmounted(scene, ledger, place):
    """Between two commands, and while one runs."""
    own = scene()
    real = own.folder / f"real-{place}"
    real.mkdir()
    target = own.folder / place
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        shutil.move(path, real)
    with ledger.fault(f"unmounted: {place}", 2):
        with mounted(target, "--bind", str(real)):
            process = own.start("sweep", "tiny.yaml")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(6)
            subprocess.run(["umount", "-l", str(target)], check=True)
            code, said = own.end(process)
            assert code == 0 or "error" in said or "failed" in said, said[-3000:]
            assert own.gone() == []
        # Another folder is there now, or none: what was measured is not seen, and is not touched.
        code, said = own.run("sweep", "tiny.yaml")
        if place == "data" and code != 0:
            check_refusal(code, said)
            assert "is missing" in said
        shutil.rmtree(own.folder / "results") if place == "results" else None
        with mounted(target, "--bind", str(real)):
            own.rerun(attempts=2)
            own.check_whole({})


def damage(path, draw):
    """Change a file's bytes in one of the ways that a disk or a person does; which."""
    content = path.read_bytes()
    way = draw.choice(["truncated", "flipped", "replaced", "emptied", "zeroed", "removed", "a folder instead"])
    if way == "truncated":
        path.write_bytes(content[: draw.randrange(len(content) or 1)])
    elif way == "flipped":
        changed = bytearray(content or b"x")
        for _ in range(draw.randrange(1, 8)):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
    elif way == "replaced":
        others = [other for other in sorted(path.parent.iterdir()) if other.is_file()]
        path.write_bytes(draw.choice(others).read_bytes())
    elif way in ("emptied", "zeroed"):
        path.write_bytes(b"" if way == "emptied" else bytes(len(content)))
    else:
        path.unlink()
        if way == "a folder instead":
            path.mkdir()
    return way


def in_process(capfd, *words):
    """A command in this process, where starting it costs nothing."""
    try:
        code = cli.main(list(words))
    except SystemExit as stop:
        code = stop.code
    out, err = capfd.readouterr()
    return code, out, err


def test_files_that_change_between_commands(request, tmp_path, ledger, share, seed, monkeypatch, capfd):
    """Every reader says what is wrong in one line; what it says to do leads back to a whole folder."""
    draw = random.Random(seed)
    for number in range(share(0.06)):
        own = copy_of(request, tmp_path, f"damaged-{number}")
        monkeypatch.chdir(own.folder)
        for name in ("HYENAREC_CACHE", "HYENAREC_DATA"):
            monkeypatch.setenv(name, own.environment[name])
        every = sorted(p for part in ("results", "cache", "out") for p in (own.folder / part).rglob("*") if p.is_file())
        every = [path for path in every if path.suffix not in (".lock", ".html", ".pdf")]
        with contextlib.ExitStack() as stack:
            for path in draw.sample(every, min(len(every), 5)):
                if path.is_file():
                    stack.enter_context(ledger.fault(f"files {damage(path, draw)}"))
            for words in (
                ["verify", "results/tiny"],
                ["verify", "results/tiny", "--json"],
                ["cells", "tiny.yaml"],
                ["report", "out/analysis.json", "--output", "again.pdf"],
            ):
                code, _, err = in_process(capfd, *words)
                assert "Traceback" not in err, (words, err[-3000:])
                assert code in (0, 1, 2, 64), (words, err)
                assert code != 64 or err.strip().splitlines()[-1].startswith("error: "), (words, err)
            follow(own)
            # A digit that another digit took the place of is a number like any other: no reader can tell.
            kept = own.records()
            own.rerun()
            own.check_whole({})
            assert {path: own.records()[path] for path in kept} == kept
        own.remove()


def follow(own):
    """What the messages say to do: delete what is refused."""
    own.run("sweep", "tiny.yaml")
    for _ in range(8):
        _, said = own.run("verify", "results/tiny")
        lines = [line for line in said.splitlines() if line.startswith("warning: ") and "delete" in line]
        lines += [line for line in said.splitlines() if line.startswith("error: ") and "study.json" in line]
        if not lines:
            break
        for line in lines:
            path = own.folder / line.split(": ")[1]
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        own.run("sweep", "tiny.yaml")


def losses(own):
    (path,) = (own.results / "training" / "gru4rec").glob("*.json")
    record = read(path)
    return [epoch.loss for epoch in record.epochs], record.test


def test_a_training_goes_on_from_a_damaged_checkpoint_with_the_same_numbers(scene, measured, ledger, share, seed):
    draw, right = random.Random(seed), losses(measured)
    for _ in range(share(0.05)):
        own = scene(speed=None)
        process = own.start("sweep", "tiny.yaml")
        while process.poll() is None and not list(own.results.rglob("*.checkpoint")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        own.end(process)
        assert own.gone() == []
        found = list(own.results.rglob("*.checkpoint"))
        with contextlib.ExitStack() as stack:
            stack.enter_context(ledger.fault("SIGKILL to the sweep, between two epochs"))
            for path in found:
                stack.enter_context(ledger.fault(f"checkpoint {damage(path, draw)}"))
            code, said = own.run("sweep", "tiny.yaml")
            if code != 0:
                # Another run's, or no file at all: it says what to delete.
                check_refusal(code, said + json.dumps([p.read_text() for p in own.results.rglob("*.failed.json")]))
                for path in found:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                own.rerun()
            own.check_whole({})
            assert losses(own) == right
        own.remove()
