"""A real Slurm on this machine: studies through its executor; jobs are cancelled, drained, too large, too long."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import slurm_cluster
import yaml
from checkout import ROOT, lay_out

pytestmark = pytest.mark.slurm

# The machine may be busy with other tests.
PATIENCE_SECONDS = 600.0
SLURM = (
    *("--workflow-profile", "workflow/profiles/slurm", "--slurm-no-account", "--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"),
)
# Of a job that trains: enough, but for the first attempt at one cell.
MEMORY = "training:mem_mb=400 if attempt == 1 and wildcards.label == 'markov' else 4000"


def cut_down():
    """The default study, of one length and two models."""
    study = yaml.safe_load((ROOT / "workflow" / "studies" / "cpu.yaml").read_text())
    study.update(name="cut", operator=False, threads=1)
    sweep = {"tokens": 64, "lengths": [16], "replicates": 1}
    study["speed"].update(
        models=["hyenarec", "sasrec-sdpa"], budget_seconds=0.2, minimum_seconds=0.02, sweeps={"constant-tokens": sweep}
    )
    study["training"].update(
        models=["hyenarec"], lengths=[8], seeds=[0], epochs=1, evaluate_every=1, references=["popularity"], timed=False
    )
    return study


def faults():
    """Three cells that something happens to from outside, and two that break a limit of the study."""
    return {
        "name": "faults",
        "device": "cpu",
        "threads": 1,
        "timing_partner": "gru4rec",
        "claims": [],
        # Layers of 16,384 channels do not fit in this.
        "memory_limit_bytes": 1_500_000_000,
        "variants": {"wide": {"model": "gru4rec", "hidden_size": 16_384}},
        "speed": {
            "models": ["gru4rec"],
            # Shorter than the start of Python.
            "timeout_seconds": 0.3,
            "sweeps": {"constant-tokens": {"tokens": 64, "lengths": [16], "replicates": 1}},
        },
        "training": {
            "models": ["wide"],
            "datasets": ["synthetic"],
            "lengths": [8],
            "references": ["popularity", "markov", "decayed-markov"],
            "timed": False,
        },
    }


@pytest.fixture(scope="module")
def cluster():
    """The folder of a Slurm of one node, or a skip; where HYENAREC_REQUIRE_SLURM is set, as in CI, a failure."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
    if reason := slurm_cluster.lacking():
        if os.environ.get("HYENAREC_REQUIRE_SLURM"):
            pytest.fail(reason)
        pytest.skip(reason)
    # Not pytest's folder, which is closed to other users: munged refuses to work there.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        slurm_cluster.start(folder)
        try:
            yield folder
        finally:
            slurm_cluster.stop(folder)


@dataclass
class Run:
    """A workflow in a folder of its own."""

    folder: Path
    process: subprocess.Popen

    @property
    def records(self):
        found = (path for path in self.folder.glob("results/*/*/*/*.json"))
        return {f"{path.parts[-3]}/{path.parts[-2]}/{path.name}": json.loads(path.read_text()) for path in found}

    def status(self, label):
        (found,) = [record["status"] for key, record in self.records.items() if key.split("/")[1] == label]
        return found

    def end(self):
        assert self.process.wait(PATIENCE_SECONDS) == 0, (self.folder / "output").read_text()


@dataclass
class Job:
    """A job of Slurm, as its queue has it: the label of its cell, megabytes and minutes that it asked for."""

    number: str
    state: str
    memory: str
    time: str
    comment: str


@pytest.fixture(scope="module")
def runs(cluster, tmp_path_factory):
    """The cut study by Slurm and by this machine alone, and the faults by Slurm, all at a time."""
    started = {}

    def start(name, study, arguments):
        folder = lay_out(tmp_path_factory.mktemp(name) / "project")
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        command = [sys.executable, "-m", "snakemake", f"results/{study['name']}/analysis.json", *arguments]
        environment = {**os.environ, **slurm_cluster.environment(cluster), "PYTHONPATH": str(ROOT)}
        with (folder / "output").open("w") as output:
            started[name] = Run(
                folder,
                subprocess.Popen(
                    [*command, "--config", "study=study.yaml"],
                    cwd=folder,
                    env=environment,
                    stdout=output,
                    stderr=output,
                ),
            )
        return started[name]

    yield start
    for run in started.values():
        run.process.kill()


def jobs(cluster):
    """All jobs so far, in order, by the label of their cell or `speed`."""
    lines = slurm_cluster.call(cluster, "squeue", "--states=all", "--noheader", "--format=%i|%T|%m|%l|%k")
    found = defaultdict(list)
    for line in sorted(lines.splitlines(), key=lambda line: int(line.partition("|")[0])):
        job = Job(*line.split("|", 4))
        words = job.comment.split("_")
        found[words[4] if "wildcards" in words else "speed"].append(job)
    return found


