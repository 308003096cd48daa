"""What keeps the rules on cost from ruling: cells without a result, other machines, other backends, a biased side."""

import dataclasses
import json

import factories
import msgspec
import numpy as np
import pytest
from claims.studies import CLAIMS, QUIET, speed_study, truths, verdict, with_law

from harness.analysis.analyse import analyse
from harness.analysis.estimates import circumstances
from harness.analysis.evidence import Evidence, against
from harness.analysis.load import load

COST = ("linear-time", "quadratic-attention", "speedup-6x", "long-sequences")


def folder(path, **options):
    return factories.make_folder(path, **{"memory": False, "training": False, "noise": QUIET, **options})


def edit(path, change, label=None, length=None):
    """Change the records of a label and a length, in place."""
    for file in (path / "speed").rglob("*.json"):
        content = json.loads(file.read_text())
        if label in (None, content["label"]) and length in (None, content["length"]):
            change(content)
            file.write_text(json.dumps(content))


# --- censored cells ------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["oom", "timeout"])
@pytest.mark.parametrize("claim", ["linear-time", "long-sequences"])
def test_a_cell_of_the_challenger_without_a_result_keeps_its_claims_from_support(tmp_path, claim, ended):
    whole = verdict(speed_study(tmp_path / "whole"), claim).overall
    lost = verdict(speed_study(tmp_path / "lost", **{ended: {("hyenarec", 8192)}}), claim).overall
    # What times out after fifty times as long as a shorter cell takes is proof.
    proven = (claim, ended) == ("linear-time", "timeout")
    assert (whole.verdict, lost.verdict) == ("supported", "refuted" if proven else "inconclusive")
    assert f"at length 8,192 ({ended})" in lost.missing[0]


def test_an_opponent_out_of_memory_keeps_its_own_claim_alone_open(tmp_path):
    found = speed_study(tmp_path, oom={("sasrec-math", 8192)})
    assert verdict(found, "linear-time").overall.verdict == "supported"


def test_a_rise_that_time_outs_prove_is_refuted(tmp_path):
    path = folder(tmp_path, timeout={("hyenarec", 8192)})

    def limit(content):
        content["provenance"]["elapsed_seconds"] = 12.5

    edit(path, limit)
    evidence = Evidence(against(load(path)), {})
    # 600 s a cell against 12.5 s: forty-eight times as long.
    assert evidence.slower_than("hyenarec", "constant-tokens", 1.1) == [8192]
    assert evidence.slower_than("hyenarec", "constant-tokens", 25) == []
    found = verdict(analyse(path), "linear-time").overall
    assert found.verdict == "refuted"
    assert "The time-outs at 8,192 prove a rise beyond that." in found.detail


def test_time_outs_of_less_than_all_processes_prove_nothing(tmp_path):
    path = folder(tmp_path, timeout={("hyenarec", 8192)})
    next((path / "speed" / "hyenarec").glob("*L8192*")).unlink()
    assert verdict(analyse(path), "linear-time").overall.verdict == "inconclusive"


def test_a_memory_pass_out_of_memory_keeps_linear_memory_from_support(tmp_path):
    path = factories.make_folder(tmp_path, speed=False, training=False)
    assert verdict(analyse(path), "linear-memory").overall.verdict == "supported"

    def out(content):
        content["status"], content["memory"], content["detail"] = "oom", None, "torch: not enough memory"

    edit(path, out, "hyenarec", 4096)
    found = verdict(analyse(path), "linear-memory").overall
    assert found.verdict == "inconclusive"
    assert "4,096" in found.missing[0]


def test_what_ran_is_read_off_cells_that_were_timed(tmp_path):
    path = folder(tmp_path, oom={("hyenarec", 8192)})

    def other(content):
        content["model"] = {**json.loads(plain.read_text())["model"], "backends": {"convolution": "dense"}}

    plain = next((path / "speed" / "hyenarec").glob("*L4096*"))
    edit(path, other, "hyenarec", 8192)
    assert "dense" not in verdict(analyse(path), "linear-time").overall.detail


