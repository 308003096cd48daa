"""Whether the statistics keep their word: intervals that cover, laws and verdicts that are seldom wrong.

Records with a known truth, noise per process and per block, seeds fixed beforehand. A rate counts as kept
when 2,000 trials do not contradict it in an exact binomial test at one in a thousand.
"""

import itertools
import math

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analysis.estimates import scaling, speedup, statistics, timing
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.timing import Group
from harness.analysis.load import Counted, Folder
from harness.records.schema import Block
from harness.study.manifest import Manifest
from harness.study.schema import Study

TRIALS, SHORT = 2000, 60
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
TOKENS, BATCH, FIXED, BLOCKS = 16384, 8, 0.02, 6
GROWTH = {"constant": 0.0, "log": 1e-6, "linear": 6e-9}
PER_TOKEN = {"constant": 1e-5, "log": 2e-6, "linear": 5e-6}
# A seed for every case, by its place here: the same draws, scaled, would be one case tested many times.
# Cost per token and fixed cost of every law are of the size measured on two cores.
CASES = list(itertools.product(GROWTH, ("tokens", "batch"), (3, 5), (0.03, 0.15)))
NAMED = list(itertools.product(GROWTH, (3, 5), (0.03, 0.15)))


def tokens_at(constant, length):
    return TOKENS if constant == "tokens" else BATCH * length


def step(law, constant, length):
    w = {"constant": 0.0, "log": math.log2(length), "linear": length}[law]
    return FIXED + tokens_at(constant, length) * (PER_TOKEN[law] + GROWTH[law] * w)


def series(law, constant, logs):
    """A series from `[lengths, processes]` log errors."""
    means = np.log([step(law, constant, n) for n in LENGTHS])
    estimates = tuple(statistics.related(list(means[:, None] + logs)))
    return Series(LENGTHS, tuple(tokens_at(constant, n) for n in LENGTHS), estimates)


def errors(rng, trials, processes, spread):
    """`[trials, lengths, processes]` logs: a process's own error plus that of its blocks' median."""
    shape = (trials, len(LENGTHS), processes)
    blocks = np.exp(rng.normal(0, spread, (*shape, BLOCKS)))
    return rng.normal(0, spread, shape) + np.log(np.median(blocks, axis=-1))


@pytest.mark.parametrize("constant", ["tokens", "batch"])
def test_a_simulated_series_is_that_of_records(constant):
    """The trials skip the files, not the analysis: records with the same blocks give the same series."""
    rng = np.random.default_rng(60)
    chosen = {"x": factories.TRUTHS["sasrec-sdpa"]}
    own, blocks = rng.normal(0, 0.15, (len(LENGTHS), 3)), np.exp(rng.normal(0, 0.15, (len(LENGTHS), 3, BLOCKS)))
    counted = []
    for place, length in enumerate(LENGTHS):
        batch = tokens_at(constant, length) // length
        for process in range(3):
            cell = factories.speed_cell(
                "x", {**chosen, "hyenarec": factories.HYENAREC}, "s", constant, length, batch, process, ["time"]
            )
            record = factories.speed_record(cell, {**chosen, "hyenarec": factories.HYENAREC}, rng)
            level = step("linear", constant, length) * math.exp(own[place, process])
            timed = [
                Block(side="model", phase="step", steps=2, seconds=2 * level * float(b), minor_faults=0)
                for b in blocks[place, process]
            ]
            record = msgspec.structs.replace(record, timing=factories.timing(timed))
            counted.append(Counted(cell, record, "ok", None, False))
    folder = Folder(Manifest(study=Study(name="x"), claims=[], cells=[c.cell for c in counted]), counted, [], [], [])
    found = timing.series(timing.groups(folder))
    expected = series("linear", constant, own + np.log(np.median(blocks, axis=-1)))
    assert (found.lengths, found.tokens) == (expected.lengths, expected.tokens)
    for one, other in zip(found.logs, expected.logs, strict=True):
        assert (one.mean, one.error) == pytest.approx((other.mean, other.error), rel=1e-12)


def kept(hits, trials):
    """Neither fewer than 93 % nor more than 97 %."""
    few = stats.binomtest(int(hits), trials, 0.93, alternative="less").pvalue
    many = stats.binomtest(int(hits), trials, 0.97, alternative="greater").pvalue
    return min(few, many) > 1e-3


def at_most(count, trials, rate):
    return stats.binomtest(int(count), trials, rate, alternative="greater").pvalue > 1e-3


def at_least(count, trials, rate):
    return stats.binomtest(int(count), trials, rate, alternative="less").pvalue > 1e-3


