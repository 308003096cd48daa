import dataclasses
import re

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from claims.studies import QUIET, truths, verdict
from harness.analysis.analyse import analyse
from harness.records import schema as records
from harness.study.claim import Card

EVENT = 1e-4


def card(rule, **fields):
    given = {"id": "serves", "rule": rule, "sentence": "It serves.", "source": "a paper", "threshold": 7.3}
    return Card(**{**given, "opponents": ["sasrec-sdpa"], "lengths": 8192, **fields})


def study(path, chosen, *, forward=None, event=None, replicates=3, noise=0.002, seed=0, **options):
    """HyenaRec streams an event in 100 µs; SASRec streams in `event` seconds and reads a history in `forward`."""
    known = truths(hyenarec=dataclasses.replace(factories.HYENAREC, event_seconds=lambda history: EVENT))
    if event is not None:
        known["sasrec-sdpa"] = dataclasses.replace(known["sasrec-sdpa"], event_seconds=lambda history: event)
    given = {"memory": False, "training": False, "noise": {**QUIET, "process_noise": noise}, "claims": [chosen]}
    options = {"lengths": (4096, 8192), "rng_seed": seed, **given, **options}
    folder = factories.make_folder(path, truths=known, replicates=replicates, **options)
    rng = np.random.default_rng(seed + 1)
    for file in (folder / "speed").rglob("*.json") if forward is not None else ():
        record = records.read(file)
        if record.timing is not None:
            own = forward if record.label == "sasrec-sdpa" else 0.02
            more = factories.blocks(rng, own, 0.02, phase="forward", **{**QUIET, "process_noise": noise})
            blocks = [*record.timing.blocks, *more]
            records.write(msgspec.structs.replace(record, timing=factories.timing(blocks)), file)
    return verdict(analyse(folder), "serves")


@pytest.mark.parametrize(("factor", "expected"), [(9.0, "supported"), (6.0, "refuted")])
def test_a_history_read_anew_against_one_more_event(tmp_path, factor, expected):
    found = study(tmp_path, card("serving-anew"), forward=factor * EVENT).overall
    assert found.verdict == expected
    assert found.statistic == pytest.approx(factor, rel=0.03)
    assert found.window == (8192, 8192)
    assert len(found.evidence) == 6
    assert "which reads the history anew" in found.measured
    own, other = re.search(r"takes hyenarec ([\d.]+) µs, sasrec-sdpa ([\d.]+) µs", found.detail).groups()
    assert (float(own), float(other)) == pytest.approx((100, 100 * factor), rel=0.03)


@pytest.mark.parametrize(("factor", "expected"), [(9.0, "supported"), (6.0, "refuted")])
def test_one_more_event_against_one_more_event(tmp_path, factor, expected):
    found = study(tmp_path, card("serving-event"), event=factor * EVENT).overall
    assert found.verdict == expected
    assert found.statistic == pytest.approx(factor, rel=0.03)
    assert "which goes on from what it remembers" in found.measured


def test_what_was_not_measured_is_missing_and_said(tmp_path):
    found = study(tmp_path / "event", card("serving-event"), forward=1.0).overall
    assert found.verdict == "missing"
    assert "streamed steps of hyenarec and the phase `stream` of sasrec-sdpa" in found.missing[0]
    found = study(tmp_path / "anew", card("serving-anew"), event=1.0).overall
    assert found.verdict == "missing"
    assert "the phase `forward` of sasrec-sdpa" in found.missing[0]


def test_several_users_a_batch_are_not_held_against_one(tmp_path):
    found = study(tmp_path, card("serving-anew", lengths=4096), forward=1.0)
    assert found.overall.verdict == "missing", "at 4,096 events the batch is 2"


def test_two_processes_or_a_missing_one_support_nothing(tmp_path):
    found = study(tmp_path / "two", card("serving-anew"), forward=1.0, replicates=2).overall
    assert (found.verdict, found.interval, found.sample_size) == ("inconclusive", None, 3)
    found = study(tmp_path / "lost", card("serving-anew"), forward=1.0, oom={("hyenarec", 4096)}).overall
    assert found.verdict == "supported", "another length than the card's"
    found = study(tmp_path / "bare", card("serving-anew", threshold=None), forward=1.0).overall
    assert found.verdict == "missing"
    assert "claim 'serves' has no threshold" in found.detail


def test_a_process_on_a_slower_machine_is_measured_by_its_partner(tmp_path):
    """Every process is up to twice as slow as the others in all it does: the ratio stays."""
    chosen = card("serving-event")
    known = truths(
        **{
            label: dataclasses.replace(factories.TRUTHS[label], event_seconds=lambda history, cost=cost: cost)
            for label, cost in (("hyenarec", EVENT), ("sasrec-sdpa", 9 * EVENT))
        }
    )
    options = {"truths": known, "memory": False, "training": False, "noise": QUIET, "lengths": (8192,)}
    folder, rng = factories.make_folder(tmp_path, **options, claims=[chosen]), np.random.default_rng(3)
    for file in sorted((folder / "speed").rglob("*.json")):
        record, slow = records.read(file), rng.uniform(1, 2)
        blocks = [msgspec.structs.replace(b, seconds=slow * b.seconds) for b in record.timing.blocks]
        records.write(msgspec.structs.replace(record, timing=factories.timing(blocks)), file)
    found = verdict(analyse(folder), "serves").overall
    assert found.verdict == "supported"
    assert found.statistic == pytest.approx(9, rel=0.03)


@pytest.mark.parametrize(("rule", "trials"), [("serving-anew", 8), ("serving-event", 8)])
def test_false_verdicts_on_the_edge_in_short(tmp_path, rule, trials):
    counts = edge(tmp_path, rule, trials)
    assert all(stats.binomtest(count, trials, 0.025, alternative="greater").pvalue > 1e-3 for count in counts)


@pytest.mark.simulation
@pytest.mark.parametrize("rule", ["serving-anew", "serving-event"])
def test_false_verdicts_on_the_edge_are_seldom(tmp_path, rule):
    counts = edge(tmp_path, rule, 120)
    assert all(stats.binomtest(count, 120, 0.025, alternative="greater").pvalue > 1e-3 for count in counts)


def edge(path, rule, trials):
    """How often a ratio of just the threshold is said to be above it, and below."""
    which = {"forward" if rule == "serving-anew" else "event": 7.3 * EVENT}
    options = {"noise": 0.05, "lengths": (8192,), **which}
    found = [
        study(path / str(seed), card(rule), seed=seed, **options).overall.verdict
        for seed in range(1000, 1000 + 2 * trials, 2)
    ]
    return found.count("supported"), found.count("refuted")