# --- machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{"cpu": "Another CPU"}, {"threads": 1}, {"cores_usable": 1}, {"packages": {"torch": "2.14.0", "numpy": "2.4.0"}}],
    ids=lambda change: next(iter(change)),
)
def test_cells_from_two_machines_are_not_ruled_on(tmp_path, other):
    path = folder(tmp_path)
    edit(path, lambda content: content["environment"].update(other), length=8192)
    found = analyse(path)
    for claim in COST:
        own = verdict(found, claim).overall
        assert own.verdict == "inconclusive", claim
        assert "different machines or versions" in own.detail
    assert found.problems.threats


def test_another_processor_of_the_same_name_is_another_machine(tmp_path):
    path = folder(tmp_path)
    edit(path, lambda content: content["provenance"].update(processor="family 25, model 1, AVX2"), length=8192)
    found = analyse(path)
    assert "(family 25, model 1, AVX2)" in verdict(found, "linear-time").overall.detail
    assert (
        "made before the processor's generation was kept: delete those" in verdict(found, "linear-time").overall.detail
    )
    assert len(found.machines) == 2


def test_a_machine_twice_as_slow_at_long_lengths_refutes_nothing(tmp_path):
    path = folder(tmp_path)

    def slower(content):
        content["environment"]["cpu"] = "Another CPU"
        for block in content["timing"]["blocks"]:
            block["seconds"] *= 2

    edit(path, slower, length=8192)
    own = verdict(analyse(path), "linear-time").overall
    assert own.statistic == pytest.approx(2, rel=0.1)
    assert own.verdict == "inconclusive"


def test_another_machine_for_other_labels_stands_in_no_ones_way(tmp_path):
    path = folder(tmp_path)
    edit(path, lambda content: content["environment"].update(cpu="Another CPU"), "gru4rec")
    assert verdict(analyse(path), "linear-time").overall.verdict == "supported"


# --- backends ------------------------------------------------------------------------------------


def test_a_label_that_ran_another_kernel_than_it_asks_for_is_not_ruled_on(tmp_path):
    path = folder(tmp_path)

    def explicit(content):
        content["model"]["backends"] = {"attention": "math"}

    edit(path, explicit, "sasrec-sdpa")
    found = analyse(path)
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences"):
        own = {v.variant: v for v in verdict(found, claim).variants}
        assert own["sasrec-sdpa"].verdict == "inconclusive"
        assert "sasrec-sdpa asks for attention by sdpa, math ran" in own["sasrec-sdpa"].detail
        assert own["sasrec-math"].verdict == "supported"
    assert any("sasrec-sdpa asks for attention by sdpa" in threat for threat in found.problems.threats)


@pytest.mark.parametrize("backend", ["sdpa: flash (CPU)", "sdpa-flash", "sdpa-math"])
def test_a_backend_with_the_options_word_is_what_was_asked_for(tmp_path, backend):
    changed = dataclasses.replace(factories.TRUTHS["sasrec-sdpa"], backends={"attention": backend})
    found = verdict(speed_study(tmp_path, truths=truths(**{"sasrec-sdpa": changed})), "speedup-6x")
    assert "Not ruled on" not in found.overall.detail
    assert f"attention of sasrec-sdpa by {backend}" in {v.variant: v for v in found.variants}["sasrec-sdpa"].detail


def test_processes_of_one_length_that_ran_different_backends_are_not_ruled_on(tmp_path):
    path = folder(tmp_path)
    record = next((path / "speed" / "hyenarec").glob("*L8192*"))
    content = json.loads(record.read_text())
    content["model"]["backends"] = {"convolution": "tree (torch)"}
    record.write_text(json.dumps(content))
    own = verdict(analyse(path), "linear-time").overall
    assert own.verdict == "inconclusive"
    assert "convolution of hyenarec at 8,192 ran by" in own.detail


