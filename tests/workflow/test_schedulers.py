"""What runs at a time on one machine, and what Slurm is asked for. No scheduler runs, and no cell is measured."""

import itertools
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from checkout import ROOT, lay_out

# Stands for `python -m harness` in rules, for which the folder that they run in comes first: notes when, and leaves any
# output.
HARNESS = """
import sys, time
from pathlib import Path
begin = time.monotonic()
time.sleep(0.05)
output = Path(sys.argv[sys.argv.index("--output") + 1])
output.write_text("{}")
with open("times", "a") as file:
    file.write(f"{begin} {time.monotonic()} {output.parts[2]}\\n")
"""
# Stands for `sbatch`: notes what it was asked, and refuses.
SBATCH = """#!/bin/sh
printf '%s\\n' "$*" >> "$ASKED"
echo refused >&2
exit 1
"""
STUDY = {
    "name": "many",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "speed": {
        "models": ["gru4rec"],
        "sweeps": {"constant-tokens": {"lengths": [4, 8, 16, 32], "tokens": 64, "replicates": 2}},
    },
    "training": {
        "models": ["gru4rec"],
        "datasets": ["synthetic"],
        "lengths": [8, 16, 32],
        "references": ["popularity"],
    },
}


@pytest.fixture
def project(tmp_path):
    folder = lay_out(tmp_path / "project")

    def snakemake(*arguments, study=STUDY, **environment):
        (folder / "many.yaml").write_text(yaml.safe_dump(study))
        command = [sys.executable, "-m", "snakemake", "results/many/analysis.json", *arguments]
        return subprocess.run(
            [*command, "--config", "study=many.yaml"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    snakemake.folder = folder
    return snakemake


def test_a_dozen_timed_jobs_never_overlap_whatever_cores_are_named(project):
    (project.folder / "harness").mkdir()
    # All but `python -m harness` itself is the real one's.
    (project.folder / "harness" / "__init__.py").write_text(f"__path__.append({str(ROOT / 'harness')!r})\n")
    (project.folder / "harness" / "__main__.py").write_text(HARNESS)
    done = project("--cores", "8")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in (project.folder / "times").read_text().splitlines()]
    times = sorted((float(begin), float(end)) for begin, end, kind in lines if kind in ("speed", "training"))
    assert len(times) == 12
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))


def requests(project, tmp_path, *arguments, study):
    """What Slurm is asked for, by rule and attempt; and what Snakemake says."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "sbatch").write_text(SBATCH)
    (programs / "sbatch").chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    asked = tmp_path / "asked"
    done = project(
        *("--workflow-profile", "workflow/profiles/slurm", "--slurm-no-account", "--default-resources"),
        *("slurm_partition=main", "--slurm-init-seconds-before-status-checks", "1", *arguments),
        study=study,
        PATH=path,
        ASKED=str(asked),
    )
    found = {}
    for line in asked.read_text().splitlines() if asked.exists() else ():
        rule = re.search(r"--comment rule_([a-z]+)", line)[1]
        attempt = int(re.search(r"--attempt (\d+)", line)[1])
        found.setdefault((rule, attempt), set()).add(line.partition(" --wrap")[0].partition(" -p main ")[2])
    return found, done.stdout + done.stderr


def words(found, rule, attempt):
    """Options of the one request of a rule, without the folder."""
    (line,) = found[rule, attempt]
    options = shlex.split(line)
    del options[options.index("-D") :]
    return options


@pytest.mark.slurm
def test_a_timed_cell_asks_for_a_node_and_ten_speed_cells_are_one_job(project, tmp_path):
    training = {**STUDY["training"], "lengths": [8], "timed": False, "timeout_seconds": 600}
    study = {**STUDY, "threads": 2, "memory_limit_bytes": 4 << 30, "training": training}
    found, output = requests(project, tmp_path, "--retries", "1", study=study)
    # Eight cells, one after the other: as wide as one of them, as long as all. Not 1,024 cores, and no GPU.
    speed = words(found, "speed", 1)
    assert "--exclusive" in speed, output
    assert "--cpus-per-task=2" in speed
    assert not [word for word in speed if "gpu" in word]
    minutes, memory = (int(speed[speed.index(option) + 1]) for option in ("-t", "--mem"))
    assert minutes >= 8 * 10
    assert memory <= 6144
    # In a second attempt all the time that the harness would give, so that its own limit comes first.
    again = words(found, "speed", 2)
    assert int(again[again.index("-t") + 1]) == 8 * 20
    for line in found["training", 1]:
        assert "--exclusive" not in line
        assert "--cpus-per-task=2" in line
    assert set(found) == {(rule, attempt) for rule in ("speed", "training") for attempt in (1, 2)}


@pytest.mark.slurm
def test_a_timed_cell_on_a_gpu_asks_for_one_and_for_all_cores_where_the_study_names_none(project, tmp_path):
    study = {**STUDY, "device": "cuda", "threads": None}
    found, output = requests(project, tmp_path, "--retries", "0", study=study)
    for rule in ("speed", "training"):
        for line in found[rule, 1]:
            assert "--exclusive" in line, output
            assert "--gpus=1" in line
            assert "cpus-per-task" not in line


@pytest.mark.slurm
def test_a_study_whose_device_depends_on_the_machine_is_refused(project, tmp_path):
    found, output = requests(project, tmp_path, "--retries", "0", study={**STUDY, "device": "auto"})
    assert not found
    assert "write `device: cpu` or `device: cuda` for a cluster" in output
