"""Without torch: what reads records works, what measures says in one line what is missing."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = "results/reference/tuning-beauty"
WITHOUT_TORCH = """
import sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, WithoutTorch())
import contextlib, io, json
from harness import cli

for name, arguments in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(arguments)
    print(json.dumps([name, code, out.getvalue(), err.getvalue()]))
"""
READS = {
    "verify": {0, 1, 2},
    "accuracy": {0},
    "compare": {0},
    "cells": {0},
    "data": {0},
    "report": {0},
}
MEASURES = ("sweep", "check", "models", "plan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("light")


@pytest.fixture(scope="module")
def done(folder):
    """Command → exit code, stdout and stderr; all are typed in one process, which is started once."""
    results = ["--results", str(folder / "results")]
    commands = {
        "verify": ["verify", RECORDS],
        "accuracy": ["accuracy", RECORDS],
        "compare": ["compare", RECORDS, RECORDS],
        "cells": ["cells", "quick"],
        "data": ["data", "ml-latest-small"],
        "report": ["report", RECORDS, "--output", str(folder / "a.pdf")],
        "sweep": ["sweep", "quick", *results],
        "check": ["check", "sasrec"],
        "models": ["models"],
        "plan": ["plan", "quick", *results],
    }
    assert commands.keys() == {*READS, *MEASURES}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, input=json.dumps(commands), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return {name: said for name, *said in map(json.loads, run.stdout.splitlines())}


def test_torch_comes_with_an_extra_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(line.startswith("torch") for line in project["dependencies"])
    assert any(line.startswith("torch") for line in project["optional-dependencies"]["measure"])


@pytest.mark.parametrize("command", READS)
def test_what_reads_works(done, command):
    code, _, err = done[command]
    assert code in READS[command], err
    assert "torch, which is not installed" not in err


def test_reports_are_made(done, folder):
    assert done["report"][0] == 0
    assert (folder / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "a.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("command", MEASURES)
def test_what_measures_says_what_to_install(done, folder, command):
    code, out, err = done[command]
    assert code == 64, out + err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert "pip install 'hyenarec-bench[measure]'" in line
    assert not (folder / "results").exists()
