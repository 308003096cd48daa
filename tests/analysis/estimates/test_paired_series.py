"""Cost against length from paired processes, on records with a known truth."""

import dataclasses
import math

import msgspec
import numpy as np
import pytest
from committed import analysis_of
from scipy import stats
from simulated import LENGTHS, NOISES, Noise, attention, flat, folder, rising

from harness.analysis.estimates import paired_series, scaling, timing
from harness.analysis.problems import threats

STEEP = {"hyenarec": rising(1.1), "sasrec-math": attention(6.0, 0.85, over=rising(1.1)), "gru4rec": flat}
SHARED = NOISES["shared"]


def found(noise, processes=5, costs=STEEP, seed=0, change=None):
    """Groups of one simulated study; `change` maps a record to another."""
    study = folder(np.random.default_rng(seed), costs, processes, noise)
    if change is not None:
        study = dataclasses.replace(
            study, counted=[dataclasses.replace(c, record=change(c.record)) for c in study.counted]
        )
    return timing.groups(study)


def times(record, model=1.0, partner=1.0):
    """The record with the sides' seconds multiplied."""
    factor = {"model": model, "partner": partner}
    blocks = [msgspec.structs.replace(b, seconds=b.seconds * factor[b.side]) for b in record.timing.blocks]
    return msgspec.structs.replace(record, timing=msgspec.structs.replace(record.timing, blocks=blocks))


def whole_series(groups):
    return paired_series.series(groups, "hyenarec", paired_series.arms(groups, "hyenarec"))


def of(groups, label, whole=True):
    own = [g for g in groups if g.label == label]
    if not whole:
        return timing.series(sorted(own, key=lambda g: g.length))
    return whole_series(groups)[label, "constant-tokens", "step"]


def test_every_process_counts_for_the_partner():
    groups = found(SHARED)
    whole, alone = of(groups, "hyenarec"), of(groups, "hyenarec", whole=False)
    beside = [np.log([r.timing.blocks[1].seconds for g in groups if g.length == n for r in g.records]) for n in LENGTHS]
    assert [e.mean for e in whole.logs] == pytest.approx([float(v.mean()) for v in beside])
    assert [e.count for e in whole.logs] == [e.count for e in alone.logs] == [5] * len(LENGTHS)
    assert max(e.error for e in whole.logs) < 0.8 * max(e.error for e in alone.logs)


def test_what_slows_both_sides_of_a_process_is_taken_off():
    """Nearer to the truth, by as much as three labels allow, and said to be."""
    truth = [math.log(8192 * STEEP["sasrec-math"](n)) for n in LENGTHS]
    off, said = {True: [], False: []}, {True: [], False: []}
    for seed in range(20):
        groups = found(SHARED, seed=seed)
        for whole in (True, False):
            logs = of(groups, "sasrec-math", whole).logs
            off[whole] += [e.mean - t for e, t in zip(logs, truth, strict=True)]
            said[whole] += [e.error for e in logs]
    assert np.std(off[True]) < 0.9 * np.std(off[False])
    assert np.mean(said[True]) < 0.85 * np.mean(said[False])


def test_sides_with_nothing_in_common_are_left_as_they_are():
    """The slope is near 0 there, and what is left to gain or lose with it."""
    groups = found(Noise(side=0.03, block=0.01), processes=8)
    whole, alone = of(groups, "sasrec-math"), of(groups, "sasrec-math", whole=False)
    for one, other in zip(whole.logs, alone.logs, strict=True):
        assert one.mean == pytest.approx(other.mean, abs=other.error)
        assert one.error == pytest.approx(other.error, rel=0.5)


def test_a_partner_that_is_slower_beside_one_label_is_not_shared():
    def change(record):
        return times(record, 1.0, 1.15) if record.label == "gru4rec" else record

    groups = found(SHARED, change=change)
    arm = paired_series.arms(groups, "hyenarec")["constant-tokens", "step"]
    assert arm.unlike
    assert not arm.shared
    for label in STEEP:
        assert of(groups, label) == of(groups, label, whole=False)


def test_that_it_is_not_shared_stands_among_the_threats():
    study = folder(np.random.default_rng(0), STEEP, 3, SHARED)
    words = threats(study, [], [], [], [], unlike=["constant-tokens"])
    assert any("takes another time beside some labels" in w for w in words)
    assert not any("another time" in w for w in threats(study, [], [], [], [], unlike=[]))


def test_another_machine_stands_alone():
    def change(record):
        if record.label != "gru4rec":
            return record
        environment = msgspec.structs.replace(record.environment, cpu="Another CPU")
        return msgspec.structs.replace(times(record, 2.0, 2.0), environment=environment)

    groups = found(SHARED, change=change)
    arm = paired_series.arms(groups, "hyenarec")["constant-tokens", "step"]
    assert list(arm.partner) == ["hyenarec", "sasrec-math"]
    assert of(groups, "gru4rec") == of(groups, "gru4rec", whole=False)
    assert math.exp(of(groups, "hyenarec").logs[0].mean) == pytest.approx(8192 * STEEP["hyenarec"](128), rel=0.1)


def test_sides_timed_one_after_the_other_share_nothing():
    def change(record):
        return msgspec.structs.replace(record, timing=msgspec.structs.replace(record.timing, paired=False))

    groups = found(SHARED, change=change)
    for label in STEEP:
        assert of(groups, label) == of(groups, label, whole=False)


def test_two_processes_of_its_own_give_the_partner_no_interval():
    assert {e.error for e in of(found(SHARED, processes=2), "hyenarec").logs} == {None}


def test_lengths_that_only_some_labels_have():
    groups = [g for g in found(SHARED) if g.label == "hyenarec" or g.length >= 2048]
    assert of(groups, "hyenarec").lengths == LENGTHS
    assert of(groups, "sasrec-math").lengths == (2048, 4096, 8192)


@pytest.mark.parametrize(
    ("trials", "noise", "processes"),
    [
        (60, "shared", 5),
        *(
            pytest.param(400, noise, processes, marks=pytest.mark.simulation)
            for noise in ("3 %", "shared", "uneven", "outliers")
            for processes in (3, 8)
        ),
    ],
)
def test_rises_are_covered(trials, noise, processes):
    rng = np.random.default_rng([105, list(NOISES).index(noise), processes])
    hits, counted = dict.fromkeys(STEEP, 0), 0
    for _ in range(trials):
        groups = timing.groups(folder(rng, STEEP, processes, NOISES[noise]))
        whole = whole_series(groups)
        intervals = {label: scaling.rise(whole[label, "constant-tokens", "step"])[0].interval() for label in STEEP}
        if None in intervals.values():
            # A length that lost too many processes has no interval, so there is nothing to be wrong.
            continue
        counted += 1
        for label, (low, high) in intervals.items():
            hits[label] += low <= math.log(STEEP[label](8192) / STEEP[label](1024)) <= high
    assert counted > trials / 2
    assert {k: v for k, v in hits.items() if stats.binomtest(v, counted, 0.93, alternative="less").pvalue < 1e-3} == {}


def test_the_committed_set_has_a_partner_that_is_alike_beside_all():
    """What the sharing rests on, where it was measured."""
    for threat in analysis_of("cpu-2core").problems.threats:
        assert "another time beside" not in threat
