"""What the harness adds to a cell, told by the committed records: at most 5 s beside what it measures.

`tests/benchmarks/overhead.py` measures the same on the machine at hand.
"""

import importlib.util
from pathlib import Path

import pytest

from harness.records.schema import SpeedRecord, TrainingRecord, read

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "results" / "reference").glob("cpu-*/*/*/*.json"))


def script():
    path = ROOT / "tests" / "benchmarks" / "overhead.py"
    spec = importlib.util.spec_from_file_location("overhead", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def records():
    return [read(path) for path in PATHS]


def test_a_timed_cell_spends_at_most_five_seconds_beside_what_it_measures(records):
    overhead = script()
    timed = [r for r in records if isinstance(r, SpeedRecord) and r.timing is not None]
    assert len(timed) > 100
    stages = [overhead.explained(record) for record in timed]
    assert max(s["other"] for s in stages) < overhead.CELL_ALLOWED_SECONDS
    # Nothing is explained twice either.
    assert min(s["other"] for s in stages) > 0


def test_a_training_cell_does_too(records):
    trained = [r for r in records if isinstance(r, TrainingRecord)]
    assert trained
    for record in trained:
        epochs = sum(e.train_seconds + e.evaluation_seconds for e in record.epochs)
        origin = record.provenance
        assert 0 < origin.elapsed_seconds - origin.import_seconds - epochs < script().CELL_ALLOWED_SECONDS
