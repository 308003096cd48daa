import dataclasses
import re

import factories
import msgspec
import numpy as np
import pytest

from claims.studies import truths, verdict
from harness.analysis.analyse import analyse
from harness.records import schema as records
from harness.records.schema import encode, write_atomic
from harness.study.cells import cells
from harness.study.claim import Card
from harness.study.manifest import Manifest
from harness.study.schema import SpeedSection, Study, Sweep

TINY = 16 * factories.HYENAREC.parameters


def card(**fields):
    given = {"id": "less", "rule": "memory-saving", "sentence": "It saves.", "source": "a paper", "lengths": 2048}
    return Card(**{**given, "opponents": ["sasrec-math"], "threshold": 0.8, "margin": 0.05, **fields})


def study(path, share, change=None, claims=None):
    """A study at 2,048 events in which HyenaRec's whole peak is `share` of SASRec's."""
    other = dataclasses.replace(factories.TRUTHS["sasrec-math"], memory=lambda batch, length: 1e9 - TINY)
    own = dataclasses.replace(factories.HYENAREC, memory=lambda batch, length: share * 1e9 - TINY)
    chosen = truths(**{"hyenarec": own, "sasrec-math": other})
    folder = factories.make_folder(path, truths=chosen, speed=False, training=False, claims=claims or [card()])
    for file in (folder / "speed").rglob("*.json"):
        record = records.read(file)
        if change is not None:
            records.write(change(record), file)
    return verdict(analyse(folder), "less")


@pytest.mark.parametrize(
    ("share", "expected"), [(0.15, "supported"), (0.3, "refuted"), (0.19, "inconclusive"), (0.21, "inconclusive")]
)
def test_the_share_saved_decides_beyond_the_margin(tmp_path, share, expected):
    found = study(tmp_path, share).overall
    assert found.verdict == expected
    assert found.statistic == pytest.approx(1 - share, abs=0.01)
    assert found.window == (2048, 2048)
    assert len(found.evidence) == 2
    assert all("L2048" in path for path in found.evidence)
    assert found.interval is None, "a margin is no interval"


def test_the_whole_peak_counts_not_what_grows_alone(tmp_path):
    found = study(tmp_path, 0.15).overall
    assert f"Of these {TINY / 2**20:,.0f} MiB" in found.detail
    assert found.statistic == pytest.approx(0.85, abs=0.01)


def test_the_devices_view_is_a_verdict_of_its_own(tmp_path):
    """Its allocator holds twice what HyenaRec's tensors take."""

    def on_a_gpu(record):
        held = record.memory.peak_bytes * (2 if record.label == "hyenarec" else 1)
        memory = msgspec.structs.replace(record.memory, method="torch allocator", device_peak_bytes=held)
        return msgspec.structs.replace(record, memory=memory)

    found = study(tmp_path, 0.15, on_a_gpu)
    own = {v.variant: v.verdict for v in found.variants}
    assert own == {"sasrec-math": "supported", "sasrec-math, device": "refuted"}
    assert found.overall.verdict == "refuted"
    assert "the device's own view" in found.variants[1].detail


def test_an_opponent_out_of_memory_is_missing(tmp_path):
    def out(record):
        if record.label == "sasrec-math" and record.length == 2048:
            return msgspec.structs.replace(record, status="oom", memory=None, detail="torch: not enough memory")
        return record

    found = study(tmp_path, 0.15, out).overall
    assert found.verdict == "missing"
    assert "length 2,048 (oom)" in found.missing[0]


def test_threshold_and_margin_are_needed(tmp_path):
    for field in ("threshold", "margin"):
        found = study(tmp_path / field, 0.15, claims=[card(**{field: None})]).overall
        assert found.verdict == "missing"
        assert f"claim 'less' has no {field}" in found.detail


def test_a_challenger_that_is_not_the_timing_partner_is_held_against_memory_passes_of_its_opponents(tmp_path):
    chosen = card(challenger="gru4rec", opponents=["sasrec"], lengths=16)
    write_atomic(tmp_path / "cards.yaml", encode([chosen]))
    speed = SpeedSection(
        models=["hyenarec", "gru4rec", "sasrec"],
        sweeps={"m": Sweep(batch=4, lengths=[16], replicates=1, measure=["memory"])},
    )
    study = Study(name="mine", device="cpu", speed=speed, claims=[str(tmp_path / "cards.yaml")])
    found, rng = list(cells(study)), np.random.default_rng(0)
    known = {**truths(), "sasrec": factories.TRUTHS["sasrec-math"]}
    # Once beside the timing partner, and the challenger's beside itself.
    places = [(c.label, c.spec.partner.label) for c in found]
    assert sorted(places) == [
        ("gru4rec", "gru4rec"),
        ("gru4rec", "hyenarec"),
        ("hyenarec", "hyenarec"),
        ("sasrec", "hyenarec"),
    ]
    for place in found:
        records.write(factories.speed_record(place, known, rng), tmp_path / place.path)
    write_atomic(tmp_path / "study.json", encode(Manifest(study=study, claims=[chosen], cells=found)))
    analysis = analyse(tmp_path)
    assert verdict(analysis, "less").overall.verdict == "refuted", "the same weights, little else"
    assert sorted(point.label for point in analysis.memory) == ["gru4rec", "hyenarec", "sasrec"]


@pytest.mark.parametrize(("share", "word"), [(0.3, "less"), (1.5, "more"), (1.02, "more")])
def test_who_takes_more_is_said_so(tmp_path, share, word):
    measured = study(tmp_path, share).overall.measured
    found = re.match(r"([\d.]+) % (less|more) memory \[(-?[\d.]+), (-?[\d.]+)\] than sasrec-math", measured)
    assert found, measured
    value, low, high = (float(found[place]) for place in (1, 3, 4))
    assert found[2] == word
    assert value == pytest.approx(100 * abs(1 - share), abs=1)
    assert low < value < high, "the interval has the sense of the word"
