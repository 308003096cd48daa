"""`plan`: what is missing, how long it takes, from which data, and what it can rule on."""

import json
import math
import re

import factories
import msgspec
import pytest
import yaml

from harness import cli
from harness.plan.forecast import Forecaster
from harness.plan.study_plan import plan, table
from harness.records import schema
from harness.records.environment import describe, processor
from harness.run import past
from harness.run.past import known
from harness.study.cells import cells
from harness.study.schema import Study

TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "model": {"hidden_size": 8, "num_layers": 1},
    "speed": {
        "models": ["gru4rec", "lrurec"],
        "budget_seconds": 0.5,
        "minimum_seconds": 0.05,
        "catalogue_items": 100,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [16, 32, 64], "tokens": 64, "replicates": 2}},
    },
}
STUDY = msgspec.convert(TINY, Study)
HERE = processor()


def record(cell, seconds, elapsed=3.0, generation=HERE, **changes):
    """The record of a speed cell, made here, both of whose sides take some seconds a step."""
    environment = msgspec.structs.replace(describe(1, {}), **changes)
    blocks = [
        schema.Block(side=side, phase="step", steps=1, seconds=seconds, minor_faults=0)
        for _ in range(4)
        for side in ("model", "partner")
    ]
    spec = cell.spec
    return schema.SpeedRecord(
        schema_version=schema.SCHEMA_VERSION,
        status="ok",
        study="tiny",
        label=cell.label,
        spec_digest=cell.digest,
        environment=environment,
        provenance=factories.provenance(spec, elapsed_seconds=elapsed, source_digest="", processor=generation),
        device="cpu",
        precision="float32",
        spec=spec,
        sweep=spec.sweep,
        length=spec.length,
        batch=spec.batch,
        replicate=spec.replicate,
        timing=factories.timing(blocks),
        memory=schema.MemoryUse(method="x", baseline_bytes=1 << 20, tiny_peak_bytes=1, peak_bytes=5 << 20, steps=3),
        model=factories.facts(cell.label, factories.TRUTHS["gru4rec"]),
    )


def written(folder, found):
    for cell, one in found:
        schema.write(one, folder / cell.path)
    return folder


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No records but those of a test."""
    monkeypatch.setattr(past, "ROOT", tmp_path / "nothing")
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)


def test_a_cell_that_was_measured_on_a_like_machine_takes_what_it_took(alone, tmp_path):
    first, *_, last = cells(STUDY)
    folder = written(tmp_path / "r", [(first, record(first, 0.01, elapsed=7.25))])
    forecaster = Forecaster(STUDY, known("cpu", [folder]))
    found = forecaster.forecast(first)
    assert (found.seconds, found.basis, found.peak_bytes) == (7.25, "its record", 6 << 20)
    assert forecaster.forecast(last).basis == "unknown"
    assert [model.name for model in forecaster.unknown([first, last])] == ["lrurec"]


def test_another_machine_tells_nothing(alone, tmp_path):
    first = next(cells(STUDY))
    for changes in ({"cpu": "Another"}, {"generation": "family 0, AVX2"}, {"cores_usable": 64}):
        folder = written(tmp_path / str(changes), [(first, record(first, 0.01, **changes))])
        assert Forecaster(STUDY, known("cpu", [folder])).forecast(first).seconds is None


def test_what_was_measured_beside_a_load_tells_nothing(alone, tmp_path):
    first = next(cells(STUDY))
    loaded = msgspec.structs.replace(record(first, 0.01), study="disturbed")
    found = known("cpu", [written(tmp_path / "r", [(first, loaded)])])
    assert not found.elapsed
    assert not found.elsewhere


def test_times_between_and_beyond_records_follow_cost_and_length(alone, tmp_path):
    """Steps whose seconds an operation fall as a power of the length are forecast at lengths without a record."""
    partner = [cell for cell in cells(STUDY) if cell.label == "gru4rec" and cell.spec.replicate == 0]
    forecaster = Forecaster(STUDY, known("cpu", []))
    model = partner[0].spec.model

    def truth(cell):
        work = forecaster._operations(model, cell.spec.batch, cell.spec.length)
        return 1e-8 * work * (cell.spec.length / 16) ** -0.5

    for cell in (partner[0], partner[2]):
        forecaster.known.add(record(cell, truth(cell)))
    seconds, basis = forecaster._step(model, partner[1].spec.batch, partner[1].spec.length)
    assert seconds == pytest.approx(truth(partner[1]), rel=0.01)
    assert basis == "records"
    assert math.isfinite(forecaster.forecast(partner[1]).seconds)


def test_of_a_peak_only_what_grows_is_carried_to_other_lengths(alone):
    """1 MiB and a byte are fixed, 5 MiB less a byte belong to the batch and grow as `cost` says."""
    first = next(cells(STUDY))
    forecaster = Forecaster(STUDY, known("cpu", []))
    forecaster.known.add(record(first, 0.01))
    fixed, grows = (1 << 20) + 1, (5 << 20) - 1
    twice = forecaster._peak(first.spec.model, 2 * first.spec.batch, first.spec.length)
    moved = [forecaster._cost(first.spec.model, n * first.spec.batch, first.spec.length).bytes_moved for n in (1, 2)]
    assert twice == pytest.approx(fixed + grows * moved[1] / moved[0])
    assert fixed + grows < twice < 2 * (fixed + grows)


def test_a_calibration_tells_what_records_do_not(alone, tmp_path):
    """Of two models one is calibrated: the other one's cells stay unknown."""
    forecaster = Forecaster(STUDY, known("cpu", []))
    everything = list(cells(STUDY))
    models = [model for model in forecaster.unknown(everything) if model.name == "gru4rec"]
    found, others = ([c for c in everything if (c.label == "gru4rec") == own] for own in (True, False))
    problems = [p for p in forecaster.calibrate(models, found) if "neighbours" not in p]
    assert problems == []
    forecasts = [forecaster.forecast(cell) for cell in found]
    assert {one.basis for one in forecasts} == {"calibration"}
    assert all(0.1 < one.seconds < 60 for one in forecasts)
    assert all(one.peak_bytes > 0 for one in forecasts)
    assert {forecaster.forecast(cell).seconds for cell in others} == {None}
    assert forecaster.known.ran(found[0])["gru"]