def law_coverage(law, constant, processes, spread, trials):
    """Hits per quantity and what they are of; the growing part of a cost quadratic per sequence has the exponent 2."""
    rng = np.random.default_rng([61, CASES.index((law, constant, processes, spread))])
    # A cost per token that does not grow has a growth of 0 by either growing law.
    grows = [name for name in ("log", "linear") if law in ("constant", name)]
    hits = dict.fromkeys([*grows, *(["fixed"] if constant == "batch" else [])], 0)
    if law == "linear":
        hits["exponent"] = 0
    counted = 0
    for logs in errors(rng, trials, processes, spread):
        own = series(law, constant, logs)
        if any(e.error is None for e in own.logs):
            # By chance one of three lies far from the others: then there is no interval to be wrong.
            continue
        counted += 1
        found = {f.law: f for f in scaling.fits(own)}
        for name in grows:
            low, high = found[name].growth_interval
            hits[name] += low <= GROWTH[law] <= high
        if constant == "batch":
            low, high = found[law].fixed_interval
            hits["fixed"] += low <= FIXED <= high
        if law == "linear":
            low, high = scaling.exponent("x", "s", own).interval
            hits["exponent"] += (low is None or low <= 2) and (high is None or high >= 2)
    return hits, counted


@pytest.mark.simulation
@pytest.mark.parametrize(("law", "constant", "processes", "spread"), CASES)
def test_growth_fixed_cost_and_exponent_are_covered(law, constant, processes, spread):
    hits, counted = law_coverage(law, constant, processes, spread, TRIALS)
    assert counted > 0.98 * TRIALS
    few = {name: count / counted for name, count in hits.items() if not at_least(count, counted, 0.93)}
    assert few == {}
    # Borrowed spreads are taken as less equal than they are here, and a profile widens where the law misfits by chance.
    wide = {name: count / counted for name, count in hits.items() if not at_most(count, counted, 0.985)}
    assert wide == {}


@pytest.mark.parametrize("constant", ["tokens", "batch"])
def test_coverage_in_short(constant):
    hits, counted = law_coverage("linear", constant, 3, 0.03, SHORT)
    assert counted > SHORT / 2
    for count in hits.values():
        assert at_least(count, counted, 0.93)


def ratio_coverage(law, processes, spread, trials):
    rng = np.random.default_rng([62, NAMED.index((law, processes, spread))])
    chosen = {"hyenarec": factories.HYENAREC, "x": factories.TRUTHS["sasrec-sdpa"]}
    place = factories.speed_cell("x", chosen, "constant-tokens", "tokens", 1024, 16, 0, ["time"])
    plain = factories.speed_record(place, chosen, rng)
    own, partner = step(law, "tokens", 1024), step("constant", "tokens", 1024)
    noise = {"process_noise": spread, "block_noise": spread}
    hits = 0
    for _ in range(trials):
        found = [
            msgspec.structs.replace(plain, timing=factories.timing(factories.blocks(rng, own, partner, **noise)))
            for _ in range(processes)
        ]
        group = Group("x", "constant-tokens", "tokens", "step", 1024, 16, ("p",) * processes, tuple(found))
        low, high = speedup.log_estimate(group).interval()
        hits += low <= math.log(own / partner) <= high
    return hits


@pytest.mark.simulation
@pytest.mark.parametrize(("law", "processes", "spread"), NAMED)
def test_the_paired_ratio_is_covered(law, processes, spread):
    assert kept(ratio_coverage(law, processes, spread, TRIALS), TRIALS)


def test_ratio_coverage_in_short():
    assert kept(ratio_coverage("linear", 3, 0.15, SHORT), SHORT)


def named(law, processes, spread, trials, constant="tokens"):
    """How often a wrong law is named, and the right one."""
    rng = np.random.default_rng([63, NAMED.index((law, processes, spread))])
    wrong = right = 0
    for logs in errors(rng, trials, processes, spread):
        own = series(law, constant, logs)
        chosen, _ = scaling.choose(own, scaling.fits(own))
        wrong += chosen not in (None, law)
        right += chosen == law
    return wrong, right


@pytest.mark.simulation
@pytest.mark.parametrize(("law", "processes", "spread"), NAMED)
def test_a_wrong_law_is_seldom_named_and_the_right_one_mostly(law, processes, spread):
    wrong, right = named(law, processes, spread, TRIALS)
    assert at_most(wrong, TRIALS, 0.05)
    if spread == 0.03:
        assert at_least(right, TRIALS, 0.90)


@pytest.mark.simulation
@pytest.mark.parametrize(("law", "processes", "spread"), NAMED)
def test_at_a_constant_batch_a_wrong_law_is_seldom_named(law, processes, spread):
    # Fixed cost is told apart there, which costs the power to name the right one.
    wrong, _ = named(law, processes, spread, 400, "batch")
    assert at_most(wrong, 400, 0.05)


@pytest.mark.parametrize("law", list(GROWTH))
def test_laws_are_named_in_short(law):
    wrong, right = named(law, 3, 0.03, SHORT)
    assert at_most(wrong, SHORT, 0.05)
    assert at_least(right, SHORT, 0.90)


def test_a_rate_far_off_is_noticed():
    # The yardstick itself: intervals resampled from one t distribution a length cover nearly always.
    assert not kept(TRIALS, TRIALS)
    assert not kept(0.91 * TRIALS, TRIALS)
    assert not at_most(0.075 * TRIALS, TRIALS, 0.05)
    assert not at_least(0.87 * TRIALS, TRIALS, 0.90)
