"""A sweep at several places: what a user may name, and what happens where a place ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from harness.errors import UserError
from harness.records import schema
from harness.records.environment import ROOT
from harness.run import sweep as sweep_module
from harness.run.beside import lanes
from harness.run.beside.places import Place, places
from harness.run.sweep import sweep
from harness.study.schema import Study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sets of cores are Linux's")
TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "speed": {
        "models": ["hyenarec"],
        "budget_seconds": 0.2,
        "minimum_seconds": 0.02,
        "minimum_steps": 2,
        "sweeps": {"constant-tokens": {"lengths": [16, 32], "tokens": 64, "replicates": 2}},
    },
    "claims": ["linear-time"],
}
STUDY = msgspec.convert(TINY, Study)
GPU = msgspec.convert({**TINY, "device": "cuda"}, Study)
CORES = sorted(os.sched_getaffinity(0))
two_cores = pytest.mark.skipif(len(CORES) < 2, reason="one core has no neighbour")


@pytest.fixture
def machine(monkeypatch):
    """Sixteen cores and four GPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path(f"/dev/nvidia{number}") for number in (0, 1, 10, 2)]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("study", "gpus", "sets", "expected"),
    [
        (STUDY, None, [], []),
        (STUDY, None, ["0-2", "8,10-11"], [Place(None, (0, 1, 2)), Place(None, (8, 10, 11))]),
        (GPU, "all", [], [Place(name) for name in ("0", "1", "2", "3")]),
        (GPU, "2,0", ["0-7", "8-15"], [Place("2", tuple(range(8))), Place("0", tuple(range(8, 16)))]),
    ],
)
def test_what_is_named_is_where_it_measures(machine, study, gpus, sets, expected):
    assert places(study, gpus, sets) == expected


def test_without_a_gpu_all_of_them_are_none(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match="no GPU is visible here"):
        places(GPU, "all", ["0-3"])


