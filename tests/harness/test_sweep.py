import time

import msgspec

from harness.manifest import read_manifest
from harness.study import Study
from harness.sweep import order, sweep, write_manifest

STUDY = msgspec.convert(
    {
        "name": "tiny",
        "device": "cpu",
        "speed": {
            "models": ["hyenarec", "gru4rec"],
            "sweeps": {"constant-tokens": {"lengths": [16, 32, 64, 128], "tokens": 128}},
        },
        "training": {"models": ["hyenarec"], "datasets": ["synthetic"], "lengths": [64], "epochs": 2},
    },
    Study,
)


class Fake:
    """Stands for run_cell: writes a file, or fails for labels that are to fail."""

    def __init__(self, seconds=0.0, failing=()):
        self.seen, self.seconds, self.failing = [], seconds, failing

    def __call__(self, study, cell, path):
        self.seen.append(cell)
        time.sleep(self.seconds)
        status = "error" if cell.label in self.failing else "ok"
        if status == "ok":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return msgspec.convert({"status": status, "detail": "x"}, FakeRecord)


class FakeRecord(msgspec.Struct):
    status: str
    detail: str


def test_one_replicate_of_everything_comes_before_the_next_in_shuffled_order(tmp_path):
    cells = order(write_manifest(STUDY, tmp_path).cells)
    replicates = [c.spec["replicate"] for c in cells if c.kind == "speed"]
    assert replicates == sorted(replicates)
    lengths = [c.spec["length"] for c in cells if c.kind == "speed" and c.spec["replicate"] == 0]
    assert lengths != sorted(lengths)
    assert cells == order(reversed(cells))


def test_only_missing_cells_run(tmp_path):
    run = Fake()
    done = sweep(STUDY, tmp_path, run=run)
    assert len(run.seen) == len(done.measured) == len(read_manifest(tmp_path).cells)
    (tmp_path / run.seen[3].path).unlink()
    again = Fake()
    sweep(STUDY, tmp_path, run=again)
    assert [c.key for c in again.seen] == [run.seen[3].key]


def test_time_is_kept(tmp_path):
    run = Fake(seconds=0.2)
    begin = time.monotonic()
    done = sweep(STUDY, tmp_path, minutes=1 / 60, run=run)
    assert time.monotonic() - begin < 1.5
    assert done.left
    assert len(done.measured) + len(done.left) == len(read_manifest(tmp_path).cells)


def test_a_failed_cell_is_reported_and_the_rest_goes_on(tmp_path):
    done = sweep(STUDY, tmp_path, run=Fake(failing={"gru4rec"}))
    assert {c.label for c in done.failed} == {"gru4rec"}
    assert "hyenarec" in {c.label for c in done.measured}


def test_kind_chooses(tmp_path):
    run = Fake()
    sweep(STUDY, tmp_path, kind="training", run=run)
    assert {c.kind for c in run.seen} == {"training"}


def test_the_manifest_is_not_rewritten_when_nothing_changed(tmp_path):
    write_manifest(STUDY, tmp_path)
    first = (tmp_path / "study.json").stat().st_mtime_ns
    write_manifest(STUDY, tmp_path)
    assert (tmp_path / "study.json").stat().st_mtime_ns == first
