import json

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from claims.studies import BAD, GOOD, accuracy_study, verdict
from harness.analysis.analyse import analyse
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.quality import equal_quality
from harness.records.schema import Epoch


def trained(validation, seconds=10.0, seed=0, timed=True):
    """A record with this validation NDCG@10 after every epoch of so many seconds."""
    cell = factories.training_cell("x", factories.HYENAREC, "real", 64, seed)
    record = factories.training_record(cell, factories.HYENAREC, np.random.default_rng(0), np.linspace(0, 1, 20))
    epochs = [
        Epoch(epoch=n, train_seconds=seconds, evaluation_seconds=1, steps=1, tokens=1, loss=1.0, validation_ndcg10=v)
        for n, v in enumerate(validation, 1)
    ]
    return msgspec.structs.replace(record, epochs=epochs, timed=timed)


def runs(*records, label="x"):
    return Runs("real", "s", label, 64, tuple(records), tuple("p" for _ in records), ())


def test_the_time_is_that_to_the_opponents_best_evaluation():
    found = equal_quality(runs(trained([0.1, 0.2, 0.3], 5.0)), runs(trained([0.1, 0.15, 0.2, 0.19], 10.0)))
    assert (found.targets, found.other_seconds, found.seconds, found.reached) == ((0.2,), (30.0,), (10.0,), (True,))


def test_an_epoch_without_an_evaluation_takes_time_all_the_same():
    found = equal_quality(runs(trained([None, 0.2], 5.0)), runs(trained([None, None, 0.2], 10.0)))
    assert (found.other_seconds, found.seconds) == ((30.0,), (10.0,))


def test_a_target_that_is_not_reached_counts_all_training():
    found = equal_quality(runs(trained([0.1, 0.1, 0.1])), runs(trained([0.2])))
    assert (found.seconds, found.reached) == ((30.0,), (False,))


def test_seeds_are_matched_and_only_those_that_ran_alone_count():
    mine = runs(trained([0.2], seed=0), trained([0.2], seed=1), trained([0.2], seed=2, timed=False))
    other = runs(trained([0.1], seed=1), trained([0.1], seed=2), trained([0.1], seed=3))
    assert equal_quality(mine, other).seeds == (1,)
    assert equal_quality(runs(trained([0.2], seed=9)), other) is None


def slowed(path, label, factor):
    for file in (path / "training" / label).glob("*.json"):
        content = json.loads(file.read_text())
        for epoch in content["epochs"]:
            epoch["train_seconds"] *= factor
        file.write_text(json.dumps(content))
    return verdict(analyse(path), "equal-quality")


def test_equal_quality_supported_refuted_and_at_most_inconclusive(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD, speed=False), "equal-quality")
    # HyenaRec's first evaluation is above what attention comes to after three.
    assert found.overall.verdict == "supported"
    assert found.overall.statistic == pytest.approx(3, rel=0.01)
    assert {v.variant for v in found.variants} == {"sasrec-math", "sasrec-sdpa"}
    slow = slowed(tmp_path, "hyenarec", 5)
    assert slow.overall.verdict == "refuted"
    assert slow.overall.statistic == pytest.approx(0.6, rel=0.01)


def test_where_the_quality_is_never_reached_it_may_be_refuted_but_not_supported(tmp_path):
    accuracy_study(tmp_path, BAD, speed=False)
    faster = slowed(tmp_path, "hyenarec", 0.1)
    own = {v.variant: v for v in faster.variants}["sasrec-math"]
    assert own.verdict == "inconclusive"
    assert own.measured.startswith("at most ")
    assert "a validation NDCG@10 as high as that of sasrec-math" in own.missing[-1]
    slower = slowed(tmp_path, "hyenarec", 50)
    assert {v.variant: v for v in slower.variants}["sasrec-math"].verdict == "refuted"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"datasets": ("synthetic",)}, "a real data set"),
        ({"aims": {**GOOD, "sasrec-math": 0.05, "sasrec-sdpa": 0.05}}, "above the best untrained reference"),
    ],
    ids=["built-in data", "weak opponent"],
)
def test_what_keeps_it_from_support(tmp_path, options, words):
    aims = options.pop("aims", GOOD)
    found = verdict(accuracy_study(tmp_path, aims, speed=False, **options), "equal-quality").overall
    assert found.verdict == "inconclusive"
    assert found.statistic > 1
    assert any(words in what for what in found.missing)


def test_trainings_on_two_machines_are_not_ruled_on(tmp_path):
    accuracy_study(tmp_path, GOOD, speed=False)
    for file in (tmp_path / "training" / "hyenarec").glob("*.json"):
        file.write_text(file.read_text().replace("Example CPU at 3 GHz", "Another CPU"))
    found = verdict(analyse(tmp_path), "equal-quality").overall
    assert found.verdict == "inconclusive"
    assert "different machines or versions" in found.detail


def test_a_label_on_several_data_sets_is_named_with_each(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD, speed=False, datasets=("one", "two")), "equal-quality")
    assert "sasrec-math on two at 1,024" in {v.variant for v in found.variants}
    assert len(found.variants) == 4
    assert found.overall.verdict == "supported"


def test_one_seed_decides_nothing(quiet):
    found = verdict(quiet, "equal-quality").overall
    assert (found.verdict, found.sample_size, found.interval) == ("inconclusive", 3, None)


def test_nothing_to_rule_on_without_an_opponent(tmp_path):
    found = accuracy_study(tmp_path, {"hyenarec": 0.2, "gru4rec": 0.1}, speed=False)
    assert verdict(found, "equal-quality").overall.verdict == "missing"


def wrong(trials, seeds, spread):
    """How often times that are equal on average pass for shorter ones."""
    rng = np.random.default_rng([106, seeds])
    plain = [trained([0.1, 0.2], seed=s) for s in range(seeds)]

    def drawn():
        return runs(
            *(
                msgspec.structs.replace(
                    r,
                    epochs=[
                        msgspec.structs.replace(e, train_seconds=10 * t) for e, t in zip(r.epochs, own, strict=True)
                    ],
                )
                for r, own in zip(plain, np.exp(rng.normal(0, spread, (seeds, 1))) * np.ones((seeds, 2)), strict=True)
            )
        )

    return sum(equal_quality(drawn(), drawn()).estimate.interval()[0] > 0 for _ in range(trials))


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_times_pass_for_shorter_in_at_most_two_and_a_half_percent(seeds):
    trials = 2000
    assert stats.binomtest(wrong(trials, seeds, 0.2), trials, 0.025, alternative="greater").pvalue > 1e-3
