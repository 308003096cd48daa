import math

import factories
import msgspec
import numpy as np
import pytest

from harness.analysis.analyse import analyse
from harness.analysis.evidence import Evidence
from harness.analysis.load import Counted, Folder
from harness.analysis.ruling import rule
from harness.study.claim import load_cards
from harness.study.manifest import Manifest
from harness.study.schema import Study


def test_exponent_comes_from_the_constant_batch_only(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    own = {e.label: e for e in found.exponents if e.quantity == "memory"}
    assert set(own) == set(factories.TRUTHS)
    assert {e.sweep for e in own.values()} == {"constant-batch"}
    assert own["hyenarec"].exponent == pytest.approx(1, abs=0.05)
    assert own["sasrec-math"].exponent > 1.6
    assert own["hyenarec"].window == (256, 4096)


def test_net_peak_leaves_out_what_a_tiny_batch_needs(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    for point in found.memory:
        assert point.net_bytes == point.peak_bytes - point.tiny_peak_bytes
        truth = factories.TRUTHS[point.label]
        assert point.net_bytes == pytest.approx(truth.memory(point.batch, point.length), rel=0.05)


def test_local_slopes_between_neighbours(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    own = [s for s in found.local_slopes if s.quantity == "memory" and s.label == "sasrec-math"]
    assert [s.lengths for s in own] == [(256, 512), (512, 1024), (1024, 2048), (2048, 4096)]
    assert own[0].slope < own[-1].slope < 2.1


def ruled(bytes_at, lengths=(256, 512, 1024, 2048, 4096)):
    """The ruling on net peaks that are exactly so."""
    rng, counted = np.random.default_rng(0), []
    for length in lengths:
        cell = factories.speed_cell("hyenarec", factories.TRUTHS, "s", "batch", length, 4, 0, ["memory"])
        record = factories.speed_record(cell, factories.TRUTHS, rng)
        exact = record.memory.tiny_peak_bytes + round(1000 * bytes_at(length))
        used = msgspec.structs.replace(record.memory, peak_bytes=exact)
        counted.append(Counted(cell, msgspec.structs.replace(record, memory=used), "ok", None, False))
    folder = Folder(Manifest(study=Study(name="x"), claims=[], cells=[c.cell for c in counted]), counted, [], [], [])
    claim = next(c for c in load_cards() if c.id == "linear-memory")
    return rule(claim, Evidence(folder, {})).overall


@pytest.mark.parametrize("constant", [0, 300, 1e5])
def test_linear_memory_is_supported_whatever_the_constant(constant):
    found = ruled(lambda n: constant + n)
    assert found.verdict == "supported"
    assert found.statistic == pytest.approx(1)


@pytest.mark.parametrize("constant", [0, 2000, 2e4, 1e6])
def test_l_log_l_is_not_supported(constant):
    assert ruled(lambda n: constant + n * math.log2(n)).verdict != "supported"


@pytest.mark.parametrize("constant", [0, 1e5, 1e7])
def test_a_square_under_a_constant_is_refuted(constant):
    found = ruled(lambda n: constant + n**2)
    assert (found.verdict, found.statistic) == ("refuted", pytest.approx(2, abs=0.02))


def test_a_square_under_a_line_is_not_supported():
    assert ruled(lambda n: 800 + n + n**2 / 4096).verdict != "supported"
