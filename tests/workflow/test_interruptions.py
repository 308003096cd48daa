"""A workflow that is killed, paused or interrupted: what it keeps, what it leaves running, and how it goes on."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_workflow import ANALYSIS, ONE_CELL, TINY, find, make, records, start, write
from test_workflow import project as project  # The fixture.

from harness.records.environment import ROOT


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize(
    "victim", ["harness.run.child", pytest.param("--die-with-parent", marks=pytest.mark.slow), "snakemake"]
)
def test_kill_9_loses_nothing_leaves_no_orphan_and_the_next_run_finishes(project, victim):
    # A process that is itself killed is found while it imports torch. One that is to end with its parent must not end
    # by itself before; where the other cell is measured after it, that takes as long.
    if victim != "harness.run.child":
        minimum, budget = (60.0, 300.0) if victim == "snakemake" else (6.0, 30.0)
        write(project, {**TINY, "speed": {**TINY["speed"], "minimum_seconds": minimum, "budget_seconds": budget}})
    process = start(project, start_new_session=True)
    child = wait_for(lambda: find(project, "harness.run.child"))[0]
    targets = [p for p in find(project, victim) if Path(p.cmdline()[0]).name != "bash"]
    # Snakemake's own process, not the wrapper that started it.
    target = targets[0] if victim != "snakemake" else next(p for p in targets if "run.py" not in " ".join(p.cmdline()))
    os.kill(target.pid, signal.SIGKILL)
    if victim != "harness.run.child":
        wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    if victim == "snakemake":
        process.communicate(timeout=60)
        assert not find(project, "harness.run.child")
    else:
        # The workflow itself goes on with the other cell and reports the failed one.
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0, output
    if victim == "harness.run.child":
        (line,) = [line for line in output.splitlines() if line.startswith("failed: ")]
        assert "killed by SIGKILL" in line
        assert Path(project / line.rpartition("why: ")[2]).is_file()
        assert "1 of 2 cells have no result" in output
        assert len([p for p in records(project) if not p.name.endswith(".failed.json")]) == 1
    assert not list((project / "results").rglob("*.part"))
    write(project, TINY)
    code, output = make(project, ANALYSIS)
    assert code == 0, output
    assert len([p for p in records(project) if not p.name.endswith(".failed.json")]) >= 2
    assert (project / ANALYSIS).exists()


def pause(folder):
    command = [sys.executable, "workflow/run.py", "--pause"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_paused_training_ends_in_order_and_goes_on_from_its_last_epoch(project):
    training = {"models": ["gru4rec"], "datasets": ["synthetic"], "lengths": [8], "references": ["popularity"]}
    long = {"epochs": 12, "patience": 12, "evaluate_every": 12, "timed": False}
    write(project, {k: v for k, v in TINY.items() if k != "speed"} | {"training": {**training, **long}})
    assert "no workflow runs" in pause(project)
    process = start(project, start_new_session=True)
    logs = project / "logs" / "tiny" / "training" / "gru4rec"
    wait_for(lambda: any("epoch 2/12" in path.read_text() for path in logs.glob("*.log")), 120)
    assert "paused" in pause(project)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "interrupted: 1 of 2 cells are kept in results/tiny, and the last epoch of 1 unfinished training" in output
    assert "Traceback" not in output
    assert not find(project, "harness")
    assert not list((project / "results").rglob("*.part"))
    code, output = make(project, ANALYSIS)
    assert code == 0, output
    (record,) = (project / "results" / "tiny" / "training" / "gru4rec").glob("*.json")
    content = json.loads(record.read_text())
    assert (content["resumed"], len(content["epochs"])) == (1, 12)


@pytest.mark.parametrize("replicates", [pytest.param(1, marks=pytest.mark.slow), 6], ids=["snakemake", "forked"])
def test_ctrl_c_says_what_is_kept_and_the_next_run_goes_on(project, replicates):
    sweep = {**TINY["speed"]["sweeps"]["constant-tokens"], "replicates": replicates}
    slow = {**TINY["speed"], "minimum_seconds": 6.0, "budget_seconds": 30.0, "sweeps": {"constant-tokens": sweep}}
    write(project, {**TINY, "speed": slow})
    process = start(project, start_new_session=True)
    word = "harness.run.child" if replicates == 1 else "fork_server"
    wait_for(lambda: find(project, word))
    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 130, output
    assert f"interrupted: 0 of {2 * replicates} cells are kept in results/tiny" in output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    wait_for(lambda: not find(project, "harness"))
    write(project, ONE_CELL)
    code, output = make(project, ANALYSIS)
    assert code == 0, output


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ([sys.executable, "workflow/run.py", "reports/scaling.pdf"], True),
        (["python", "-u", "workflow/run.py"], True),
        ([sys.executable, "-m", "snakemake", "--cores", "2"], True),
        (["/venv/bin/python", "/venv/bin/snakemake"], True),
        (["snakemake", "--cores", "2"], True),
        (["vim", "workflow/run.py"], False),
        (["tail", "-f", "run.py"], False),
        ([sys.executable, "-m", "pytest", "snakemake"], False),
        ([sys.executable, "other.py", "run.py"], False),
        ([], False),
    ],
)
def test_a_program_that_only_names_the_workflow_is_none(command, runs):
    """`make pause` ends what it finds."""
    found = runpy.run_path(str(ROOT / "workflow" / "run.py"))["runs_workflow"](command)
    assert found is runs
