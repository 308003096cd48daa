import json
import subprocess
import sys

import factories
import msgspec
import pytest

from harness.analysis.analyse import analyse, read, write
from harness.errors import UserError
from harness.study.claim import load_cards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return factories.make_folder(
        tmp_path_factory.mktemp("study"),
        oom={("sasrec-math", 8192)},
        timeout={("gru4rec", 8192)},
        failed={("gru4rec", 4096)},
        absent={("gru4rec", 2048)},
        flags={("sasrec-sdpa", 512): ["model step: a block is 80% off the median"]},
        training_flags={("gru4rec", 0): ["still-improving"]},
        dirty={"gru4rec"},
        seeds=(0, 1),
    )


@pytest.fixture(scope="module")
def found(folder):
    return analyse(folder)


def test_round_trip(found, tmp_path):
    write(found, tmp_path / "analysis.json")
    assert read(tmp_path / "analysis.json") == found


def test_identical_records_give_identical_bytes(folder, found, tmp_path):
    write(found, tmp_path / "one.json")
    write(analyse(folder), tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_no_infinity_and_no_nan_reach_the_file(found, tmp_path):
    write(found, tmp_path / "analysis.json")

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "analysis.json").read_text(), parse_constant=refuse)


def test_one_row_per_cell(found):
    assert len(found.records) == found.completeness.cells
    states = {(r.label, r.length): r.status for r in found.records if r.where == "constant-tokens"}
    assert states["sasrec-math", 8192] == "oom"
    assert states["gru4rec", 8192] == "timeout"
    assert states["gru4rec", 4096] == "error"
    assert states["gru4rec", 2048] == "missing"
    assert states["hyenarec", 256] == "ok"
    done = found.completeness
    assert done.ok + done.censored + done.failed + done.missing == done.cells
    assert (done.censored, done.failed, done.missing) == (6, 3, 3)


def test_censored_points_are_listed_and_fitted_around(found):
    assert {(c.label, c.length, c.status) for c in found.censored} == {
        ("sasrec-math", 8192, "oom"),
        ("gru4rec", 8192, "timeout"),
    }
    law = next(w for w in found.laws if w.label == "sasrec-math")
    assert law.lengths[-1] == 4096
    assert law.censored_lengths == [8192]


def test_threats_come_from_these_records(found):
    threats = " ".join(found.problems.threats)
    for words in (
        "3 cells of",
        "3 cells failed",
        "sasrec-math at 8,192 (oom)",
        "carry a flag (sasrec-sdpa)",
        "uncommitted changes",
        "gru4rec on synthetic: still-improving",
    ):
        assert words in threats
    clean = {"stale", "different splits", "machines are mixed"}
    assert not any(word in threats for word in clean)


def test_times_give_mean_of_logs_and_dots(found):
    point = next(p for p in found.times if (p.label, p.length) == ("hyenarec", 1024))
    assert point.processes == len(point.process_seconds) == 3
    assert point.step_interval[0] < point.step_seconds < point.step_interval[1]
    assert min(point.process_seconds) < point.step_seconds < max(point.process_seconds)
    assert point.microseconds_per_token == pytest.approx(1e6 * point.step_seconds / 8192)
    assert (point.batch, point.tokens) == (8, 8192)


def test_predicted_time_meets_the_longest_point(found):
    own = [p for p in found.times if p.label == "sasrec-sdpa"]
    assert own[-1].predicted_seconds == pytest.approx(own[-1].step_seconds)
    assert own[0].predicted_seconds < own[-1].predicted_seconds


def test_flagged_cells_are_counted_not_dropped(found):
    point = next(p for p in found.times if (p.label, p.length) == ("sasrec-sdpa", 512))
    assert (point.flagged, point.processes) == (3, 3)


def test_models_come_from_the_records(found):
    assert [m.label for m in found.models] == [*factories.TRUTHS, *factories.REFERENCES]
    own = {m.label: m for m in found.models}
    assert own["hyenarec"].is_partner
    assert own["sasrec-math"].backends == {"attention": ["math"]}
    assert own["markov"].family == "reference"


def test_machine_and_versions(found):
    assert [m.records for m in found.machines] == [found.completeness.ok + found.completeness.censored]
    assert found.machines[0].threads == [2]
    assert found.versions.packages["torch"] == ["2.13.0"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not a complete JSON file"),
        ("[]", "not a valid analysis: it has no version"),
        ('{"version": 99}', "analysis schema 99"),
        ('{"version": 3}', "not a valid analysis"),
    ],
)
def test_reading_something_else(tmp_path, content, words):
    path = tmp_path / "analysis.json"
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        read(path)


def test_reading_nothing(tmp_path):
    with pytest.raises(UserError, match="analyse DIR"):
        read(tmp_path / "none.json")


def test_analysis_needs_no_torch():
    code = "import sys, harness.analysis.analyse; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mixed_machines_are_a_threat(tmp_path):
    folder = factories.make_folder(tmp_path, lengths=(256,), memory=False, training=False)
    path = next((folder / "speed" / "gru4rec").iterdir())
    path.write_text(path.read_text().replace("Example CPU at 3 GHz", "Another CPU"))
    found = analyse(folder)
    assert [m.cpu for m in found.machines] == ["Example CPU at 3 GHz", "Another CPU"]
    assert any("2 machines are mixed" in t for t in found.problems.threats)


def test_cards_that_differ_from_the_shipped_ones_are_a_threat(tmp_path):
    cards = [msgspec.structs.replace(c, threshold=4.0) if c.id == "speedup-6x" else c for c in load_cards()]
    worded = [msgspec.structs.replace(c, sentence="Other words.") for c in load_cards()]
    options = {"lengths": (256,), "memory": False, "training": False}
    found = analyse(factories.make_folder(tmp_path / "a", claims=cards, **options))
    assert [t for t in found.problems.threats if "Card" in t] == [
        "Card speedup-6x is not the shipped one of that name: threshold 4.0 here, 6.0 shipped."
    ]
    assert not any(
        "Card" in t for t in analyse(factories.make_folder(tmp_path / "b", claims=worded, **options)).problems.threats
    )
    gained = [msgspec.structs.replace(c, opponents=["sasrec"]) if c.id == "long-sequences" else c for c in load_cards()]
    (threat,) = [
        t
        for t in analyse(factories.make_folder(tmp_path / "c", claims=gained, **options)).problems.threats
        if "Card" in t
    ]
    assert threat.endswith("of that name: opponents ['sasrec'] here, not given shipped.")
    digests = {c.id: c.card for c in found.claims}
    assert digests["speedup-6x"] != next(c for c in load_cards() if c.id == "speedup-6x").digest
    assert digests["kernel"] == next(c for c in load_cards() if c.id == "kernel").digest


def test_what_the_leak_check_found_stands_in_rows_and_threats(tmp_path):
    """In the second record alone: those made before the check was kept say nothing."""
    folder = factories.make_folder(tmp_path, speed=False, seeds=(0, 1))
    path = next(folder.glob("training/gru4rec/*s1*.json"))
    content = json.loads(path.read_bytes())
    content["provenance"]["leaks"] = {"held_out": 40, "trained": 0, "had_before": 3, "copies": 2, "earlier": 0}
    path.write_text(json.dumps(content))
    found = analyse(folder)
    (row,) = [row for row in found.accuracy if row.leaks is not None]
    assert (row.label, row.leaks.copies) == ("gru4rec", 2)
    words = "synthetic: 2 of 40 held-out events stand in the history that they are ranked after"
    assert [threat for threat in found.problems.threats if threat.startswith(words)]