def test_gpus_are_counted_among_those_that_may_be_used(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    (place,) = places(GPU, "1", [])
    assert place.environment == {"CUDA_VISIBLE_DEVICES": "GPU-b"}


@pytest.mark.parametrize(
    ("study", "gpus", "sets", "words"),
    [
        (STUDY, "all", [], "measures on the CPU here"),
        (GPU, "4", [], "no GPU '4'; legal: all, or numbers from 0 to 3"),
        (GPU, "-1", [], "no GPU '-1'"),
        (GPU, "1,1", [], "names a GPU twice"),
        (GPU, "0,1", ["0-3"], "names 2 GPUs and --cpu-sets 1 sets"),
        (STUDY, None, ["0-3", "3-5"], "core 3 is in two sets"),
        (STUDY, None, ["0-"], "'0-' is not a set of cores; legal: such as 0-3"),
        (STUDY, None, ["3-0"], "holds no core; write the lower number first"),
        (STUDY, None, ["14-17"], "core 16 of '14-17' may not be used here"),
        (msgspec.structs.replace(STUDY, threads=4), None, ["0-2"], "has 3 core.s., and a cell .* has 4 threads"),
    ],
)
def test_what_is_not_there_is_refused(machine, study, gpus, sets, words):
    with pytest.raises(UserError, match=words):
        places(study, gpus, sets)


@two_cores
def test_two_sets_of_cores_measure_every_cell_once_each_on_its_own(tmp_path):
    done = sweep(STUDY, tmp_path, places=places(STUDY, None, [str(core) for core in CORES[:2]]))
    assert (len(done.measured), done.failed, done.left) == (4, [], [])
    found = [schema.read(tmp_path / task.path) for task in done.measured]
    assert {record.provenance.beside for record in found} == {1}
    assert {record.environment.cores_usable for record in found} == {1}
    assert {record.environment.threads for record in found} == {1}
    again = sweep(STUDY, tmp_path, places=[Place(None, (CORES[0],))])
    assert again.measured == []


@pytest.fixture
def stand_in(monkeypatch):
    """Has a place's process be a few lines of Python; `line` is its errand's path, `say` answers, `fail` writes why."""

    def put(code):
        begin = (
            "import json, os, sys, time\n"
            "def say(kind, text='', path=None):\n"
            "    print(json.dumps({'kind': kind, 'path': path or line, 'text': text}), flush=True)\n"
            "def errands():\n"
            "    sys.stdin.readline()\n"
            "    for one in sys.stdin: yield json.loads(one)['path']\n"
        )
        monkeypatch.setattr(lanes, "command", lambda _: [sys.executable, "-c", begin + code])

    return put


def test_a_place_that_dies_in_a_cell_fails_it_and_the_others_go_on(stand_in, tmp_path):
    # The first process that is given a cell dies of it; all others say that there was no time for theirs.
    stand_in(
        "for line in errands():\n"
        "    say('begun')\n"
        f"    try: os.mkdir({str(tmp_path / 'died')!r})\n"
        "    except FileExistsError: say('left')\n"
        "    else: os.kill(os.getpid(), 9)\n"
    )
    done = sweep(STUDY, tmp_path / "out", places=[Place(), Place()])
    assert (len(done.measured), len(done.failed), len(done.left)) == (0, 1, 3)
    assert done.errors()[0].endswith("has no result; the process that measured it died")


def test_a_cell_that_was_not_begun_is_measured_elsewhere(stand_in, tmp_path, capsys):
    stand_in(
        "for line in errands():\n"
        f"    try: os.mkdir({str(tmp_path / 'died')!r})\n"
        "    except FileExistsError: say('begun'), say('left')\n"
        "    else: os.kill(os.getpid(), 9)\n"
    )
    done = sweep(STUDY, tmp_path / "out", places=[Place(), Place()])
    assert (len(done.measured), len(done.failed), len(done.left)) == (0, 0, 4)


@pytest.mark.parametrize("answer", ["print('no answer at all', flush=True)", "sys.stdout.buffer.write(b'\\xff\\n')"])
def test_a_place_that_never_starts_is_given_up(stand_in, tmp_path, capsys, answer):
    stand_in(f"for line in errands():\n    {answer}\n    sys.stdout.flush(); time.sleep(600)\n")
    done = sweep(STUDY, tmp_path, places=[Place(None, (0,))])
    assert (len(done.measured), len(done.failed), len(done.left)) == (0, 0, 4)
    assert "warning: cores 0: 3 cells failed one after the other, so it gets no more" in capsys.readouterr().err


def test_a_mistake_of_the_user_ends_all_places(stand_in, tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()
    # One waits for ever, the other has what only a person can correct.
    stand_in(
        f"open({str(pids)!r} + '/' + str(os.getpid()), 'w').close()\n"
        "for line in errands():\n"
        f"    while len(os.listdir({str(pids)!r})) < 2: time.sleep(0.01)\n"
        f"    if str(os.getpid()) == min(os.listdir({str(pids)!r}), key=int): time.sleep(600)\n"
        "    say('refused', 'the disk is full')\n"
    )
    with pytest.raises(UserError, match="the disk is full"):
        sweep(STUDY, tmp_path / "out", places=[Place(), Place()])
    assert len([*pids.iterdir()]) == 2
    assert not any(Path(f"/proc/{path.name}").exists() for path in pids.iterdir())


def test_what_a_place_says_is_shown_of_its_own_cell_alone(stand_in, tmp_path, capsys):
    stand_in(
        "for line in errands():\n"
        "    say('begun'), say('note', 'warning: of note'), say('said', 'warning: of said')\n"
        "    say('said', 'warning: too late', path='speed/another'), say('left', path='speed/another'), say('left')\n"
    )
    done = sweep(STUDY, tmp_path, places=[Place()])
    assert len(done.left) == 4
    shown = capsys.readouterr().err
    assert "warning: of note\n" in shown
    assert "warning: of said  [hyenarec, " in shown
    assert "too late" not in shown


MANY = msgspec.convert(
    {**TINY, "speed": {**TINY["speed"], "sweeps": {"constant-tokens": {"lengths": [*range(8, 28)], "tokens": 64}}}},
    Study,
)


def test_places_where_nothing_works_end(stand_in, tmp_path):
    stand_in("for line in errands():\n    say('begun'); os._exit(1)\n")
    done = sweep(MANY, tmp_path, places=[Place(), Place()])
    assert done.hopeless
    assert len(done.failed) <= 6
    assert len(done.failed) + len(done.left) == 60


def test_one_broken_place_leaves_the_cells_to_the_others(stand_in, tmp_path, capsys, monkeypatch):
    class Done:
        status, flags, timing, memory, detail = "oom", (), None, None, ""

    monkeypatch.setattr(sweep_module, "_result", lambda *_: Done)
    monkeypatch.setattr(sweep_module.Display, "ended", lambda *_: None)
    # Each says by its cores which it is: the first dies at once, the second works, slowly at first.
    stand_in(
        "order = json.loads(sys.stdin.readline())\n"
        "for one in sys.stdin:\n"
        "    line = json.loads(one)['path']\n"
        "    say('begun')\n"
        "    if order['cores'] == [0]: os._exit(1)\n"
        "    time.sleep(0.02)\n"
        "    say('ended')\n"
    )
    done = sweep(MANY, tmp_path, places=[Place(None, (0,)), Place(None, (1,))])
    assert not done.left
    assert 3 <= len(done.failed) <= 20
    assert len(done.measured) + len(done.failed) == 60
    assert "warning: cores 0: " in capsys.readouterr().err


@two_cores
def test_an_interrupted_sweep_leaves_no_place_running(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_bytes(msgspec.yaml.encode(TINY))
    command = [sys.executable, "-m", "harness", "sweep", str(path), "--results", str(tmp_path / "out"), "--cpu-sets"]
    at_work, patience = [], time.monotonic() + 60
    with subprocess.Popen([*command, *map(str, CORES[:2])], cwd=ROOT, stderr=subprocess.PIPE, text=True) as run:
        while len(at_work) < 2 and time.monotonic() < patience:
            at_work = [pid for pid in children(run.pid) if b"beside.worker" in command_of(pid)]
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted; finished records are kept" in said
    assert len(at_work) == 2
    # One that was still starting ends when it finds nothing to read.
    patience = time.monotonic() + 20
    while any(b"beside.worker" in command_of(pid) for pid in at_work):
        assert time.monotonic() < patience
        time.sleep(0.05)


def children(parent):
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
