"""Several comparisons at once: Holm for refuting, intersection-union for "all", non-inferiority."""

import math

import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analysis.claims._ranking import Pair, weakest
from harness.analysis.claims.no_sacrifice import over_kernels
from harness.analysis.estimates import accuracy, statistics
from harness.analysis.estimates.statistics import Estimate
from harness.analysis.results import AccuracyDifference, ClaimVerdict
from harness.analysis.ruling import conjunction
from harness.study.claim import load_cards

CLAIMS = {c.id: c for c in load_cards()}
SEEDS = 5


def pair(mean, error, label="x", seeds=SEEDS, of_users=0.0):
    estimate = Estimate(mean, error, seeds - 1, seeds, of_users)
    row = AccuracyDifference(
        dataset="d", split_sha256="s", partner="hyenarec", label=label, family="attention", length=64, seeds=seeds,
        users=100, difference=mean, interval=estimate.interval(), relative=mean, relative_interval=estimate.interval(),
        method="t over seeds", p_better=None, p_worse=None, verdict="undecided",
    )  # fmt: skip
    return Pair(row, estimate, estimate, ("p",), below_reference=False)


def ruled(pairs, bound=0.0, absent=()):
    return weakest(
        CLAIMS["accuracy"], "", pairs, list(absent), bound=bound, value=lambda p: p.absolute, words="difference"
    )


def below(p_value, error=0.01):
    """A difference whose one-sided p-value of lying below 0 is `p_value`."""
    return float(stats.t.ppf(p_value, SEEDS - 1)) * error


def test_a_refutation_must_survive_holm():
    alone = pair(below(0.02), 0.01)
    assert ruled([alone]).verdict == "refuted"
    assert ruled([alone, pair(0.02, 0.01)]).verdict == "inconclusive", "2 × 0.02 is above 0.025"
    assert ruled([pair(below(0.008), 0.01), pair(0.02, 0.01), pair(0.02, 0.01)]).verdict == "refuted"


def test_the_refuting_comparison_is_named():
    found = ruled([pair(0.5, 0.01, "good"), pair(below(1e-4), 0.01, "bad")])
    assert found.verdict == "refuted"
    assert "hyenarec less bad" in found.detail


def test_all_means_every_single_one_without_correction():
    just = float(stats.t.ppf(0.976, SEEDS - 1)) * 0.01
    assert ruled([pair(just, 0.01)] * 20).verdict == "supported"
    level = [pair(just, 0.01)] * 19 + [pair(0.5 * just, 0.01)]
    assert ruled(level).verdict == "inconclusive"
    assert ruled([pair(just, 0.01)] * 20, absent=["a baseline"]).verdict == "inconclusive"


def test_inconclusive_says_how_many_seeds():
    found = ruled([pair(0.01, 0.01)])
    assert (found.verdict, found.sample_unit) == ("inconclusive", "seeds")
    spread = 0.01 * math.sqrt(SEEDS)
    enough = stats.t.ppf(0.975, found.sample_size - 1) * spread / math.sqrt(found.sample_size)
    fewer = stats.t.ppf(0.975, found.sample_size - 2) * spread / math.sqrt(found.sample_size - 1)
    assert enough < 0.01 <= fewer


def test_seeds_that_are_there_are_not_asked_for_where_it_is_the_correction_that_leaves_it_open():
    found = ruled([pair(below(0.01), 0.01), *[pair(0.1, 0.01)] * 3])
    assert found.verdict == "inconclusive"
    assert found.interval[1] < 0
    assert "Among 4 comparisons one such is not enough (Holm's correction)." in found.detail
    assert found.sample_size > SEEDS
    spread = 0.01 * math.sqrt(SEEDS)
    assert stats.t.sf(-below(0.01) / (spread / math.sqrt(found.sample_size)), found.sample_size - 1) < 0.025 / 4


def test_where_users_are_too_few_no_number_of_seeds_is_promised():
    found = ruled([pair(0.015, 0.011, of_users=0.01)])
    assert (found.verdict, found.sample_size) == ("inconclusive", None)
    assert "No number of seeds decides with 100 users." in found.detail
    assert ruled([pair(0.025, 0.013, of_users=0.01)]).sample_size > SEEDS


@pytest.mark.parametrize(
    ("mean", "expected"), [(-0.02, "supported"), (0.0, "supported"), (-0.05, "inconclusive"), (-0.09, "refuted")]
)
def test_non_inferiority_against_a_margin(mean, expected):
    margin = CLAIMS["no-sacrifice"].margin
    assert margin == 0.05
    assert ruled([pair(mean, 0.008)], bound=-margin).verdict == expected


