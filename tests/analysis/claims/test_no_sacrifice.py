import json

import factories
import pytest

from claims.studies import BAD, CLAIMS, GOOD, LEVEL, QUIET, accuracy_study, verdict
from harness.analysis.analyse import analyse
from harness.study.check import load_study


def test_no_sacrifice_supported_where_faster(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD), "no-sacrifice")
    assert found.overall.verdict == "supported"
    assert found.overall.margin == CLAIMS["no-sacrifice"].margin
    assert {v.variant for v in found.variants} == {"sasrec-math", "sasrec-sdpa"}


def test_no_sacrifice_refuted(tmp_path):
    found = verdict(accuracy_study(tmp_path, BAD), "no-sacrifice")
    assert next(v for v in found.variants if v.variant == "sasrec-math").verdict == "refuted"
    assert found.overall.verdict == "refuted"


def test_no_sacrifice_inconclusive_with_noise(tmp_path):
    found = verdict(accuracy_study(tmp_path, LEVEL, seed_noise=0.2), "no-sacrifice").overall
    assert found.verdict == "inconclusive"
    assert found.sample_unit == "seeds"


@pytest.mark.parametrize("hyenarec", [0.25, 0.01])
def test_attention_below_counting_decides_nothing_but_is_no_missing_record(tmp_path, hyenarec):
    aims = {**GOOD, "hyenarec": hyenarec, "sasrec-math": 0.05, "sasrec-sdpa": 0.05}
    found = verdict(accuracy_study(tmp_path, aims), "no-sacrifice").overall
    assert (found.verdict, found.sample_size) == ("inconclusive", None)
    assert found.interval is not None
    assert any("above the best untrained reference" in what for what in found.missing)
    assert "Not ruled on" in found.detail


def test_no_sacrifice_missing_where_it_is_not_faster(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD, training_lengths=(256,)), "no-sacrifice")
    own = {v.variant: v for v in found.variants}
    assert own["sasrec-sdpa"].verdict == "missing"
    assert "is faster than sasrec-sdpa" in own["sasrec-sdpa"].missing[0]


def test_no_sacrifice_names_the_model_that_was_not_trained(tmp_path):
    factories.make_folder(tmp_path, memory=False, noise=QUIET)
    path = tmp_path / "study.json"
    manifest = json.loads(path.read_text())
    manifest["cells"] = [c for c in manifest["cells"] if c["kind"] == "speed" or not c["label"].startswith("sasrec")]
    path.write_text(json.dumps(manifest))
    own = {v.variant: v for v in verdict(analyse(tmp_path), "no-sacrifice").variants}
    assert own["sasrec-math"].missing == ["training cells of sasrec-math"]


def test_no_sacrifice_names_the_lengths_it_covers_and_those_it_lacks(tmp_path):
    found = verdict(accuracy_study(tmp_path, GOOD), "no-sacrifice")
    own = {v.variant: v for v in found.variants}["sasrec-math"]
    assert own.verdict == "supported"
    assert own.window == (1024, 1024)
    assert "Covers length 1,024, not 256, 512, 2,048, 4,096, 8,192, where it is faster too." in own.detail
    assert own.missing == [
        "training cells at length 256, 512, 2,048, 4,096, 8,192, where hyenarec is faster than sasrec-math"
    ]
    assert own.missing[0] in found.overall.missing


@pytest.mark.parametrize(("aims", "expected"), [(GOOD, "supported"), ({**BAD, "sasrec-sdpa": 0.22}, "refuted")])
def test_no_sacrifice_takes_the_training_of_another_kernel(tmp_path, aims, expected):
    accuracy_study(tmp_path, aims)
    path = tmp_path / "study.json"
    manifest = json.loads(path.read_text())
    manifest["cells"] = [c for c in manifest["cells"] if (c["kind"], c["label"]) != ("training", "sasrec-math")]
    path.write_text(json.dumps(manifest))
    found = verdict(analyse(tmp_path), "no-sacrifice")
    own = {v.variant: v for v in found.variants}["sasrec-math"]
    assert own.verdict == found.overall.verdict == expected
    assert "sasrec-sdpa was trained for sasrec-math: only the attention kernel differs." in own.detail
    assert all("/sasrec-math/" not in name for name in own.evidence)
    for cell in manifest["cells"]:
        if (cell["kind"], cell["label"]) == ("training", "sasrec-sdpa"):
            cell["spec"]["model"]["options"]["num_layers"] = 3
    path.write_text(json.dumps(manifest))
    own = {v.variant: v for v in verdict(analyse(tmp_path), "no-sacrifice").variants}["sasrec-math"]
    assert own.missing == ["training cells of sasrec-math"], "another depth is another model"


@pytest.mark.parametrize("name", ["gpu", "gpu-half-hour", "paper"])
def test_a_study_that_is_to_decide_it_trains_at_a_timed_length(name):
    study = load_study(name)
    timed = set(study.speed.sweeps["constant-tokens"].lengths)
    assert timed & set(study.training.lengths)
