import dataclasses
import json
import math

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analysis.analyse import analyse
from harness.analysis.evidence import Evidence
from harness.analysis.load import Counted, Folder
from harness.analysis.ruling import rule, tolerances
from harness.errors import UserError
from harness.records.schema import Block
from harness.study.check import load_study
from harness.study.claim import load_cards, rules
from harness.study.manifest import Manifest
from harness.study.schema import Study

QUIET = {"process_noise": 0.002, "block_noise": 0.002, "drift": 0.002}
CLAIMS = {c.id: c for c in load_cards()}
PLACES = {c.id: place for place, c in enumerate(load_cards())}


def verdict(found, claim):
    return next(c for c in found.claims if c.id == claim)


def truths(**changes):
    """The factory's truths with some replaced; None leaves a label out."""
    chosen = {**factories.TRUTHS, **changes}
    return {label: t for label, t in chosen.items() if t is not None}


def with_law(label, law):
    return dataclasses.replace(factories.TRUTHS[label], law=law)


def speed_study(path, **options):
    options = {"memory": False, "training": False, "noise": QUIET, **options}
    return analyse(factories.make_folder(path, **options))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return analyse(factories.make_folder(tmp_path_factory.mktemp("quiet"), noise=QUIET))


def test_every_published_claim_has_a_rule():
    assert {card.rule for card in CLAIMS.values()} == set(rules())


# --- linear time ----------------------------------------------------------------------------------


def test_linear_time_supported(quiet):
    found = verdict(quiet, "linear-time").overall
    assert found.verdict == "supported"
    assert found.window == (1024, 8192)
    assert found.threshold == CLAIMS["linear-time"].threshold
    assert found.interval[0] < found.statistic < found.interval[1]
    assert len(found.evidence) == 18
    assert all(path.startswith("speed/hyenarec/") for path in found.evidence)


def test_linear_time_refuted_by_n_log_n(tmp_path):
    hyenarec = with_law("hyenarec", factories.log_law(0.0, 0.0, 1e-6))
    found = verdict(speed_study(tmp_path, truths=truths(hyenarec=hyenarec)), "linear-time").overall
    assert found.verdict == "refuted"
    assert found.statistic == pytest.approx(1.3, abs=0.02)


def test_linear_time_inconclusive_with_noise_says_how_many_processes(tmp_path):
    found = verdict(speed_study(tmp_path, noise={"process_noise": 0.1}), "linear-time").overall
    assert found.verdict == "inconclusive"
    assert found.sample_size > 3
    assert found.sample_unit == "processes"


def test_linear_time_inconclusive_with_two_processes(tmp_path):
    found = verdict(speed_study(tmp_path, replicates=2), "linear-time").overall
    assert (found.verdict, found.interval, found.sample_size) == ("inconclusive", None, 3)


def test_linear_time_needs_a_factor_of_eight(tmp_path):
    found = verdict(speed_study(tmp_path, lengths=(2048, 4096, 8192)), "linear-time").overall
    assert found.verdict == "inconclusive"
    assert "factor of eight" in found.detail


def test_linear_time_needs_the_challenge(tmp_path):
    # Level over the upper 8×, but far below where the law is fitted.
    def law(tokens, length):
        return 0.05 if length < 1024 else 0.1

    hyenarec = with_law("hyenarec", law)
    found = verdict(speed_study(tmp_path, truths=truths(hyenarec=hyenarec)), "linear-time").overall
    assert found.interval[1] <= CLAIMS["linear-time"].threshold
    assert found.verdict == "inconclusive"
    assert "challenge contradicted" in found.detail


def test_linear_time_missing_names_the_cells(tmp_path):
    absent = {("hyenarec", n) for n in factories.LENGTHS}
    found = verdict(speed_study(tmp_path, absent=absent), "linear-time").overall
    assert found.verdict == "missing"
    assert "18 speed cells of hyenarec" in found.missing[0]


# --- quadratic attention --------------------------------------------------------------------------


def test_quadratic_attention_supported_per_kernel(quiet):
    found = verdict(quiet, "quadratic-attention")
    assert found.overall.verdict == "supported"
    assert {v.variant: v.verdict for v in found.variants} == {"sasrec-math": "supported", "sasrec-sdpa": "supported"}
    assert found.variants[0].statistic == pytest.approx(2.2e-8, rel=0.05)


