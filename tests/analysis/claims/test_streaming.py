import math

import factories
import msgspec
import numpy as np
import pytest

from claims.studies import QUIET, verdict
from harness.analysis.analyse import analyse
from harness.records.schema import Block
from harness.study.manifest import Manifest


def streaming_study(path, cost, replicates=3, histories=(128, 512, 2048, 8192), drift=0.0):
    """Streamed blocks of the timing partner at 8,192, in palindromic rounds on a machine that slows down."""
    folder = factories.make_folder(path, memory=False, training=False, noise=QUIET, replicates=replicates)
    rng = np.random.default_rng(51)
    manifest = msgspec.json.decode((folder / "study.json").read_bytes(), type=Manifest)
    for cell in manifest.cells:
        if cell.label == "hyenarec" and cell.spec.length == 8192:
            record = factories.records.read(folder / cell.path)
            extra = []
            for done in range(8):
                for history in histories if done % 2 == 0 else histories[::-1]:
                    seconds = 64 * cost(history) * math.exp(drift * len(extra) + rng.normal(0, 0.01))
                    extra.append(Block(side="model", phase="stream", steps=64, seconds=seconds, history=history))
            timing = factories.timing([*record.timing.blocks, *extra])
            factories.records.write(msgspec.structs.replace(record, timing=timing), folder / cell.path)
    return analyse(folder)


@pytest.mark.parametrize(("cost", "expected"), [(lambda n: 1e-3, "supported"), (lambda n: 1e-6 * n, "refuted")])
def test_streaming(tmp_path, cost, expected):
    found = streaming_study(tmp_path, cost)
    own = verdict(found, "streaming").overall
    assert own.verdict == expected
    assert own.window == (128, 8192)
    assert "within a history of 8,192 events" in own.detail
    assert "the longer timed over 512 events of its second half" in own.detail
    assert own.statistic == pytest.approx(cost(8192) / cost(128), rel=0.03)
    assert len(own.evidence) == 3
    assert all("L8192" in path for path in own.evidence)
    assert [(p.history, p.processes) for p in found.streams] == [(n, 3) for n in (128, 512, 2048, 8192)]
    assert [p.event_seconds for p in found.streams] == pytest.approx([cost(p.history) for p in found.streams], rel=0.03)
    assert {p.phase for p in found.times} == {"step"}, "an event of one user is no step of a batch"


def test_a_slowing_machine_does_not_pass_for_a_cost_that_grows(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, drift=0.01), "streaming").overall
    assert own.statistic == pytest.approx(1.0, rel=0.05)


def test_streaming_inconclusive_with_two_processes(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, replicates=2), "streaming").overall
    assert own.verdict == "inconclusive"
    assert own.sample_size == 3


def test_streaming_needs_two_histories(tmp_path):
    own = verdict(streaming_study(tmp_path, lambda n: 1e-3, histories=(8192,)), "streaming").overall
    assert own.verdict == "missing"
    assert any("two histories" in sentence for sentence in own.missing)


def test_streaming_missing(quiet):
    assert verdict(quiet, "streaming").overall.verdict == "missing"
