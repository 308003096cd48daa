import importlib
import time

import filelock
import msgspec
import pytest

from harness.data.catalogue import DataSource
from harness.data.sources import sha256_of
from harness.errors import UserError
from harness.run import sweep as sweep_module
from harness.run.sweep import order, sweep, write_manifest
from harness.run.watch import OutOfTimeError
from harness.study.manifest import read_manifest
from harness.study.schema import Study

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
    """Stands for the measurement: writes a file, or fails for labels that are to fail."""

    def __init__(self, seconds=0.0, failing=()):
        self.seen, self.seconds, self.failing = [], seconds, failing

    def __call__(self, study, cell, path, **_):
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
    timing: None = None
    memory: None = None
    flags: list[str] = []


@pytest.fixture
def stand_in(monkeypatch):
    """Has cells measured by a `Fake`, or by another function."""

    def put(run=None, **how):
        run = run or Fake(**how)
        monkeypatch.setattr(sweep_module, "run", run)
        return run

    return put


def test_one_replicate_of_everything_comes_before_the_next_in_shuffled_order(tmp_path):
    cells = order(write_manifest(STUDY, tmp_path).cells)
    replicates = [c.spec.replicate for c in cells if c.kind == "speed"]
    assert replicates == sorted(replicates)
    lengths = [c.spec.length for c in cells if c.kind == "speed" and c.spec.replicate == 0]
    assert lengths != sorted(lengths)
    assert cells == order(reversed(cells))


def test_only_missing_cells_run(stand_in, tmp_path):
    run = stand_in()
    done = sweep(STUDY, tmp_path)
    assert len(run.seen) == len(done.measured) == len(read_manifest(tmp_path).cells)
    (tmp_path / run.seen[3].path).unlink()
    again = stand_in()
    sweep(STUDY, tmp_path)
    assert [c.key for c in again.seen] == [run.seen[3].key]


def test_time_is_kept(stand_in, tmp_path, monkeypatch):
    # What a sweep of many cells imports and reads must not be part of a time as short as this one's.
    importlib.import_module("harness.run.past")
    monkeypatch.setattr("harness.run.past.folders", lambda records: [records])
    stand_in(seconds=0.6)
    done = sweep(STUDY, tmp_path, minutes=3 / 60)
    assert 1 <= len(done.measured) <= 5, "three seconds have five cells of three fifths"
    assert done.left
    assert len(done.measured) + len(done.left) == len(read_manifest(tmp_path).cells)


def test_a_failed_cell_is_reported_and_the_rest_goes_on(stand_in, tmp_path):
    stand_in(failing={"gru4rec"})
    done = sweep(STUDY, tmp_path)
    assert {c.label for c in done.failed} == {"gru4rec"}
    assert "hyenarec" in {c.label for c in done.measured}


def test_a_sweep_in_which_nothing_works_ends(stand_in, tmp_path):
    run = stand_in(failing={"hyenarec", "gru4rec", "popularity", "markov", "decayed-markov"})
    done = sweep(STUDY, tmp_path)
    assert len(done.failed) == len(run.seen) == 5
    assert len(done.left) == len(read_manifest(tmp_path).cells) - 5


def test_what_a_study_puts_first_has_all_replicates_before_the_others(tmp_path):
    first = msgspec.structs.replace(STUDY.speed, first=["gru4rec"])
    cells = order(write_manifest(msgspec.structs.replace(STUDY, speed=first), tmp_path).cells)
    speed = [c for c in cells if c.kind == "speed"]
    assert [c.label for c in speed] == ["gru4rec"] * 12 + ["hyenarec"] * 12
    for half in (speed[:12], speed[12:]):
        replicates = [c.spec.replicate for c in half]
        assert replicates == sorted(replicates)
    assert {c.digest for c in cells} == {c.digest for c in write_manifest(STUDY, tmp_path).cells}


def test_short_histories_train_first(tmp_path):
    training = msgspec.structs.replace(STUDY.training, lengths=[256, 16, 64], seeds=[0, 1])
    cells = order(write_manifest(msgspec.structs.replace(STUDY, training=training, speed=None), tmp_path).cells)
    trained = [(c.spec.seed, c.spec.length) for c in cells if c.spec.length]
    assert trained == [(0, 16), (0, 64), (0, 256), (1, 16), (1, 64), (1, 256)]


