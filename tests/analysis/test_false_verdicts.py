"""How often the rules on cost are wrong, and how often they decide, by a generator that knows nothing of them.

A rate counts as kept when the trials do not contradict it in an exact binomial test at one in a thousand; over 2,000
trials (`slow`) it must be 3.2 % at most. Seeds are fixed beforehand, one for every case.
"""

import itertools
import json

import numpy as np
import pytest
from scipy import stats
from simulated import (
    LENGTHS,
    NOISES,
    Noise,
    attention,
    curve,
    flat,
    folder,
    logs,
    rates,
    rising,
    rulings,
    verdicts,
    written,
)

from harness import cli
from harness.analysis.estimates import statistics
from harness.study.check import load_study

FALSE, MOST = 0.025, 0.032
SHORT, MIDDLE, LONG = 12, 120, 2000
COST = ("linear-time", "quadratic-attention", "speedup-6x", "long-sequences")

# Truths on the edge of a claim, so that either verdict is wrong by a hair; and ones that are wrong by their kind.
EDGE = {"hyenarec": rising(1.10), "sasrec-math": attention(6.0, 0.85, over=rising(1.10))}
LEVEL = {"hyenarec": flat, "sasrec-math": lambda length: 2 * flat(length)}
HUMP = {"hyenarec": flat, "sasrec-math": curve([1, 2, 3.5, 6, 5, 4, 3])}
WRONG = {
    "edge": (EDGE, [(c, v) for c in COST[:3] for v in ("supported", "refuted")]),
    "level": (LEVEL, [("long-sequences", "supported"), ("quadratic-attention", "supported")]),
    "hump": (HUMP, [("long-sequences", "supported")]),
    "kind": ({"hyenarec": flat, "sasrec-math": attention(6, 0.7)}, [("quadratic-attention", "supported")]),
    "steep": ({"hyenarec": flat, "sasrec-math": attention(6, 1.3)}, [("quadratic-attention", "supported")]),
}
CASES = list(itertools.product(NOISES, (3, 5, 8)))


def kept(count, trials):
    least = stats.binomtest(round(count), trials, FALSE, alternative="greater").pvalue > 1e-3
    return least and (trials < LONG or count / trials <= MOST)


def false_rates(noise, processes, trials, names=tuple(WRONG)):
    """Every rate of a wrong verdict that is too high."""
    found = {}
    for name in names:
        costs, wrong = WRONG[name]
        seed = [101, list(WRONG).index(name), CASES.index((noise, processes))]
        claims = tuple(dict.fromkeys(claim for claim, _ in wrong))
        shares = rates(costs, claims, processes, NOISES[noise], trials, seed)
        found |= {(name, *key): shares[key] for key in wrong if not kept(shares[key] * trials, trials)}
    return found


@pytest.mark.parametrize(("noise", "processes"), [("3 %", 3), ("outliers", 5)])
def test_false_verdicts_in_short(noise, processes):
    assert false_rates(noise, processes, SHORT) == {}


@pytest.mark.simulation
@pytest.mark.parametrize(("noise", "processes"), [c for c in CASES if c[1] != 5])
def test_false_verdicts_are_seldom(noise, processes):
    assert false_rates(noise, processes, MIDDLE, ("edge", "hump")) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "processes"), CASES)
def test_false_verdicts_are_seldom_in_two_thousand_studies(noise, processes):
    assert false_rates(noise, processes, LONG) == {}


@pytest.mark.parametrize(
    ("processes", "trials"),
    [(3, SHORT), pytest.param(3, MIDDLE, marks=pytest.mark.simulation), pytest.param(8, LONG, marks=pytest.mark.slow)],
)
def test_a_side_that_is_slower_whatever_it_is_lifts_no_speed_up(processes, trials):
    costs = {"hyenarec": flat, "sasrec-math": attention(5.5)}
    shares = rates(costs, ("speedup-6x",), processes, Noise(bias=1.12), trials, [102, processes])
    assert kept(shares["speedup-6x", "supported"] * trials, trials)


# --- power ---------------------------------------------------------------------------------------