def test_a_backend_that_changes_with_length_is_said_and_a_threat(tmp_path):
    path = folder(tmp_path)

    def dense(content):
        for side in ("model", "partner"):
            if content[side]["name"] == "hyenarec":
                content[side]["backends"] = {"convolution": "dense"}

    edit(path, dense, length=256)
    found = analyse(path)
    own = verdict(found, "linear-time").overall
    assert own.verdict == "supported"
    assert "dense, which is O(n²) at 256, fft, which is O(n log n) at 512 to 8,192" in own.detail
    assert any("What ran changes with length: convolution of hyenarec" in threat for threat in found.problems.threats)


# --- bias, growth, and what a sentence says ------------------------------------------------------


def test_a_bias_that_the_control_shows_is_taken_off_the_bounds(tmp_path):
    fast = with_law("sasrec-math", factories.linear_law(0.0, 5.5e-5))
    own = dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5))
    chosen = {"hyenarec": own, "sasrec-math": fast}
    path = folder(tmp_path, truths=chosen)

    def slow_side(content):
        for block in content["timing"]["blocks"]:
            block["seconds"] *= 1.12 if block["side"] == "model" else 1.0

    edit(path, slow_side)
    found = analyse(path)
    floor = found.noise_floors[0]
    assert not floor.all_cover_one
    claim = verdict(found, "speedup-6x").overall
    assert claim.statistic == pytest.approx(5.5 * 1.12, rel=0.02)
    assert claim.interval[0] > 6, "by itself it would be supported"
    assert claim.verdict == "inconclusive"
    assert "The A/A control leaves 1: bounds give way by 1.1" in claim.detail


def test_an_advantage_that_rises_and_falls_does_not_grow(tmp_path):
    lengths = factories.LENGTHS
    hump = dict(zip(lengths, (1, 2, 3.5, 6, 5, 4), strict=True))
    own = dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5))
    humped = with_law("sasrec-math", lambda tokens, length: tokens * 1e-5 * hump[length])
    claim = verdict(speed_study(tmp_path, truths={"hyenarec": own, "sasrec-math": humped}), "long-sequences").overall
    assert claim.verdict == "refuted"
    assert claim.statistic < 0
    assert claim.measured.endswith("from 2,048 to 8,192 events")


def test_linear_time_is_not_supported_where_the_law_grows(tmp_path):
    # By 8.7 % over the upper eightfold of lengths, less than is allowed, but as the square of the length.
    grows = dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5, 1.25e-10))
    only = {"hyenarec": grows, "sasrec-math": factories.TRUTHS["sasrec-math"]}
    own = verdict(speed_study(tmp_path, truths=only), "linear-time").overall
    assert own.interval[1] < CLAIMS["linear-time"].threshold
    assert own.verdict == "inconclusive"
    assert "The data single out the linear law, which grows." in own.detail


def test_cards_and_verdicts_say_what_is_constant(tmp_path):
    found = speed_study(tmp_path)
    for claim in COST:
        assert "at a constant number of tokens a batch" in verdict(found, claim).sentence
    assert "at a constant batch" in verdict(found, "linear-memory").sentence
    assert verdict(found, "speedup-6x").overall.measured.endswith("batch 1 (8,192 tokens a batch)")
    assert "batch 1 (8,192 tokens a batch)" in verdict(found, "long-sequences").overall.detail


def test_what_did_not_run_contradicts_no_option_and_no_other_sweep():
    """Cells that time streamed steps alone never call the kernel that their label asks for."""
    truth = factories.TRUTHS["sasrec-math"]
    facts = factories.facts("sasrec-math", truth)
    rng = np.random.default_rng(0)

    def record(sweep, backend):
        cell = factories.speed_cell("sasrec-math", factories.TRUTHS, sweep, "tokens", 8192, 1, 0, ["time"])
        made = factories.speed_record(cell, factories.TRUTHS, rng)
        return msgspec.structs.replace(made, model=msgspec.structs.replace(facts, backends={"attention": backend}))

    assert circumstances.conflicts([record("constant-tokens", "math"), record("one-user", "not run")]) == []
    other = circumstances.conflicts([record("constant-tokens", "sdpa")])
    assert other == ["sasrec-math asks for attention by math, sdpa ran"]