def wait_for(condition, run):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        assert run.process.poll() is None, (run.folder / "output").read_text()
        time.sleep(0.1)
    raise AssertionError((run.folder / "output").read_text())


def stopped_child(run, label):
    """Stop the process that measures a cell, which then lasts until something happens to it; False: it does not run."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:3] != ["-m", "harness"] or not any(word.startswith(f"{label}/") for word in command):
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cwd() == str(run.folder) and (children := process.children()):
                assert process.environ()["HYENAREC_ATTEMPT"] == "1"
                children[0].suspend()
                return True
    return False


def verdicts(run, name):
    analysis = json.loads((run.folder / "results" / name / "analysis.json").read_text())
    return {(claim["id"], claim["overall"]["verdict"]) for claim in analysis["claims"]}


def fields(value):
    """Names of all fields, nested; of a list those of its first item, of words none: only a noisy cell has flags."""
    if isinstance(value, dict):
        return {key: fields(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [fields(inner) for inner in value[:1] if not isinstance(inner, str)]
    return type(value).__name__


def test_a_study_comes_back_as_from_one_machine_whatever_happens_to_its_jobs(cluster, runs):
    begin = time.monotonic()
    broken = runs("faults", faults(), [*SLURM, "--set-resources", MEMORY])
    cut = runs("cut", cut_down(), SLURM)
    alone = runs("alone", cut_down(), ["--workflow-profile", "workflow/profiles/local", "--cores", "1"])

    # Two cells are caught while they are measured: one is cancelled, the time of the other is over.
    ends = {"popularity": ["scancel", "{}"], "decayed-markov": ["scontrol", "update", "JobId={}", "EndTime=now"]}
    while ends:
        label = wait_for(lambda: next((label for label in ends if stopped_child(broken, label)), None), broken)
        (number,) = (job.number for job in jobs(cluster)[label] if "_faults_" in job.comment)
        slurm_cluster.call(cluster, *(word.format(number) for word in ends.pop(label)))

    # A node that is drained ends what it runs, and what waits goes on waiting until it is back.
    node = f"NodeName={slurm_cluster.NODE}"
    slurm_cluster.call(cluster, "scontrol", "update", node, "State=drain", "Reason=test")
    running = {job.number for found in jobs(cluster).values() for job in found if job.state == "RUNNING"}
    wait_for(lambda: any(job.state == "PENDING" for found in jobs(cluster).values() for job in found), broken)
    wait_for(lambda: slurm_cluster.call(cluster, "sinfo", "--noheader", "--format=%T") == "drained", broken)
    slurm_cluster.call(cluster, "scontrol", "update", node, "State=resume")
    assert running

    for run in (alone, cut, broken):
        run.end()
    found = jobs(cluster)

    # Killed from outside: tried again, the time or memory of the first attempt being too little.
    assert [job.state for job in found["decayed-markov"]] == ["TIMEOUT", "COMPLETED"]
    first, second = (job.state for job in found["markov"])
    assert first in ("FAILED", "OUT_OF_MEMORY")
    assert second == "COMPLETED"
    assert [job.memory for job in found["markov"]] == ["400M", "4000M"]
    assert {label: broken.status(label) for label in ("popularity", "markov", "decayed-markov")} == {
        "popularity": "ok",
        "markov": "ok",
        "decayed-markov": "ok",
    }
    # Over a limit of the study: a result, at the first attempt.
    assert broken.status("wide") == "oom"
    assert broken.status("gru4rec") == "timeout"
    assert [job.state for job in found["wide"]] == ["COMPLETED"]
    assert len(broken.records) == 5
    # The same label in both studies: cancelled and again in one, once in the other.
    assert sorted(job.state for job in found["popularity"]) == ["CANCELLED", "COMPLETED", "COMPLETED"]

    assert set(cut.records) == set(alone.records)
    assert len(cut.records) == 4
    assert {record["status"] for record in cut.records.values()} == {"ok"}
    assert {key: fields(record) for key, record in cut.records.items()} == {
        key: fields(record) for key, record in alone.records.items()
    }
    assert verdicts(cut, "cut") == verdicts(alone, "cut")
    # Two speed cells are one job.
    assert [job.state for job in found["speed"]] == ["COMPLETED", "COMPLETED"]
    for run in (cut, broken):
        assert not [*run.folder.rglob("results/**/*.part"), *run.folder.rglob("results/**/*.failed.json")]
    print(f"through Slurm in {time.monotonic() - begin:.0f} s")
