"""Runs that diverged, and the part of a step that is the layers', from records to the document."""

import json

import msgspec
import numpy as np
import pytest
from factories import blocks, make_folder, timing

from harness.analysis.analyse import analyse
from harness.records import schema as records
from harness.report.document import assemble, render
from harness.study.manifest import read_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = make_folder(tmp_path_factory.mktemp("records"), memory=False, users=60)
    rng = np.random.default_rng(1)
    for place in read_manifest(path).cells:
        file = path / place.path
        record = records.read(file)
        if place.kind == "training" and place.label == "gru4rec":
            bare = {"test": None, "validation": None, "epochs": [], "best_epoch": None}
            record = msgspec.structs.replace(record, status="diverged", detail="loss or scores are not finite", **bare)
        if place.kind == "speed" and place.label == "sasrec-math":
            steps = [b.seconds / b.steps for b in record.timing.blocks if b.side == "model"]
            quiet = {"process_noise": 0.0, "block_noise": 0.0, "drift": 0.0}
            rest = blocks(rng, 0.25 * float(np.median(steps)), 0.01, phase="rest", **quiet)
            record = msgspec.structs.replace(record, timing=timing([*record.timing.blocks, *rest]))
        file.write_bytes(records.encode(record))
    return path


def test_a_run_that_diverged_is_listed_and_counted_and_is_no_gap(folder):
    found = analyse(folder)
    assert not found.problems.refused
    assert (found.completeness.diverged, found.completeness.missing, found.completeness.failed) == (1, 0, 0)
    assert [(c.label, c.status) for c in found.censored] == [("gru4rec", "diverged")]
    assert any("diverged before its first evaluation" in t and "gru4rec" in t for t in found.problems.threats)
    assert "gru4rec" not in {row.label for row in found.accuracy}
    assert next(r for r in found.records if r.kind == "training" and r.label == "gru4rec").status == "diverged"


def test_an_accuracy_claim_names_the_comparison_it_lacks(folder):
    claim = next(c for c in analyse(folder).claims if c.id == "accuracy")
    assert claim.overall.verdict != "supported"
    assert any("gru4rec" in item and "diverged" in item for v in claim.variants for item in v.missing)


def test_the_share_of_the_layers_is_what_the_rest_does_not_explain(folder):
    found = analyse(folder)
    shares = {(p.label, p.phase): p.mixer_share for p in found.times}
    assert shares["sasrec-math", "step"] == pytest.approx(0.75, abs=0.01)
    assert shares["sasrec-math", "rest"] is None
    assert shares["hyenarec", "step"] is None
    assert all(p.predicted_seconds is None for p in found.times if p.phase == "rest")


def test_the_document_says_both(folder, tmp_path):
    source = assemble(analyse(folder), tmp_path)
    assert render(source).startswith(b"%PDF-")
    times = json.loads((tmp_path / "analysis.json").read_text())["times"]
    assert any(t["mixer_share"] for t in times)
