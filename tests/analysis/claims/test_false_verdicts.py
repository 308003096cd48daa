import dataclasses
import itertools

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from claims.studies import CLAIMS, with_law
from harness.analysis.evidence import Evidence
from harness.analysis.load import Counted, Folder
from harness.analysis.ruling import rule, tolerances
from harness.study.manifest import Manifest
from harness.study.schema import Study


def rulings(claim, chosen, trials, seed, process_noise, block_noise=0.01):
    """What a card's rule says of so many speed studies, which differ in their blocks alone and never touch the disk."""
    rng = np.random.default_rng(seed)
    places = [
        factories.speed_cell(label, chosen, "constant-tokens", "tokens", length, 8192 // length, replicate, ["time"])
        for label, length, replicate in itertools.product(chosen, factories.LENGTHS, range(3))
    ]
    manifest = Manifest(study=Study(name="x"), claims=[], cells=places)
    plain = [factories.speed_record(place, chosen, np.random.default_rng()) for place in places]
    noise = {"process_noise": process_noise, "block_noise": block_noise, "pairs": 2}

    def counted(place, record):
        seconds = [chosen[label].law(8192, place.spec.length) for label in (place.label, "hyenarec")]
        timing = factories.timing(factories.blocks(rng, *seconds, **noise))
        return Counted(place, msgspec.structs.replace(record, timing=timing), "ok", None, False)

    tolerated = tolerances(CLAIMS.values())
    for _ in range(trials):
        folder = Folder(manifest, list(map(counted, places, plain)), [], [], [])
        yield rule(CLAIMS[claim], Evidence(folder, tolerated))


@pytest.mark.parametrize(
    ("trials", "spread"), [(40, 0.05), *(pytest.param(2000, s, marks=pytest.mark.simulation) for s in (0.03, 0.15))]
)
def test_speedup_of_five_is_falsely_supported_in_at_most_two_and_a_half_percent(trials, spread):
    five = factories.linear_law(0.0, 5e-5)
    chosen = {
        "hyenarec": dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5)),
        "sasrec-math": with_law("sasrec-math", five),
    }
    found = rulings("speedup-6x", chosen, trials, 41, spread, spread)
    false = sum(claim.overall.verdict == "supported" for claim in found)
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3


# A truth at the edge of each claim, where it is false by a hair or, for the law, by its kind.
FALSE = {
    "linear-time": {"hyenarec": factories.log_law(0.0, 1e-5, 5e-7)},
    "quadratic-attention": {"sasrec-math": factories.log_law(0.02, 2e-6, 1e-6)},
    "long-sequences": {"sasrec-math": factories.linear_law(0.0, 2e-5), "hyenarec": factories.linear_law(0.0, 1e-5)},
}


@pytest.mark.parametrize("claim", list(FALSE))
@pytest.mark.parametrize(
    ("trials", "spread"), [(20, 0.15), *(pytest.param(400, s, marks=pytest.mark.simulation) for s in (0.03, 0.15))]
)
def test_a_false_claim_is_supported_in_at_most_two_and_a_half_percent(claim, trials, spread):
    chosen = {label: factories.TRUTHS[label] for label in ("hyenarec", "sasrec-math")}
    chosen |= {label: with_law(label, law) for label, law in FALSE[claim].items()}
    found = rulings(claim, chosen, trials, 43, spread, spread)
    false = sum(ruling.overall.verdict == "supported" for ruling in found)
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3


def level_kernels(count, seed):
    """Rulings on the trend over three kernels, none of which has one."""
    names = ["sasrec-a", "sasrec-b", "sasrec-c"]
    double = with_law("sasrec-math", factories.linear_law(0.0, 2e-5))
    chosen = {"hyenarec": dataclasses.replace(factories.HYENAREC, law=factories.linear_law(0.0, 1e-5))}
    chosen |= dict.fromkeys(names, double)
    return rulings("long-sequences", chosen, count, seed, 0.03)


def test_one_kernel_of_three_refutes_only_after_holm():
    spared = [
        c
        for c in level_kernels(80, 46)
        if c.overall.verdict != "refuted" and "refuted" in {v.verdict for v in c.variants}
    ]
    assert spared
    for claim in spared:
        assert claim.overall.verdict == "inconclusive"
        assert "Among 6 slopes one such is not enough (Holm's correction)." in claim.overall.detail


@pytest.mark.simulation
def test_a_true_trend_is_refuted_in_at_most_two_and_a_half_percent_over_all_kernels():
    trials = 1000
    false = sum(c.overall.verdict == "refuted" for c in level_kernels(trials, 47))
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3