def test_the_head_of_a_training_comes_from_trainings_less_their_model(alone):
    """Positions that took 5 µs a hundred items, and their model besides, take 50 µs with a thousand items."""
    first = next(cells(STUDY))
    forecaster = Forecaster(STUDY, known("cpu", []))
    forecaster.known.add(record(first, 64e-6))
    learning = past.Learning(first.spec.model, first.spec.batch, first.spec.length, 100, 1, 1e-6 + 5e-6)
    forecaster.known.learnings.append(learning)
    assert forecaster._head(1000) == pytest.approx(50e-6)


def test_a_plan_says_what_is_done_and_what_is_not_known(alone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training = {"models": ["gru4rec"], "datasets": ["video-games"], "lengths": [16], "references": []}
    study = {**TINY, "training": training}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**study, "claims": ["linear-time", "accuracy"]}))
    speed = [cell for cell in cells(STUDY) if cell.label == "gru4rec"]
    written(tmp_path / "results" / "tiny", [(cell, record(cell, 0.01)) for cell in speed[:4]])
    assert cli.main(["plan", "tiny.yaml", "--no-calibration", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cells"], found["done"]) == (13, 4)
    rows = {(row["kind"], row["label"]): row for row in found["rows"]}
    assert rows["speed", "gru4rec"]["done"] == 4
    assert rows["speed", "lrurec"]["unknown"] == 6
    assert [(row["name"], row["state"], row["usable"]) for row in found["data"]] == [("video-games", "missing", False)]
    assert {claim["id"]: claim["can"] for claim in found["claims"]}["accuracy"] == "neither"
    assert any("data are missing" in problem for problem in found["problems"])
    assert cli.main(["plan", "tiny.yaml", "--no-calibration"]) == 0
    text = capsys.readouterr().out
    assert "13, of which 4 are done and 9 are to be measured" in text
    assert re.search(r"time +not known: .* and that of \d+ cells more; see below", text)
    # Outside a checkout there is no workflow to make.
    assert "next: python -m harness sweep tiny.yaml" in text
    assert "it cannot rule on accuracy: missing" in " ".join(text.split())


def test_of_a_study_that_is_done_nothing_is_to_be_measured(alone, tmp_path):
    folder = written(tmp_path / "r", [(cell, record(cell, 0.01)) for cell in cells(STUDY)])
    found = plan(STUDY, folder)
    assert found.done == found.cells == 12
    assert found.problems == []
    assert "measures nothing" in table(found, "tiny")