@pytest.mark.parametrize("law", [factories.linear_law(0.01, 1e-5), factories.log_law(0.0, 0.0, 1e-6)])
def test_quadratic_attention_refuted_by_a_slower_law(tmp_path, law):
    found = verdict(
        speed_study(tmp_path, truths=truths(**{"sasrec-sdpa": with_law("sasrec-sdpa", law)})), "quadratic-attention"
    )
    own = {v.variant: v.verdict for v in found.variants}
    assert own["sasrec-math"] == "supported"
    assert own["sasrec-sdpa"] != "supported"
    if law(8192, 8192) > 1.2 * law(8192, 256):
        assert own["sasrec-sdpa"] == found.overall.verdict == "refuted"


def test_quadratic_attention_inconclusive_with_two_processes(tmp_path):
    found = verdict(speed_study(tmp_path, replicates=2), "quadratic-attention").overall
    assert (found.verdict, found.sample_size) == ("inconclusive", 3)


def test_quadratic_attention_inconclusive_with_noise_says_how_many_processes(tmp_path):
    level = {k: with_law(k, factories.linear_law(0.01, 1e-5, 2e-11)) for k in ("sasrec-math", "sasrec-sdpa")}
    noise = {"process_noise": 0.05}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise=noise, rng_seed=2), "quadratic-attention")
    for own in found.variants:
        assert own.verdict == "inconclusive"
        assert own.interval[0] < 0 < own.interval[1]
        assert own.sample_size > 3


def test_attention_claims_missing_without_attention(tmp_path):
    only = {label: factories.TRUTHS[label] for label in ("hyenarec", "gru4rec")}
    found = speed_study(tmp_path, truths=only)
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences", "no-sacrifice"):
        own = verdict(found, claim).overall
        assert own.verdict == "missing"
        assert "attention" in own.missing[0]


# --- speed-up -------------------------------------------------------------------------------------


def test_speedup_is_ruled_per_kernel(quiet):
    found = verdict(quiet, "speedup-6x")
    own = {v.variant: v for v in found.variants}
    assert own["sasrec-math"].verdict == "supported"
    assert own["sasrec-math"].interval[0] >= 6
    assert own["sasrec-sdpa"].verdict == "refuted"
    assert "within the measured lengths" in own["sasrec-sdpa"].detail
    assert found.overall.verdict == "refuted", "than attention: every kernel"
    assert "sasrec-math: supported" in found.overall.detail