EIGHT = {"hyenarec": flat, "sasrec-math": attention(8.5)}
SLOWER = {"hyenarec": rising(1.3), "sasrec-math": attention(8.5, 0.5)}
STEEPER = {"hyenarec": flat, "sasrec-math": attention(8.5, 1.3)}
POWER = [
    (EIGHT, "linear-time", "supported", "3 %", 0.95),
    (EIGHT, "speedup-6x", "supported", "3 %", 0.95),
    (EIGHT, "quadratic-attention", "supported", "3 %", 0.95),
    (EIGHT, "long-sequences", "supported", "3 %", 0.95),
    (SLOWER, "linear-time", "refuted", "3 %", 0.95),
    (SLOWER, "quadratic-attention", "refuted", "3 %", 0.95),
    (HUMP, "long-sequences", "refuted", "3 %", 0.95),
    ({"hyenarec": flat, "sasrec-math": attention(6.5)}, "speedup-6x", "supported", "3 %", 0.80),
    ({"hyenarec": flat, "sasrec-math": attention(5.5)}, "speedup-6x", "refuted", "3 %", 0.80),
    ({"hyenarec": flat, "sasrec-math": attention(5.5)}, "speedup-6x", "refuted", "outliers", 0.60),
    (EIGHT, "linear-time", "supported", "shared", 0.85),
    (EIGHT, "quadratic-attention", "supported", "shared", 0.75),
    (STEEPER, "quadratic-attention", "refuted", "shared", 0.90),
]


def reached(share, trials, promised):
    """Whether the trials do not contradict a promised power."""
    return stats.binomtest(round(share * trials), trials, promised, alternative="less").pvalue > 1e-3


def decided(place, trials, processes=8):
    costs, claim, verdict, noise, promised = POWER[place]
    share = rates(costs, (claim,), processes, NOISES[noise], trials, [103, place, processes])[claim, verdict]
    return reached(share, trials, promised)


@pytest.mark.parametrize("place", range(len(POWER)))
def test_eight_processes_decide_in_short(place):
    assert decided(place, SHORT)


@pytest.mark.simulation
@pytest.mark.parametrize("place", range(len(POWER)))
def test_eight_processes_decide(place):
    assert decided(place, MIDDLE)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(POWER)))
def test_eight_processes_decide_in_two_thousand_studies(place):
    assert decided(place, LONG)


def of_the_default():
    """Processes a length of each label that times steps in the study `make report` measures."""
    study = load_study("cpu")
    sweep = study.speed.sweeps["constant-tokens"]
    assert tuple(sweep.lengths) == LENGTHS
    return {label: sweep.replicates_at(label) for label in study.speed.models}


# What the fused kernel is to HyenaRec decides; the other two are as far from it as on the machines measured.
OTHERS = {"sasrec-math": 2.0, "sasrec-sdpa": 1.0, "sasrec-sdpa-wide": 1.15}
DEFAULT = [
    (8.5, 1.0, flat, "linear-time", "supported", "3 %", 0.95),
    (8.5, 1.0, flat, "speedup-6x", "supported", "3 %", 0.95),
    (8.5, 1.0, flat, "quadratic-attention", "supported", "3 %", 0.95),
    (8.5, 1.0, flat, "long-sequences", "supported", "3 %", 0.95),
    (8.5, 0.5, flat, "quadratic-attention", "refuted", "3 %", 0.95),
    (8.5, 1.0, rising(1.3), "linear-time", "refuted", "3 %", 0.95),
    (6.5, 1.0, flat, "speedup-6x", "supported", "3 %", 0.80),
    (5.5, 1.0, flat, "speedup-6x", "refuted", "3 %", 0.80),
    (5.5, 1.0, flat, "speedup-6x", "refuted", "outliers", 0.60),
    (8.5, 1.0, flat, "linear-time", "supported", "shared", 0.90),
    (6.5, 1.0, flat, "speedup-6x", "supported", "shared", 0.80),
    (5.5, 1.0, flat, "speedup-6x", "refuted", "shared", 0.80),
]


def the_default_decides(place, trials):
    """Whether so many studies of the default's shape, with its three kernels, do not contradict the promised power."""
    ratio, exponent, hyenarec, claim, verdict, noise, promised = DEFAULT[place]
    costs = {"hyenarec": hyenarec}
    costs |= {label: attention(factor * ratio, exponent, hyenarec) for label, factor in OTHERS.items()}
    processes = {label: of_the_default()[label] for label in costs}
    share = rates(costs, (claim,), processes, NOISES[noise], trials, [106, place])[claim, verdict]
    return reached(share, trials, promised)


def test_the_default_decides_in_short():
    assert the_default_decides(6, SHORT)


@pytest.mark.simulation
@pytest.mark.parametrize("place", range(len(DEFAULT)))
def test_the_default_decides(place):
    assert the_default_decides(place, MIDDLE)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(DEFAULT)))
