"""What a study can rule on is known before it is measured: the rules decide over made-up records."""

import msgspec
import pytest
from committed import REFERENCE, analysis_of

from harness.plan.rehearsal import prospects
from harness.study.check import load_study
from harness.study.manifest import manifest, read_manifest
from harness.study.schema import Study

SWEEP = {"lengths": [128, 256, 512, 1024, 2048, 4096, 8192], "tokens": 8192, "replicates": 3}


def study(speed=None, training=None, **more):
    given = {"name": "tiny", "device": "cpu", "variants": {"sdpa": {"model": "sasrec", "attention": "sdpa"}}, **more}
    if speed is not None:
        given["speed"] = {"models": ["hyenarec", "sdpa"], "sweeps": {"constant-tokens": {**SWEEP, **speed}}}
    if training is not None:
        both = {"models": ["hyenarec", "sdpa"], "lengths": [512], "references": ["popularity"]}
        given["training"] = {**both, **training}
    return msgspec.convert(given, Study)


def found(**sections):
    return {one.id: one for one in prospects(manifest(study(**sections)))}


def test_enough_lengths_and_processes_can_say_yes_and_no():
    for claim in ("linear-time", "quadratic-attention", "speedup-6x", "long-sequences"):
        one = found(speed={}, claims=[claim])[claim]
        assert (one.supports, one.refutes, one.why) == (True, True, ""), claim


def test_one_process_a_point_decides_nothing_and_the_plan_says_how_many_would():
    one = found(speed={"replicates": 1}, claims=["speedup-6x"])["speedup-6x"]
    assert not one.decides
    assert "processes" in one.why


def test_two_lengths_are_no_law():
    one = found(speed={"lengths": [128, 256]}, claims=["linear-time"])["linear-time"]
    assert not one.decides
    assert "three lengths of hyenarec" in one.why


def test_attention_without_lengths_to_challenge_its_law_cannot_be_called_quadratic():
    one = found(speed={"lengths": [512, 1024, 2048, 4096]}, claims=["quadratic-attention"])["quadratic-attention"]
    assert (one.supports, one.refutes) == (False, True)
    assert "lengths" in one.why


def test_what_needs_a_gpu_or_training_cells_says_so_without_them():
    own = found(speed={}, claims=["energy", "kernel", "accuracy"])
    assert not any(one.decides for one in own.values())
    assert "NVIDIA" in own["energy"].why
    assert "training cells" in own["kernel"].why


@pytest.mark.parametrize(
    ("dataset", "seeds", "supports"),
    [("ml-latest-small", [0, 1, 2], True), ("ml-latest-small", [0], False), ("synthetic", [0, 1, 2], False)],
)
def test_support_asks_for_real_data_and_three_seeds(dataset, seeds, supports):
    training = {"datasets": [dataset], "seeds": seeds}
    one = found(speed={}, training=training, claims=["no-sacrifice"])["no-sacrifice"]
    assert one.supports == supports
    # A truth in which it is faster where it is trained, and nowhere else, is rehearsed too.
    assert bool(one.why) != (one.supports and one.refutes)


@pytest.mark.parametrize("name", ["field", "field-gpu"])
def test_a_challenger_of_one_card_may_be_the_opponent_of_another(name):
    """HSTU is praised by one paper and beaten by the next; one user's history is 50 events long."""
    field = prospects(manifest(load_study(name)))
    assert [one.id for one in field if not (one.supports and one.refutes)] == []


def test_a_published_figure_can_be_met_and_missed():
    (one,) = prospects(read_manifest(REFERENCE / "accuracy-ml-1m"))[:1]
    assert one.decides


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob("*/study.json")))
def test_no_committed_record_decides_what_its_study_could_not(name):
    prospect = {one.id: one for one in prospects(read_manifest(REFERENCE / name))}
    for claim in analysis_of(name).claims:
        if claim.overall.verdict == "supported":
            assert prospect[claim.id].supports, claim.id
        if claim.overall.verdict == "refuted":
            assert prospect[claim.id].refutes, claim.id
