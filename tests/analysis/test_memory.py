import factories
import pytest

from harness.analysis.analyse import analyse


def test_exponent_comes_from_the_constant_batch_only(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    own = {e.label: e for e in found.exponents if e.quantity == "memory"}
    assert set(own) == set(factories.TRUTHS)
    assert {e.sweep for e in own.values()} == {"constant-batch"}
    assert own["hyenarec"].exponent == pytest.approx(1, abs=0.02)
    assert own["sasrec-math"].exponent > 1.6
    assert own["hyenarec"].window == (256, 2048)


def test_net_peak_leaves_out_what_a_tiny_batch_needs(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    for point in found.memory:
        assert point.net_bytes == point.peak_bytes - point.tiny_peak_bytes
        truth = factories.TRUTHS[point.label]
        assert point.net_bytes == pytest.approx(truth.memory(point.batch, point.length), rel=0.05)


def test_local_slopes_between_neighbours(tmp_path):
    found = analyse(factories.make_folder(tmp_path, training=False))
    own = [s for s in found.local_slopes if s.quantity == "memory" and s.label == "sasrec-math"]
    assert [s.lengths for s in own] == [(256, 512), (512, 1024), (1024, 2048)]
    assert own[0].slope < own[-1].slope < 2.1