def test_a_cell_given_up_for_time_is_left_and_not_failed(stand_in, tmp_path):
    def run(study, cell, path, **_):
        raise OutOfTimeError

    stand_in(run)
    done = sweep(STUDY, tmp_path)
    assert not done.measured
    assert not done.failed
    assert len(done.left) == len(read_manifest(tmp_path).cells)


def test_a_second_sweep_in_one_folder_measures_nothing_and_says_why(stand_in, tmp_path):
    run = stand_in()
    (tmp_path / ".study.json.x.part").write_text("half")
    with filelock.FileLock(tmp_path / ".measuring.lock"), pytest.raises(UserError, match="another sweep or workflow"):
        sweep(STUDY, tmp_path)
    assert not run.seen
    assert (tmp_path / ".study.json.x.part").exists(), "it may be the other's"
    sweep(STUDY, tmp_path)
    assert run.seen
    assert not list(tmp_path.rglob("*.part"))


def test_kind_chooses(stand_in, tmp_path):
    run = stand_in()
    sweep(STUDY, tmp_path, kind="training")
    assert {c.kind for c in run.seen} == {"training"}


def test_the_manifest_is_not_rewritten_when_nothing_changed(tmp_path):
    write_manifest(STUDY, tmp_path)
    first = (tmp_path / "study.json").stat().st_mtime_ns
    write_manifest(STUDY, tmp_path)
    assert (tmp_path / "study.json").stat().st_mtime_ns == first


def test_a_missing_data_set_is_said_before_anything_is_measured(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    training = msgspec.structs.replace(STUDY.training, datasets=["synthetic", "video-games"])
    run = stand_in()
    with pytest.raises(UserError, match=r"'video-games' is missing.*nowhere, is not there"):
        sweep(msgspec.structs.replace(STUDY, training=training), tmp_path)
    assert not run.seen
    sweep(msgspec.structs.replace(STUDY, training=training), tmp_path, kind="speed")
    assert {cell.kind for cell in run.seen} == {"speed"}


def test_prepared_data_needs_its_file_no_more(stand_in, tmp_path, monkeypatch):
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "walks.txt"
    file.write_text("u1 1 2 3 4\nu2 2 3 4 1\n")
    source = DataSource(format="sequences", file=file.name, sha256=sha256_of(file))
    training = msgspec.structs.replace(STUDY.training, datasets=["walks"])
    study = msgspec.structs.replace(STUDY, data={"walks": source}, data_folder=str(tmp_path), training=training)
    stand_in()
    sweep(study, tmp_path / "first")
    file.unlink()
    again = stand_in()
    sweep(study, tmp_path / "second")
    assert {cell.kind for cell in again.seen} == {"speed", "training"}


def test_the_operator_bench_is_the_last_that_is_timed_and_lies_beside_the_manifest(stand_in, tmp_path):
    study = msgspec.structs.replace(STUDY, operator=True)
    run = stand_in()
    done = sweep(study, tmp_path)
    kinds = [cell.kind for cell in run.seen]
    place = [cell.key for cell in run.seen].index("operator")
    assert kinds.count("speed") == kinds[: place + 1].count("speed") > 1
    assert (tmp_path / "operator.json").is_file()
    assert len(done.measured) == len(read_manifest(tmp_path).cells) + 1
    again = stand_in()
    sweep(study, tmp_path)
    assert not again.seen


def test_a_folder_of_another_study_keeps_its_own(tmp_path):
    write_manifest(STUDY, tmp_path)
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UserError, match="holds the records of study 'tiny', not of 'other'; name another folder"):
        write_manifest(msgspec.structs.replace(STUDY, name="other"), tmp_path)
    assert (tmp_path / "study.json").read_bytes() == before
    (tmp_path / "study.json").write_text("half")
    write_manifest(msgspec.structs.replace(STUDY, name="other"), tmp_path)
