import dataclasses

import factories
import pytest

from claims.studies import speed_study, truths, verdict
from harness.analysis.analyse import analyse


def memory_study(path, memory, **options):
    hyenarec = dataclasses.replace(factories.HYENAREC, memory=memory)
    folder = factories.make_folder(path, truths=truths(hyenarec=hyenarec), speed=False, training=False, **options)
    return verdict(analyse(folder), "linear-memory").overall


def test_linear_memory_supported(quiet):
    found = verdict(quiet, "linear-memory").overall
    assert found.verdict == "supported"
    assert found.window == (256, 4096)
    assert len(found.evidence) == 5


def test_linear_memory_refuted(tmp_path):
    found = memory_study(tmp_path, lambda b, n: 0.5 * b * n**2)
    assert found.verdict == "refuted"
    assert found.statistic == pytest.approx(2, abs=0.05)


def test_linear_memory_inconclusive_at_the_threshold(tmp_path):
    found = memory_study(tmp_path, lambda b, n: 500.0 * b * n**1.1)
    assert found.verdict == "inconclusive"
    assert found.interval[0] < 1.1 < found.interval[1]


def test_linear_memory_missing(tmp_path):
    found = speed_study(tmp_path)
    assert verdict(found, "linear-memory").overall.verdict == "missing"
