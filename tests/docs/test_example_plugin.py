"""A model from outside: installed as a package, checked, and put into a study by one word."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

EXAMPLE = Path(__file__).parent / "example_plugin"

STUDY = {
    "name": "mine",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "data": {"walks": {"format": "sequences", "file": "walks.txt"}},
    "data_folder": ".",
    "speed": {
        "models": ["gru4rec"],
        "budget_seconds": 0.5,
        "minimum_seconds": 0.05,
        "minimum_steps": 2,
        "catalogue_items": 100,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 64, "replicates": 1}},
    },
    "training": {
        "models": ["gru4rec"],
        "datasets": ["walks"],
        "lengths": [16],
        "references": ["popularity"],
        "epochs": 1,
        "batch_size": 32,
        "loss": "sampled-softmax",
        "negatives": 16,
    },
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder outside the repository with the example installed beside it, and a small data set."""
    folder = tmp_path_factory.mktemp("outside")
    # A copy, so that building leaves nothing in the repository.
    shutil.copytree(EXAMPLE, folder / "fossil", ignore=shutil.ignore_patterns("__pycache__"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(folder / "installed"), str(folder / "fossil")], check=True)
    random = np.random.default_rng(0)
    lines = [f"u{u} {' '.join(map(str, random.integers(0, 40, size=random.integers(4, 20))))}" for u in range(60)]
    (folder / "walks.txt").write_text("\n".join(lines))
    return folder


def harness(folder, *arguments):
    # The study's own data folder, not one that the developer has named.
    inherited = {name: value for name, value in os.environ.items() if name != "HYENAREC_DATA"}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(folder / "installed"), "HYENAREC_CACHE": str(folder / "cache")},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def records(folder):
    found = (folder / "results" / "mine").rglob("*.json")
    return {p: p.stat().st_mtime_ns for p in found if p.parent.parent.name in {"speed", "training"}}


def test_one_file_is_short():
    assert len((EXAMPLE / "fossil.py").read_text().splitlines()) <= 60


def test_it_is_listed(workplace):
    rows = {row["name"]: row for row in json.loads(harness(workplace, "models", "--json").stdout)}
    assert rows["fossil"]["from"] == "fossil-baseline"
    assert rows["fossil"]["parameters"] > 0
    assert rows["gru4rec"]["from"] == "built in"


def test_it_keeps_the_contract(workplace):
    done = harness(workplace, "check", "fossil")
    assert done.returncode == 0, done.stdout


def test_one_word_puts_it_into_the_report_and_only_its_cells_run(workplace):
    study = workplace / "mine.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    swept = harness(workplace, "sweep", "mine.yaml")
    assert "3 measured, 0 failed" in swept.stdout, swept.stdout + swept.stderr
    before = records(workplace)

    for section in ("speed", "training"):
        STUDY[section]["models"].append("fossil")
    study.write_text(yaml.safe_dump(STUDY))
    swept = harness(workplace, "sweep", "mine.yaml")
    assert "2 measured, 0 failed" in swept.stdout, swept.stdout + swept.stderr
    after = records(workplace)
    assert before.items() <= after.items()
    assert {p.parent.name for p in after.keys() - before.keys()} == {"fossil"}

    done = harness(workplace, "report", "results/mine", "--output", "mine.pdf")
    assert done.returncode == 0, done.stderr
    assert (workplace / "mine.pdf").read_bytes().startswith(b"%PDF")
    assert harness(workplace, "analyse", "results/mine", "--output", "mine.json").returncode == 0
    analysis = json.loads((workplace / "mine.json").read_text())
    for table in ("models", "times", "speedups", "accuracy", "records"):
        assert "fossil" in {row["label"] for row in analysis[table]}, table
    # Its source is part of its records' digests, so whether they are stale can be told.
    assert all(row["stale"] is not None for row in analysis["records"] if row["label"] == "fossil")
