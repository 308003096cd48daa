import math

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analysis.estimates import speedup
from harness.analysis.estimates.timing import Group
from harness.analysis.rows import NoiseFloor, SpeedupPoint
from harness.records.schema import Block

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


def record(blocks, paired=True):
    place = factories.speed_cell("sasrec-sdpa", factories.TRUTHS, "constant-tokens", "tokens", 1024, 8, 0, ["time"])
    rng = np.random.default_rng(0)
    return factories.speed_record(place, factories.TRUTHS, rng, timing=factories.timing(blocks, paired=paired))


def block(side, seconds, steps=1, phase="step"):
    return Block(side=side, phase=phase, steps=steps, seconds=seconds)


def group(label, length, rng, ratio, **noise):
    """Three processes whose model takes `ratio` times as long as the partner."""
    found = [record(factories.blocks(rng, 0.1 * ratio, 0.1, **noise)) for _ in range(3)]
    return Group(label, "constant-tokens", "tokens", "step", length, 8192 // length, ("a", "b", "c"), tuple(found))


def point(length, factors):
    return SpeedupPoint(
        label="x",
        partner="hyenarec",
        sweep="s",
        length=length,
        processes=len(factors),
        process_speedups=list(factors),
        pairs=4,
        speedup=math.exp(np.mean(np.log(factors))),
        interval=None,
        simultaneous=None,
        paired=True,
        faster=False,
        slower=False,
    )


def points(law, spread=0.01, lengths=LENGTHS, seed=1):
    rng = np.random.default_rng(seed)
    return [point(n, law(n) * np.exp(rng.normal(0, spread, 3))) for n in lengths]


def test_pairs_are_adjacent_blocks_each_used_once():
    blocks = [
        block("model", 2.0),
        block("partner", 1.0),
        block("partner", 2.0, steps=2),
        block("model", 6.0, steps=2),
        block("model", 9.0, phase="forward"),
    ]
    assert np.exp(speedup.log_ratios(record(blocks))) == pytest.approx([2.0, 3.0])


def test_drift_of_the_machine_cancels():
    rng = np.random.default_rng(2)
    found = record(factories.blocks(rng, 0.3, 0.1, process_noise=0, block_noise=0, drift=1.0, pairs=10))
    assert math.exp(speedup.process_log_ratio(found)) == pytest.approx(3.0)


def drifting(order):
    """Blocks on a machine that slows by 10 % from block to block."""
    return [block(side, 1.1**place) for place, side in enumerate(order)]


def test_balanced_order_cancels_a_steady_drift_and_a_fixed_order_would_not():
    names = {"A": "model", "B": "partner"}
    balanced = record(drifting(names[c] for c in "ABBAABBA"))
    fixed = record(drifting(names[c] for c in "ABABABAB"))
    assert speedup.process_log_ratio(balanced) == pytest.approx(0.0, abs=1e-12)
    assert speedup.process_log_ratio(fixed) == pytest.approx(-math.log(1.1))


def test_unpaired_records_give_one_ratio_of_medians():
    blocks = [block("model", s) for s in (1.0, 3.0, 2.0)] + [block("partner", s) for s in (0.5, 0.4, 0.6)]
    assert np.exp(speedup.log_ratios(record(blocks, paired=False))) == pytest.approx([4.0])


def test_a_side_without_blocks_gives_no_ratio():
    assert speedup.process_log_ratio(record([block("model", 1.0)])) is None
    assert speedup.process_log_ratio(record([block("model", 1.0)], paired=False)) is None


def test_speedup_interval_covers():
    rng = np.random.default_rng(3)
    trials = 2000
    hits = 0
    for _ in range(trials):
        values = [
            np.median(speedup.log_ratios(record(factories.blocks(rng, 0.3, 0.1, process_noise=0.02, pairs=2))))
            for _ in range(3)
        ]
        low, high = speedup.statistics.estimate(values).interval()
        hits += low <= math.log(3) <= high
    assert stats.binomtest(hits, trials, 0.95, alternative="less").pvalue > 1e-3


def test_control_covers_one_and_noise_floor_is_its_largest_departure():
    rng = np.random.default_rng(4)
    groups = [group("hyenarec", n, rng, 1.0) for n in LENGTHS]
    found = speedup.controls(groups, "hyenarec")
    assert all(c.covers_one for c in found)
    floor = speedup.noise_floors(found)[0]
    assert floor.factor == pytest.approx(max(max(c.simultaneous[1], 1 / c.simultaneous[0]) for c in found))
    assert floor.all_cover_one is True


def test_a_biased_control_does_not_cover_one():
    rng = np.random.default_rng(5)
    groups = [group("hyenarec", n, rng, 1.3, process_noise=0.001, block_noise=0.001) for n in LENGTHS]
    floor = speedup.noise_floors(speedup.controls(groups, "hyenarec"))[0]
    assert floor.all_cover_one is False
    assert floor.factor > 1.3


def test_a_speedup_within_the_noise_floor_is_not_faster():
    rng = np.random.default_rng(6)
    quiet = {"process_noise": 0.0005, "block_noise": 0.0005}
    own = [group("hyenarec", n, rng, 1.1, **quiet) for n in LENGTHS]
    other = [group("x", n, rng, 1.05, **quiet) for n in LENGTHS]
    floors = speedup.noise_floors(speedup.controls(own, "hyenarec"))
    found = speedup.speedups([*own, *other], "hyenarec", floors)
    assert all(p.simultaneous[0] > 1 for p in found)
    assert not any(p.faster for p in found)
    slow = speedup.speedups([group("x", 256, rng, 0.5, **quiet)], "hyenarec", floors)
    assert slow[0].slower


def test_without_a_control_nothing_is_faster():
    rng = np.random.default_rng(7)
    found = speedup.speedups([group("x", 256, rng, 9.0)], "hyenarec", [])
    assert found[0].interval[0] > 1
    assert not found[0].faster


def test_trend_is_the_exponent_of_the_speedup():
    row, _ = speedup.trend(points(lambda n: (n / 1000) ** 0.7))
    assert row.slope == pytest.approx(0.7, abs=0.02)
    assert row.interval[0] < 0.7 < row.interval[1]


def test_trend_interval_covers():
    trials = 1000
    hits = 0
    for seed in range(trials):
        low, high = speedup.trend(points(lambda n: (n / 1000) ** 0.5, spread=0.03, seed=seed))[0].interval
        hits += low <= 0.5 <= high
    assert stats.binomtest(hits, trials, 0.95, alternative="less").pvalue > 1e-3


def test_crossover_is_interpolated_and_its_interval_covers():
    found = speedup.crossover(points(lambda n: n / 1500))
    assert found.state == "crosses"
    assert found.bracket == (1024, 2048)
    assert found.interval[0] < 1500 < found.interval[1]
    assert found.length == pytest.approx(1500, rel=0.05)


@pytest.mark.parametrize(
    ("law", "state"),
    [
        (lambda n: 2.0, "below"),
        (lambda n: 0.5, "above"),
        (lambda n: 1500 / n, "falls"),
        (lambda n: n / 1500, "crosses"),
    ],
)
def test_crossover_states(law, state):
    found = speedup.crossover(points(law))
    assert found.state == state
    assert (found.length is None) == (state in ("below", "above"))
    assert found.sentence.endswith(".")


def flagged(ratios):
    """Points with these speed-ups, told apart from 1 where they are 10 % off."""
    rows = [point(n, [ratio] * 3) for n, ratio in zip(LENGTHS, ratios, strict=True)]
    return [msgspec.structs.replace(p, faster=p.speedup > 1.1, slower=p.speedup < 0.9) for p in rows]


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        ([2.0] * 6, "hyenarec is faster than x at every measured length, 256 to 8,192; any crossover lies below."),
        ([0.5] * 6, "hyenarec is slower than x at every measured length, 256 to 8,192."),
        ([1.05] * 6, "hyenarec and x are not told apart at any measured length, 256 to 8,192."),
        (
            [0.5, 0.7, 1.05, 2.0, 3.0, 4.0],
            "hyenarec is faster than x at 2,048 to 8,192, slower at 256, 512, not told apart at 1,024; "
            "the estimates cross at about 942, within 256 to 8,192.",
        ),
        (
            [1.05, 1.05, 2.0, 2.0, 1.05, 2.0],
            "hyenarec is faster than x at 1,024, 2,048, 8,192, not told apart at 256, 512, 4,096, within 256 to 8,192.",
        ),
        (
            [1.05, 1.05, 1.05, 1.05, 0.5, 0.5],
            "hyenarec is slower than x at 4,096, 8,192, not told apart at 256 to 2,048; "
            "the estimates cross at about 2,144, within 256 to 8,192.",
        ),
    ],
)
def test_words_go_by_intervals_and_not_by_estimates(ratios, sentence):
    assert speedup.crossover(flagged(ratios)).sentence == sentence