def test_speedup_states_crossover_window_and_censoring(tmp_path):
    found = verdict(speed_study(tmp_path, oom={("sasrec-math", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert own.window == (256, 4096)
    assert "length 8,192 (oom)" in own.detail
    sdpa = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert "hyenarec is faster than sasrec-sdpa at " in sdpa.detail
    assert "the estimates cross at about" in sdpa.detail


def test_speedup_is_not_refuted_while_lengths_are_missing(tmp_path):
    found = verdict(speed_study(tmp_path, absent={("sasrec-sdpa", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert own.verdict == "inconclusive"
    assert "8,192" in own.missing[0]


def test_no_number_of_processes_replaces_a_length_out_of_memory(tmp_path):
    found = verdict(speed_study(tmp_path, oom={("sasrec-sdpa", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-sdpa")
    assert own.verdict == "inconclusive"
    assert own.interval[1] < 6
    assert own.sample_size is None


def test_speedup_inconclusive_with_noise_says_how_many_processes(tmp_path):
    found = verdict(speed_study(tmp_path, noise={"process_noise": 0.15}, rng_seed=5), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert own.verdict == "inconclusive"
    assert own.sample_size > 3


def test_no_speedup_without_the_control(tmp_path):
    absent = {("hyenarec", n) for n in factories.LENGTHS}
    found = speed_study(tmp_path, absent=absent)
    for claim in ("speedup-6x", "long-sequences"):
        own = verdict(found, claim).overall
        assert own.verdict == "inconclusive"
        assert any("A/A control" in what for what in own.missing)


def test_unpaired_lengths_are_named(tmp_path):
    found = verdict(speed_study(tmp_path, unpaired={("sasrec-math", 8192)}), "speedup-6x")
    own = next(v for v in found.variants if v.variant == "sasrec-math")
    assert "one after the other at 8,192" in own.detail


def in_memory(rng, chosen, process_noise, block_noise=0.01):
    """Evidence of a speed study that never touches the disk."""
    counted = []
    for label in chosen:
        for length in factories.LENGTHS:
            for replicate in range(3):
                place = factories.speed_cell(
                    label, chosen, "constant-tokens", "tokens", length, 8192 // length, replicate, ["time"]
                )
                noise = {"process_noise": process_noise, "block_noise": block_noise, "pairs": 2}
                record = factories.speed_record(place, chosen, rng, noise=noise)
                counted.append(Counted(place, record, "ok", None, False))
    folder = Folder(Manifest(study=Study(name="x"), claims=[], cells=[c.cell for c in counted]), counted, [], [], [])
    return Evidence(folder, tolerances(CLAIMS.values()))


@pytest.mark.parametrize(
    ("trials", "spread"), [(40, 0.05), *(pytest.param(2000, s, marks=pytest.mark.slow) for s in (0.03, 0.15))]
)
def test_speedup_of_five_is_falsely_supported_in_at_most_two_and_a_half_percent(trials, spread):
    five = factories.linear_law(0.0, 5e-5)
    chosen = {
        "hyenarec": dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5)),
        "sasrec-math": with_law("sasrec-math", five),
    }
    rng = np.random.default_rng(41)
    verdicts = [
        rule(CLAIMS["speedup-6x"], in_memory(rng, chosen, spread, spread)).overall.verdict for _ in range(trials)
    ]
    false = verdicts.count("supported")
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3


# A truth at the edge of each claim, where it is false by a hair or, for the law, by its kind.
FALSE = {
    "linear-time": {"hyenarec": factories.log_law(0.0, 1e-5, 5e-7)},
    "quadratic-attention": {"sasrec-math": factories.log_law(0.02, 2e-6, 1e-6)},
    "long-sequences": {"sasrec-math": factories.linear_law(0.0, 2e-5), "hyenarec": factories.linear_law(0.0, 1e-5)},
}


@pytest.mark.parametrize("claim", list(FALSE))
@pytest.mark.parametrize(
    ("trials", "spread"), [(20, 0.15), *(pytest.param(400, s, marks=pytest.mark.slow) for s in (0.03, 0.15))]
)
def test_a_false_claim_is_supported_in_at_most_two_and_a_half_percent(claim, trials, spread):
    chosen = {label: factories.TRUTHS[label] for label in ("hyenarec", "sasrec-math")}
    chosen |= {label: with_law(label, law) for label, law in FALSE[claim].items()}
    rng = np.random.default_rng(43)
    verdicts = [rule(CLAIMS[claim], in_memory(rng, chosen, spread, spread)).overall.verdict for _ in range(trials)]
    false = verdicts.count("supported")
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3


def test_an_undecided_law_says_how_many_processes_would_single_it_out(tmp_path):
    level = {k: with_law(k, factories.log_law(0.02, 2e-6, 1e-6)) for k in ("sasrec-math", "sasrec-sdpa")}
    noise = {"process_noise": 0.15}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise=noise, rng_seed=5), "quadratic-attention")
    own = found.variants[0]
    assert own.verdict == "inconclusive"
    assert own.interval[0] > 0
    assert "no single law is singled out" in own.detail
    assert own.sample_unit == "processes"
    assert own.sample_size > 3


# --- long sequences -------------------------------------------------------------------------------


def test_long_sequences_supported(quiet):
    found = verdict(quiet, "long-sequences")
    assert found.overall.verdict == "supported"
    assert all(v.statistic > 0.3 for v in found.variants)


def test_long_sequences_refuted_where_the_speedup_falls(tmp_path):
    def law(tokens, length):
        return 1.0 / math.log2(length)

    found = verdict(
        speed_study(tmp_path, truths=truths(**{"sasrec-sdpa": with_law("sasrec-sdpa", law)})), "long-sequences"
    )
    assert next(v for v in found.variants if v.variant == "sasrec-sdpa").verdict == "refuted"
    assert found.overall.verdict == "refuted"


def test_long_sequences_inconclusive_where_it_is_level(tmp_path):
    level = {k: with_law(k, factories.linear_law(0.01, 1e-5)) for k in ("sasrec-math", "sasrec-sdpa")}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise={}), "long-sequences").overall
    assert found.verdict != "supported"
    assert abs(found.statistic) < 0.02


def level_kernels(count, seed):
    """Rulings on the trend over three kernels, none of which has one."""
    names = ["sasrec-a", "sasrec-b", "sasrec-c"]
    double = with_law("sasrec-math", factories.linear_law(0.0, 2e-5))
    chosen = {"hyenarec": dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5))}
    chosen |= dict.fromkeys(names, double)
    rng = np.random.default_rng(seed)
    return [rule(CLAIMS["long-sequences"], in_memory(rng, chosen, 0.03)) for _ in range(count)]


def test_one_kernel_of_three_refutes_only_after_holm():
    found = level_kernels(80, 46)
    spared = [c for c in found if c.overall.verdict != "refuted" and "refuted" in {v.verdict for v in c.variants}]
    assert spared
    for claim in spared:
        assert claim.overall.verdict == "inconclusive"
        assert "Among 3 kernels one such is not enough (Holm's correction)." in claim.overall.detail


@pytest.mark.slow
def test_a_true_trend_is_refuted_in_at_most_two_and_a_half_percent_over_all_kernels():
    trials = 1000
    false = sum(c.overall.verdict == "refuted" for c in level_kernels(trials, 47))
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3


def test_long_sequences_missing_with_two_lengths(tmp_path):
    found = verdict(speed_study(tmp_path, lengths=(256, 512)), "long-sequences").overall
    assert found.verdict == "missing"


# --- memory ---------------------------------------------------------------------------------------


def memory_study(path, memory, **options):
    hyenarec = dataclasses.replace(factories.HYENAREC, memory=memory)
    folder = factories.make_folder(path, truths=truths(hyenarec=hyenarec), speed=False, training=False, **options)
    return verdict(analyse(folder), "linear-memory").overall


def test_linear_memory_supported(quiet):
    found = verdict(quiet, "linear-memory").overall
    assert found.verdict == "supported"
    assert found.window == (256, 2048)
    assert len(found.evidence) == 4


def test_linear_memory_refuted(tmp_path):
    found = memory_study(tmp_path, lambda b, n: 0.5 * b * n**2)
    assert found.verdict == "refuted"
    assert found.statistic == pytest.approx(2, abs=0.05)


def test_linear_memory_inconclusive_at_the_threshold_says_how_many_lengths(tmp_path):
    found = memory_study(tmp_path, lambda b, n: 500.0 * b * n**1.1)
    assert found.verdict == "inconclusive"
    assert found.sample_size > 4
    assert found.sample_unit == "lengths"


def test_linear_memory_missing(tmp_path):
    found = speed_study(tmp_path)
    assert verdict(found, "linear-memory").overall.verdict == "missing"


# --- accuracy -------------------------------------------------------------------------------------


def accuracy_study(path, aims, **options):
    chosen = {}
    for label, aim in aims.items():
        base = factories.TRUTHS.get(label.split(" ")[0], factories.HYENAREC)
        chosen[label] = dataclasses.replace(base, ndcg=aim)
    options = {"seeds": tuple(range(5)), "users": 2000, "seed_noise": 0.005, "noise": QUIET, "memory": False, **options}
    return analyse(factories.make_folder(path, truths=chosen, **options))


GOOD = {"hyenarec": 0.25, "sasrec-math": 0.18, "sasrec-sdpa": 0.17, "gru4rec": 0.12}
BAD = {"hyenarec": 0.15, "sasrec-math": 0.22, "sasrec-sdpa": 0.13, "gru4rec": 0.12}
LEVEL = {"hyenarec": 0.18, "sasrec-math": 0.18, "sasrec-sdpa": 0.18, "gru4rec": 0.12}


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


def kernels(own, fourier, mlp):
    base = factories.HYENAREC
    chosen = {"hyenarec": dataclasses.replace(base, ndcg=own)}
    for label, kernel, aim in (("hyenarec-fourier", "fourier-mlp", fourier), ("hyenarec-mlp", "legendre-mlp", mlp)):
        chosen[label] = dataclasses.replace(base, ndcg=aim, options={**base.options, "kernel": kernel})
    return chosen


@pytest.mark.parametrize(
    ("own", "fourier", "expected"), [(0.25, 0.15, "supported"), (0.15, 0.25, "refuted"), (0.2, 0.2, "inconclusive")]
)
def test_kernel(tmp_path, own, fourier, expected):
    folder = factories.make_folder(
        tmp_path,
        truths=kernels(own, fourier, 0.3),
        speed=False,
        memory=False,
        seeds=range(5),
        users=2000,
        seed_noise=0.005,
    )
    found = analyse(folder)
    own_verdict = verdict(found, "kernel").overall
    assert own_verdict.verdict == expected
    assert "hyenarec-mlp" not in own_verdict.detail, "another reading of the Legendre kernel"
    assert verdict(found, "accuracy").overall.verdict == "missing", "variants of the partner are no baselines"


def test_kernel_missing(quiet):
    assert verdict(quiet, "kernel").overall.verdict == "missing"


# --- streaming ------------------------------------------------------------------------------------


def streaming_study(path, cost, replicates=3, histories=(128, 512, 2048, 8192), drift=0.0):
    """Streamed blocks of the timing partner at 8,192, in palindromic rounds on a machine that slows down."""
    folder = factories.make_folder(path, memory=False, training=False, noise=QUIET, replicates=replicates)
    rng = np.random.default_rng(51)
    manifest = msgspec.json.decode((folder / "study.json").read_bytes(), type=Manifest)
    for cell in manifest.cells:
        if cell.label == "hyenarec" and cell.spec.length == 8192:
            record = factories.records.read(folder / cell.path)
            extra = []
            for done in range(8):
                for history in histories if done % 2 == 0 else histories[::-1]:
                    seconds = 64 * cost(history) * math.exp(drift * len(extra) + rng.normal(0, 0.01))
                    extra.append(Block(side="model", phase="stream", steps=64, seconds=seconds, history=history))
            timing = factories.timing([*record.timing.blocks, *extra])
            factories.records.write(msgspec.structs.replace(record, timing=timing), folder / cell.path)
    return analyse(folder)


@pytest.mark.parametrize(("cost", "expected"), [(lambda n: 1e-3, "supported"), (lambda n: 1e-6 * n, "refuted")])
def test_streaming(tmp_path, cost, expected):
    found = streaming_study(tmp_path, cost)
    own = verdict(found, "streaming").overall
    assert own.verdict == expected
    assert own.window == (128, 8192)
    assert "within a history of 8,192 events" in own.detail
    assert "the longer timed over 512 events of its second half" in own.detail
    assert own.statistic == pytest.approx(cost(8192) / cost(128), rel=0.03)
    assert len(own.evidence) == 3
    assert all("L8192" in path for path in own.evidence)
    assert [(p.history, p.processes) for p in found.streams] == [(n, 3) for n in (128, 512, 2048, 8192)]
    assert [p.event_seconds for p in found.streams] == pytest.approx([cost(p.history) for p in found.streams], rel=0.03)
    assert {p.phase for p in found.times} == {"step"}, "an event of one user is no step of a batch"


def test_a_slowing_machine_does_not_pass_for_a_cost_that_grows(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, drift=0.01), "streaming").overall
    assert own.statistic == pytest.approx(1.0, rel=0.05)


def test_streaming_inconclusive_with_two_processes(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, replicates=2), "streaming").overall
    assert own.verdict == "inconclusive"
    assert own.sample_size == 3


def test_streaming_needs_two_histories(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, histories=(8192,)), "streaming").overall
    assert own.verdict == "missing"
    assert any("two histories" in sentence for sentence in own.missing)


def test_streaming_missing(quiet):
    assert verdict(quiet, "streaming").overall.verdict == "missing"


# --- the claims file ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim", ["linear-time", "speedup-6x", "long-sequences", "linear-memory", "accuracy", "kernel"]
)
def test_thresholds_come_from_the_claim(tmp_path, claim):
    bare = msgspec.structs.replace(CLAIMS[claim], threshold=None)
    folder = factories.make_folder(tmp_path, lengths=(256,), claims=[bare])
    with pytest.raises(UserError, match=f"{claim}.*threshold"):
        analyse(folder)


def test_another_threshold_gives_another_verdict(tmp_path):
    folder = factories.make_folder(
        tmp_path,
        noise=QUIET,
        memory=False,
        training=False,
        claims=[msgspec.structs.replace(CLAIMS["speedup-6x"], threshold=4.0)],
    )
    assert analyse(folder).claims[0].overall.verdict == "supported"


def test_an_unknown_rule_names_the_known_ones(tmp_path):
    odd = msgspec.structs.replace(CLAIMS["accuracy"], rule="ranks-beter")
    folder = factories.make_folder(tmp_path, lengths=(256,), claims=[odd])
    with pytest.raises(UserError, match="Did you mean 'ranks-better'"):
        analyse(folder)


def test_linear_attention_is_no_witness_about_attention(tmp_path):
    linear = factories.Truth(
        name="linear-attention",
        family="attention",
        law=factories.linear_law(0.005, 9e-6),
        operations=lambda batch, length: 3e5 * batch * length,
        ndcg=0.13,
    )
    analysis = speed_study(tmp_path, truths=truths(**{"linear-attention": linear}))
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences"):
        labels = {own.variant for own in verdict(analysis, claim).variants}
        assert labels == {"sasrec-math", "sasrec-sdpa"}, claim
    assert verdict(analysis, "quadratic-attention").overall.verdict == "supported"
