"""What cells ask of a scheduler."""

import msgspec
import pytest

from harness.errors import UserError
from harness.plan import jobs
from harness.run import past
from harness.study.schema import Study

STUDY = {
    "name": "tiny",
    "device": "cpu",
    "timing_partner": "gru4rec",
    "operator": True,
    "claims": [],
    "speed": {
        "models": ["gru4rec"],
        "timeout_seconds": 300,
        "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 64, "replicates": 1, "measure": ["time", "memory"]}},
    },
    "training": {
        "models": ["gru4rec"],
        "datasets": ["synthetic"],
        "lengths": [8],
        "references": ["popularity"],
        "timed": False,
        "timeout_seconds": 3600,
    },
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Needs by kind and label, where no records are."""
    monkeypatch.setattr(past, "ROOT", tmp_path)

    def of(**changes):
        study = msgspec.convert({**STUDY, **changes}, Study)
        found = jobs.needs(study, tmp_path / "none")
        return {"/".join(path.split("/")[:-1]) or path: need for path, need in found.items()}

    return of


def test_timed_cells_are_alone_and_take_the_studys_threads(asked):
    found = asked()
    assert {path: (need.cores, need.alone, need.gpus) for path, need in found.items()} == {
        "speed/gru4rec": (None, 1, 0),
        "training/popularity": (1, 0, 0),
        "training/gru4rec": (1, 0, 0),
        "operator.json": (1, 1, 0),
    }
    found = asked(threads=4, training={**STUDY["training"], "timed": True}, device="cuda")
    assert found["speed/gru4rec"].cores == found["training/gru4rec"].cores == 4
    assert {need.gpus for need in found.values()} == {1}
    assert {need.alone for need in found.values()} == {1}


def test_without_records_a_job_asks_for_all_the_time_that_the_harness_would_give_the_cell(asked):
    found = asked()
    # Two passes of 300 s, one of 3,600 s; ten minutes more to start.
    assert found["speed/gru4rec"].minutes(1) == found["speed/gru4rec"].minutes(3) == 20
    assert found["training/gru4rec"].minutes(1) == 70


def need(**changes):
    values = {"cores": 1, "gpus": 0, "alone": 0, "seconds": None, "longest_seconds": 7200.0, "peak_bytes": None}
    return jobs.Need(**{**values, "most_bytes": None, "unknown_bytes": 6 << 30, **changes})


def test_with_records_the_first_attempt_asks_for_less_than_the_others():
    assert [need(seconds=300.0).minutes(attempt) for attempt in (1, 2, 3)] == [30, 130, 130]
    # Never more than the harness gives.
    assert need(seconds=90_000.0).minutes(1) == 130


def test_each_attempt_asks_for_more_memory_and_never_for_more_than_the_study_allows():
    assert [need(peak_bytes=2 << 30).mebibytes(attempt) for attempt in (1, 2, 3, 4)] == [5120, 8192, 14336, 14336]
    assert need().mebibytes(1) == 8192
    limited = need(peak_bytes=100 << 30, most_bytes=4 << 30)
    assert [limited.mebibytes(attempt) for attempt in (1, 2)] == [6144, 6144]


def test_a_device_that_depends_on_the_machine_is_refused(asked):
    with pytest.raises(UserError, match="write `device: cpu` or `device: cuda`"):
        asked(device="auto")