def test_equal_models_are_said_to_differ_in_at_most_five_percent():
    trials, rng, said = 120, np.random.default_rng(9), 0
    floors = [NoiseFloor(sweep="constant-tokens", factor=1.0, percent=0.0, lengths=list(LENGTHS), all_cover_one=True)]
    for _ in range(trials):
        own = [group("x", n, rng, 1.0, pairs=2) for n in LENGTHS]
        said += "not told apart at any" not in speedup.crossover(speedup.speedups(own, "hyenarec", floors)).sentence
    assert stats.binomtest(said, trials, 0.05, alternative="greater").pvalue > 1e-3


def test_crossover_with_much_noise_has_an_open_end():
    found = speedup.crossover(points(lambda n: n / 1500, spread=0.4, lengths=(1024, 2048), seed=2))
    assert found.state == "crosses"
    assert None in found.interval


def test_six_is_falsely_supported_in_at_most_two_and_a_half_percent():
    # The worst case: the truth is 6 at every length, so that any lower bound above it is false.
    rng = np.random.default_rng(8)
    trials, lengths = 4000, 6
    logs = rng.normal(math.log(6), 0.03, (trials, lengths, 3))
    half = speedup.statistics.t_quantile(2, lengths) * logs.std(axis=2, ddof=1) / math.sqrt(3)
    false = np.sum((logs.mean(axis=2) - half).max(axis=1) >= math.log(6))
    assert stats.binomtest(int(false), trials, 0.025, alternative="greater").pvalue > 1e-3