def kernels(means, errors):
    """The overall ruling on a loss of accuracy against so many kernels, each trained."""
    claim = CLAIMS["no-sacrifice"]
    pairs = [pair(m, e, f"kernel-{i}") for i, (m, e) in enumerate(zip(means, errors, strict=True))]
    variants = [
        msgspec.structs.replace(ruled([p], bound=-claim.margin), id=claim.id, variant=p.row.label) for p in pairs
    ]
    return over_kernels(claim, variants, pairs), variants


def test_accuracy_is_given_up_by_one_kernel_of_four_only_after_holm():
    just = -0.05 + below(0.02)
    overall, variants = kernels([just, 0.1, 0.1, 0.1], [0.01] * 4)
    assert [v.verdict for v in variants] == ["refuted", *["supported"] * 3]
    assert overall.verdict == "inconclusive"
    assert "Among 4 comparisons one such is not enough (Holm's correction)." in overall.detail
    assert kernels([-0.05 + below(0.005), 0.1, 0.1, 0.1], [0.01] * 4)[0].verdict == "refuted"


def test_kernels_that_share_a_training_are_one_comparison():
    claim, shared = CLAIMS["no-sacrifice"], pair(-0.05 + below(0.02), 0.01)
    variants = [ruled([shared], bound=-claim.margin)] * 4
    assert over_kernels(claim, variants, [shared] * 4).verdict == "refuted"


def test_no_loss_beyond_the_margin_is_found_in_at_most_two_and_a_half_percent_over_four_kernels():
    trials, rng = 400, np.random.default_rng(83)
    found = []
    for _ in range(trials):
        values = [statistics.estimate(-0.05 + rng.normal(0, 0.02, SEEDS)) for _ in range(4)]
        found.append(kernels([e.mean for e in values], [e.error for e in values]))
    false = sum(overall.verdict == "refuted" for overall, _ in found)
    assert stats.binomtest(false, trials, 0.025, alternative="greater").pvalue > 1e-3
    some = sum("refuted" in {v.verdict for v in variants} for _, variants in found)
    assert stats.binomtest(some, trials, 0.025, alternative="greater").pvalue < 1e-3, "by itself it would be"


def simulated(trials, truths, seed):
    """Verdicts over comparisons whose true differences are given."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(trials):
        values = [statistics.estimate(truth + rng.normal(0, 0.02, SEEDS)) for truth in truths]
        found.append(ruled([pair(e.mean, e.error) for e in values]).verdict)
    return found


def test_true_claims_are_refuted_and_false_ones_supported_in_at_most_two_and_a_half_percent():
    trials = 800
    # The worst cases: no difference at all in any of four; three far above and one with none.
    level = simulated(trials, [0.0] * 4, 81)
    assert stats.binomtest(level.count("refuted"), trials, 0.025, alternative="greater").pvalue > 1e-3
    one_short = simulated(trials, [1.0, 1.0, 1.0, 0.0], 82)
    assert stats.binomtest(one_short.count("supported"), trials, 0.025, alternative="greater").pvalue > 1e-3
    assert stats.binomtest(one_short.count("supported"), trials, 0.025, alternative="less").pvalue > 1e-3


def test_without_holm_the_first_would_not_hold():
    trials = 2000
    rng = np.random.default_rng(81)
    values = rng.normal(0, 0.02, (trials, 4, SEEDS))
    p = stats.ttest_1samp(values, 0, axis=2, alternative="less").pvalue
    naive = int((p.min(axis=1) < statistics.ONE_SIDED).sum())
    assert stats.binomtest(naive, trials, 0.025, alternative="greater").pvalue < 1e-3


def test_p_values_meet_the_interval():
    estimate = Estimate(0.01, 0.004, SEEDS - 1, SEEDS)
    low, _ = estimate.interval()
    assert accuracy.p_values(estimate, low)[0] == pytest.approx(0.025)


@pytest.mark.parametrize(("larger_is_stronger", "weakest"), [(True, 6.5), (False, 19.0)])
def test_a_claim_of_several_parts_shows_the_part_that_speaks_least_for_it(larger_is_stronger, weakest):
    parts = [ClaimVerdict(id="c", variant=str(v), verdict="supported", statistic=v) for v in (19.0, 6.5, 7.2)]
    overall = conjunction(CLAIMS["speedup-6x"], parts, "nothing", larger_is_stronger=larger_is_stronger)
    assert (overall.verdict, overall.statistic, overall.variant) == ("supported", weakest, "")


def test_how_many_would_decide_comes_with_what_they_are():
    def part(statistic, size, unit):
        return ClaimVerdict(
            id="c", variant="v", verdict="inconclusive", statistic=statistic, sample_size=size, sample_unit=unit
        )

    # The part that is shown is not the one that needs most.
    overall = conjunction(CLAIMS["no-sacrifice"], [part(0.1, None, ""), part(0.2, 11, "seeds")], "nothing")
    assert (overall.statistic, overall.sample_size, overall.sample_unit) == (0.1, 11, "seeds")
