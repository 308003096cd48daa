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
    assert "Weakest of 12 comparisons" in found.overall.detail
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
        assert found.sample_size == 3


def test_accuracy_missing_without_training(quiet, tmp_path):
    found = verdict(speed_study(tmp_path), "accuracy").overall
    assert found.verdict == "missing"
    assert found.missing


def test_a_model_that_does_not_rank_better_than_counting_is_not_supported(tmp_path):
    aims = {"hyenarec": 0.06, "sasrec-sdpa": 0.12, "gru4rec": 0.12}
    own = verdict(accuracy_study(tmp_path, aims, speed=False), "accuracy").overall
    assert own.verdict == "refuted"
    above = {"hyenarec": 0.11, "sasrec-sdpa": 0.05, "gru4rec": 0.05}
    own = verdict(accuracy_study(tmp_path / "weak", above, speed=False), "accuracy").overall
    assert own.verdict == "inconclusive", "to be better than baselines below counting says nothing"


def test_an_opponent_below_the_best_reference_is_none(tmp_path):
    aims = {"hyenarec": 0.2, "sasrec-sdpa": 0.15, "gru4rec": 0.05}
    found = accuracy_study(tmp_path, aims, speed=False)
    own = verdict(found, "accuracy").overall
    assert own.verdict == "inconclusive"
    assert "gru4rec on real above the best untrained reference" in own.missing
    assert "less gru4rec" not in own.detail
    assert any("below the best untrained reference" in t for t in found.problems.threats)


def test_references_are_baselines(tmp_path):
    aims = {"hyenarec": 0.104, "sasrec-sdpa": 0.101, "gru4rec": 0.101}
    own = verdict(accuracy_study(tmp_path, aims, speed=False), "accuracy").overall
    assert own.verdict == "inconclusive", "0.104 is not told from the 0.10 of counting by 2,000 users"
    good = verdict(accuracy_study(tmp_path / "good", GOOD, speed=False), "accuracy").overall
    assert good.verdict == "supported"
    assert "Weakest of 6 comparisons" in good.detail, "three trained, three counted"


@pytest.mark.parametrize("claim", ["accuracy", "no-sacrifice"])
def test_built_in_data_alone_support_nothing(tmp_path, claim):
    made = verdict(accuracy_study(tmp_path / "made", GOOD, datasets=("synthetic",)), claim).overall
    assert made.verdict == "inconclusive"
    assert "a real data set; what is measured is built in" in made.missing
    both = verdict(accuracy_study(tmp_path / "both", GOOD, datasets=("synthetic", "real")), claim).overall
    assert both.verdict == "supported"


def test_two_seeds_support_nothing_and_say_how_many_would(tmp_path):
    two = verdict(accuracy_study(tmp_path / "two", GOOD, speed=False, seeds=(0, 1)), "accuracy").overall
    assert (two.verdict, two.sample_size, two.sample_unit) == ("inconclusive", 3, "seeds")
    three = verdict(accuracy_study(tmp_path / "three", GOOD, speed=False, seeds=(0, 1, 2)), "accuracy").overall
    assert three.verdict == "supported"


def test_every_open_verdict_says_how_many_seeds_would_decide_or_that_none_would(tmp_path):
    near = {"hyenarec": 0.19, "sasrec-math": 0.18, "sasrec-sdpa": 0.17, "gru4rec": 0.12}
    options = {"speed": False, "seeds": (0, 1, 2)}
    few = verdict(accuracy_study(tmp_path / "few", near, users=200, seed_noise=0.02, **options), "accuracy").overall
    assert few.verdict == "inconclusive"
    assert few.sample_size is None
    assert "No number of seeds decides with 200 users." in few.detail
    many = verdict(
        accuracy_study(tmp_path / "many", near, users=20_000, seed_noise=0.05, **options), "accuracy"
    ).overall
    assert many.verdict == "inconclusive"
    assert many.sample_size > 3


@pytest.mark.parametrize(("baseline", "lacking"), [("gru4rec", "attention"), ("sasrec-sdpa", "recurrent")])
def test_accuracy_needs_an_attention_and_a_recurrent_baseline(tmp_path, baseline, lacking):
    for name, aim, expected in (("better", 0.12, "inconclusive"), ("worse", 0.3, "refuted")):
        found = verdict(accuracy_study(tmp_path / name, {"hyenarec": 0.2, baseline: aim}, speed=False), "accuracy")
        assert found.overall.verdict == expected
        assert found.overall.missing == [f"a trained {lacking} baseline on real"]


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
        assert any("did not collapse for hyenarec on real at length" in what for what in own.missing)
        assert "Collapsed and left out: hyenarec on real" in own.detail
        assert own.interval[0] > (0 if claim == "accuracy" else -own.margin)


def test_a_collapsed_seed_of_a_baseline_is_said(tmp_path):
    flags = {("gru4rec", 1): ["collapsed: not above chance"], ("gru4rec", 4): ["collapsed: not above chance"]}
    own = verdict(accuracy_study(tmp_path, GOOD, speed=False, training_flags=flags), "accuracy").overall
    assert own.verdict == "supported"
    assert "Collapsed and left out: gru4rec on real at length 1,024, seeds 1, 4." in own.detail


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