def test_the_default_decides_in_two_thousand_studies(place):
    assert the_default_decides(place, LONG)


# --- intervals -----------------------------------------------------------------------------------


def coverage(noise, processes, trials):
    """Hits of the ratio at the longest length, of all ratios together, of a rise and of a slope of ratios."""
    rng = np.random.default_rng([104, CASES.index((noise, processes))])
    place = np.log(LENGTHS) - np.mean(np.log(LENGTHS))
    slope = [float(w) for w in place / (place @ place)]
    rise = [0.0] * len(LENGTHS)
    rise[-1], rise[-4] = 1.0, -1.0
    hits, counted = dict.fromkeys(("ratio", "together", "rise", "slope"), 0), 0
    for _ in range(trials):
        _, ratios = logs(rng, {"hyenarec": flat, "x": flat}, processes, NOISES[noise])
        means = statistics.related(list(ratios[1]))
        if any(e.error is None for e in means):
            # A length that lost too many processes has no interval, so there is nothing to be wrong.
            continue
        counted += 1
        inside = [low <= 0 <= high for low, high in (e.interval(len(means)) for e in means)]
        single = {
            "ratio": means[-1].interval(),
            "rise": statistics.combine([1.0, -1.0], [means[-1], means[-4]]).interval(),
            "slope": statistics.combine(slope, means).interval(),
        }
        hits["together"] += all(inside)
        for name, (low, high) in single.items():
            hits[name] += low <= 0 <= high
    return hits, counted


@pytest.mark.parametrize(("noise", "processes"), [("3 %", 3), ("outliers", 8)])
def test_coverage_of_related_lengths_in_short(noise, processes):
    hits, counted = coverage(noise, processes, 100)
    assert min(hits.values()) >= 0.85 * counted > 30


@pytest.mark.simulation
@pytest.mark.parametrize(("noise", "processes"), CASES)
def test_related_lengths_keep_their_coverage(noise, processes):
    hits, counted = coverage(noise, processes, 1000)
    few = {
        k: v / counted for k, v in hits.items() if stats.binomtest(v, counted, 0.93, alternative="less").pvalue < 1e-3
    }
    assert few == {}
    if noise in ("3 %", "15 %"):
        single = {k: v for k, v in hits.items() if k in ("ratio", "slope")}
        many = [k for k, v in single.items() if stats.binomtest(v, counted, 0.97, alternative="greater").pvalue < 1e-3]
        assert many == []


# --- several kernels -----------------------------------------------------------------------------


KERNELS = {
    "long-sequences": (LEVEL["sasrec-math"], "6 slopes"),
    # The margin's end, which is still allowed.
    "quadratic-attention": (attention(6.0, 1.15), "3 kernels"),
}


def true_of_three_kernels(claim, count, seed):
    """Rulings on a claim that is just true of three kernels."""
    costs = {"hyenarec": flat} | {f"sasrec-{k}": KERNELS[claim][0] for k in "abc"}
    rng = np.random.default_rng(seed)
    return [rulings(folder(rng, costs, 3), (claim,))[0] for _ in range(count)]


@pytest.mark.parametrize("claim", KERNELS)
def test_one_kernel_of_three_refutes_only_after_holm(claim):
    spared = [
        c
        for c in true_of_three_kernels(claim, 80, 46)
        if c.overall.verdict != "refuted" and "refuted" in {v.verdict for v in c.variants}
    ]
    assert spared
    for found in spared:
        assert found.overall.verdict == "inconclusive"
        assert f"Among {KERNELS[claim][1]} one such is not enough (Holm's correction)." in found.overall.detail


@pytest.mark.simulation
@pytest.mark.parametrize("claim", KERNELS)
def test_what_is_true_of_three_kernels_is_refuted_in_at_most_two_and_a_half_percent(claim):
    trials = 500
    false = sum(c.overall.verdict == "refuted" for c in true_of_three_kernels(claim, trials, 47))
    assert stats.binomtest(false, trials, FALSE, alternative="greater").pvalue > 1e-3


# --- in memory and on disk -----------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_files_and_verify_say_the_same_as_the_trials_in_memory(tmp_path, capsys, trials):
    rng = np.random.default_rng(105)
    for trial in range(trials):
        study = folder(rng, EDGE, 3, NOISES["outliers"])
        expected = verdicts(study, COST)
        cli.main(["verify", str(written(tmp_path / str(trial), study, COST)), "--json"])
        shown = json.loads(capsys.readouterr().out)
        assert {claim["id"]: claim["verdict"] for claim in shown["claims"]} == expected
