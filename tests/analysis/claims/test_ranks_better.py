import factories
import msgspec
import pytest

from claims.studies import BAD, GOOD, LEVEL, accuracy_study, speed_study, verdict
from harness.analysis.analyse import analyse
from harness.study.manifest import Manifest


def test_accuracy_supported_per_data_set_and_over_all(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD, speed=False, datasets=("one", "two")), "accuracy")
    assert found.overall.verdict == "supported"
    assert {v.variant: v.verdict for v in found.variants} == {"one": "supported", "two": "supported"}
    assert "Weakest of 6 comparisons" in found.overall.detail
    assert found.overall.interval[0] > 0


def test_accuracy_refuted_by_one_baseline(tmp_path):
    found = verdict(accuracy_study(tmp_path, BAD, speed=False), "accuracy").overall
    assert found.verdict == "refuted"
    assert "sasrec-math" in found.detail
    assert found.statistic < 0


def test_accuracy_inconclusive_when_level(tmp_path):
    found = verdict(accuracy_study(tmp_path, LEVEL, speed=False), "accuracy").overall
    assert found.verdict == "inconclusive"
    assert found.sample_unit in ("seeds", "")


def test_one_seed_is_at_most_inconclusive(tmp_path):
    for name, aims in (("good", GOOD), ("bad", BAD)):
        found = verdict(accuracy_study(tmp_path / name, aims, speed=False, seeds=(0,)), "accuracy").overall
        assert found.verdict == "inconclusive"
        assert "one seed" in found.detail
        assert found.sample_size == 5


def test_accuracy_missing_without_training(quiet, tmp_path):
    found = verdict(speed_study(tmp_path), "accuracy").overall
    assert found.verdict == "missing"
    assert found.missing


def test_references_are_no_baselines_but_are_named(tmp_path):
    aims = {"hyenarec": 0.09, "sasrec-sdpa": 0.05, "gru4rec": 0.05}
    found = accuracy_study(tmp_path, aims, speed=False)
    own = verdict(found, "accuracy").overall
    assert own.verdict == "supported"
    assert "below the best untrained reference" in own.detail
    assert any("below the best untrained reference" in t for t in found.problems.threats)


@pytest.mark.parametrize(("baseline", "lacking"), [("gru4rec", "attention"), ("sasrec-sdpa", "recurrent")])
def test_accuracy_needs_an_attention_and_a_recurrent_baseline(tmp_path, baseline, lacking):
    for name, aim, expected in (("better", 0.12, "inconclusive"), ("worse", 0.3, "refuted")):
        found = verdict(accuracy_study(tmp_path / name, {"hyenarec": 0.2, baseline: aim}, speed=False), "accuracy")
        assert found.overall.verdict == expected
        assert found.overall.missing == [f"a trained {lacking} baseline on synthetic"]


def test_a_collapsed_baseline_keeps_the_claim_open(tmp_path):
    flags = {("gru4rec", seed): ["collapsed: not above chance"] for seed in range(5)}
    found = verdict(accuracy_study(tmp_path, GOOD, speed=False, training_flags=flags), "accuracy").overall
    assert found.verdict == "inconclusive"
    assert any("gru4rec" in what and "collapse" in what for what in found.missing)


def test_a_collapsed_seed_of_the_partner_keeps_the_claim_open(tmp_path):
    flags = {("hyenarec", 3): ["collapsed: not above chance"]}
    found = accuracy_study(tmp_path, GOOD, training_flags=flags)
    for claim in ("accuracy", "no-sacrifice"):
        own = verdict(found, claim).overall
        assert own.verdict == "inconclusive"
        assert any("did not collapse for hyenarec on synthetic at length" in what for what in own.missing)
        assert "Collapsed and left out: hyenarec on synthetic" in own.detail
        assert own.interval[0] > (0 if claim == "accuracy" else -own.margin)


def test_a_collapsed_seed_of_a_baseline_is_said(tmp_path):
    flags = {("gru4rec", 1): ["collapsed: not above chance"], ("gru4rec", 4): ["collapsed: not above chance"]}
    own = verdict(accuracy_study(tmp_path, GOOD, speed=False, training_flags=flags), "accuracy").overall
    assert own.verdict == "supported"
    assert "Collapsed and left out: gru4rec on synthetic at length 1,024, seeds 1, 4." in own.detail


def test_another_split_is_missing_not_compared(tmp_path):
    folder = factories.make_folder(tmp_path, speed=False, memory=False, seeds=(0, 1))
    manifest = msgspec.json.decode((folder / "study.json").read_bytes(), type=Manifest)
    for cell in manifest.cells:
        if cell.label == "gru4rec":
            path = folder / cell.path
            path.write_text(path.read_text().replace("5" * 64, "6" * 64))
    found = analyse(folder)
    own = verdict(found, "accuracy").overall
    assert any("split" in what for what in own.missing)
    assert "gru4rec" not in {d.label for d in found.accuracy_differences}
    assert any("different splits" in t for t in found.problems.threats)
