"""Every status, produced for real: children that allocate, sleep, raise, are killed."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import msgspec
import pytest
from children import Scripted, alive, one_cell, running, study, wait_until

from harness.errors import UserError
from harness.records import cgroup
from harness.records import device_series as series
from harness.records import schema as records
from harness.records.schema import read
from harness.run import supervisor
from harness.run.process import signal_name
from harness.run.supervisor import ATTEMPT, failed_before, run_cell
from harness.study.schema import Study


def child(tmp_path, body):
    """A child command that runs `body` with `request` in scope."""
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, signal, sys, time\nrequest = json.load(open(sys.argv[1]))\n" + textwrap.dedent(body)
    )
    return [sys.executable, str(script)]


def test_ok(tmp_path):
    value = study()
    cell = one_cell(value)
    path = tmp_path / cell.path
    result = run_cell(value, cell, path, log=tmp_path / "cell.log")
    assert result.status == "ok", result.detail
    again = read(path)
    assert again == result
    sides = [b.side for b in result.timing.blocks]
    assert sides[:4] == ["model", "partner", "partner", "model"]
    assert result.environment.threads == 1
    assert result.environment.allocator["MALLOC_MMAP_THRESHOLD_"] == "4294967296"
    assert result.environment.allocator["MALLOC_MMAP_MAX_"] == "0"
    assert 0 < result.provenance.import_seconds < result.provenance.elapsed_seconds
    assert result.provenance.source_digest
    assert result.model.parameters > 0


def test_oom_by_a_child_that_allocates_past_the_limit(tmp_path):
    command = child(tmp_path, "data = bytearray(400_000_000)\ntime.sleep(30)")
    value = msgspec.structs.replace(study(), memory_limit_bytes=200_000_000)
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(command))
    assert result.status == "oom"
    assert "above the limit of 200000000" in result.detail
    assert (tmp_path / "r.json").is_file()


@pytest.mark.parametrize(
    ("attempt", "limit", "status"), [("1", None, "killed"), ("1", 200_000_000, "oom"), (None, None, "oom")]
)
def test_the_memory_that_a_job_asked_for_is_no_limit_of_a_model(tmp_path, monkeypatch, attempt, limit, status):
    monkeypatch.setattr(cgroup, "memory_bytes", lambda: 222_222_222)
    if attempt is not None:
        monkeypatch.setenv(ATTEMPT, attempt)
    command = child(tmp_path, "data = bytearray(400_000_000)\ntime.sleep(30)")
    value = msgspec.structs.replace(study(), memory_limit_bytes=limit)
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(command))
    assert result.status == status
    assert ("a further attempt asks for more" in result.detail) == (status == "killed")
    assert (tmp_path / "r.json").is_file() == (status == "oom")


@pytest.mark.parametrize(("body", "again"), [("raise ValueError('x')", False), ("os.kill(os.getpid(), 9)", True)])
def test_only_what_was_killed_is_tried_again_in_a_further_attempt(tmp_path, monkeypatch, body, again):
    path, value = tmp_path / "r.json", study()
    run_cell(value, one_cell(value), path, workers=Scripted(child(tmp_path, body)))
    # Not in a job; and a second attempt; and the first of the next run, which knows nothing of an earlier one.
    assert failed_before(path) is None
    monkeypatch.setenv(ATTEMPT, "2")
    assert (failed_before(path) is None) == again
    monkeypatch.setenv(ATTEMPT, "1")
    assert failed_before(path) is None
    assert not path.with_suffix(records.FAILED_SUFFIX).exists()


def test_oom_by_torch_itself(tmp_path):
    # Torch alone needs a few hundred MB; the batch's activations cannot fit in what is left.
    value = study(sweeps={"constant-tokens": {"lengths": [4096], "tokens": 4_194_304, "replicates": 1}})
    value = msgspec.structs.replace(value, memory_limit_bytes=1_500_000_000)
    result = run_cell(value, one_cell(value), tmp_path / "r.json")
    assert result.status == "oom"
    assert "allocate" in result.detail


def test_timeout(tmp_path):
    value = study(timeout_seconds=0.6)
    begin = time.monotonic()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, "time.sleep(60)")))
    assert time.monotonic() - begin < 40
    assert result.status == "timeout"
    assert "0.6 s" in result.detail
    assert read(tmp_path / "r.json").status == "timeout"


def test_killed_is_not_final(tmp_path):
    command = child(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    value = study()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(command))
    assert result.status == "killed"
    assert "SIGKILL" in result.detail
    assert not (tmp_path / "r.json").exists()
    assert read(tmp_path / "r.failed.json").status == "killed"


def test_error_keeps_the_last_lines_and_a_later_success_clears_it(tmp_path):
    value = study()
    cell = one_cell(value)
    result = run_cell(
        value, cell, tmp_path / "r.json", workers=Scripted(child(tmp_path, "raise ValueError('broken on purpose')"))
    )
    assert result.status == "error"
    assert "broken on purpose" in result.detail
    assert (tmp_path / "r.failed.json").exists()
    run_cell(value, cell, tmp_path / "r.json", workers=Scripted(child(tmp_path, RESULT)))
    assert not (tmp_path / "r.failed.json").exists()
    assert read(tmp_path / "r.json").status == "ok"


def test_a_time_series_lies_beside_its_record_and_goes_with_it(tmp_path):
    columns = [name for name in series.DeviceSeries.__struct_fields__ if name not in _SCALARS]
    one = {**_SCALARS, **{name: [] for name in columns}, "seconds": [0.0, 0.1]}
    body = f"""
        fields = {{"series": {[one]!r}, "flags": ["no timing: an example"]}}
        result = {{"status": "ok", "detail": None, "fields": fields}}
        json.dump(result, open(request["result"], "w"))
    """
    value = study()
    cell = one_cell(value)
    run_cell(value, cell, tmp_path / "r.json", workers=Scripted(child(tmp_path, body)))
    found = series.read(tmp_path / "r.series.json")
    assert (found.label, found.spec_digest) == (cell.label, cell.digest)
    assert found.passes[0].seconds == [0.0, 0.1]
    run_cell(value, cell, tmp_path / "r.json", workers=Scripted(child(tmp_path, body.replace(repr([one]), "[]"))))
    assert read(tmp_path / "r.json").status == "ok"
    assert not (tmp_path / "r.series.json").exists()


_SCALARS = {"measure": "time", "device": "GPU-0", "period_seconds": 0.1, "baseline_bytes": 5}


def test_a_note_of_every_child_is_shown_once(tmp_path, capfd):
    command = child(tmp_path, "print('note: no compiler', os.getcwd())\nprint('a line')")
    for _ in range(2):
        run_cell(study(), one_cell(study()), tmp_path / "r.json", log=tmp_path / "log", workers=Scripted(command))
    shown = capfd.readouterr().err
    assert (shown.count("note: no compiler"), shown.count("a line")) == (1, 2)
    assert (tmp_path / "log").read_text().count("note: no compiler") == 2


def test_a_child_that_leaves_no_result_is_an_error(tmp_path):
    value = study()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, "pass")))
    assert result.status == "error"
    assert "no result" in result.detail


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent of orphans")
LEAVES = """
    import subprocess
    flags = {{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}}
    def leave():
        # In a session of its own, without the environment, with children of its own.
        return subprocess.Popen(["sh", "-c", "sleep {seconds} & sleep {seconds}; :"], start_new_session=True, env={{}})
    if os.fork() == 0:
        os.setsid()
        pid = leave().pid
        open({pids!r}, "a").write(f"{{pid}} {{os.getpid()}} ")
        time.sleep({seconds})
        os._exit(0)
    time.sleep(0.5)
"""
RESULT = """
    json.dump({"status": "ok", "detail": None, "fields": {"flags": ["its own"]}}, open(request["result"], "w"))
"""


@ON_LINUX
@pytest.mark.parametrize("ends", ["with a result", "by a signal", "at its limit"])
def test_what_a_model_leaves_running_is_ended_and_flagged(tmp_path, ends):
    body = LEAVES.format(pids=str(tmp_path / "pids"), seconds=300)
    body += {
        "with a result": RESULT,
        "by a signal": "    os.kill(os.getpid(), signal.SIGTERM)",
        "at its limit": "    time.sleep(60)",
    }[ends]
    value = study(timeout_seconds=3.0)
    begin = time.monotonic()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, body)))
    assert time.monotonic() - begin < 30
    assert result.status == {"with a result": "ok", "by a signal": "killed", "at its limit": "timeout"}[ends]
    own, *left = result.flags if ends == "with a result" else ["its own", *result.flags]
    assert own == "its own"
    assert left
    assert all(flag.startswith("the model left a process running (") for flag in left)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert not any(alive(pid) for pid in pids)
    assert running(["sleep", "300"]) == []


@ON_LINUX
def test_what_ends_by_itself_soon_is_not_flagged(tmp_path):
    body = LEAVES.format(pids=str(tmp_path / "pids"), seconds=1.5) + RESULT
    value = study()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, body)))
    assert result.flags == ["its own"]


@ON_LINUX
def test_other_children_of_this_process_are_left_alone(tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    value = study()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, RESULT)))
    assert result.flags == ["its own"]
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("when", ["before the result", "after it"])
def test_a_temporary_folder_that_vanishes_is_named(tmp_path, when):
    remove = "\n    import shutil; shutil.rmtree(os.path.dirname(request['result']))"
    body = {"before the result": remove + RESULT, "after it": RESULT + remove}[when]
    value = study()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=Scripted(child(tmp_path, body)))
    assert result.status == "error"
    assert result.detail.count("\n") == 0
    assert "the temporary folder" in result.detail
    assert "was removed while the cell ran" in result.detail
    assert "TMPDIR" in result.detail
    assert not (tmp_path / "r.json").exists()


def test_a_request_that_vanishes_is_one_line(tmp_path):
    command = [sys.executable, "-m", "harness.run.child", str(tmp_path / "gone.json")]
    root = str(Path(series.__file__).parents[2])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode != 0
    assert (
        done.stderr == f"error: the request {tmp_path}/gone.json is gone; something cleans up there while cells run\n"
    )


def test_no_half_written_file_is_left(tmp_path):
    with pytest.raises(TypeError):
        records.write_atomic(tmp_path / "x.json", "not bytes")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_supervisor_takes_its_child_along(tmp_path):
    pid_file = tmp_path / "pid"
    body = f"""
        from harness.run.process import die_with_parent
        die_with_parent(request["parent"])
        open({str(pid_file)!r}, "w").write(str(os.getpid()))
        time.sleep(120)
    """
    command = child(tmp_path, body)
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom test_supervisor import *\nvalue = study()\n"
        f"run_cell(value, one_cell(value), Path({str(tmp_path / 'r.json')!r}), workers=Scripted({command!r}))\n"
    )
    root = str(Path(series.__file__).parents[2])
    supervisor = subprocess.Popen([sys.executable, str(driver)], env={**os.environ, "PYTHONPATH": root})
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    assert alive(pid)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    assert wait_until(lambda: not alive(pid)), "the orphan keeps running"
    assert not (tmp_path / "r.json").exists()


def test_training_that_diverges_at_once_is_final_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    (tmp_path / "mine.txt").write_text("".join(f"{u} {i}\n" for u in range(6) for i in range(u, u + 6)))
    training = {"models": ["gru4rec"], "datasets": ["mine"], "lengths": [8], "references": [], "learning_rate": 1e30}
    value = msgspec.convert(
        {
            "name": "tiny",
            "device": "cpu",
            "threads": 1,
            "data": {"mine": {"format": "pairs", "file": "mine.txt"}},
            "data_folder": str(tmp_path),
            "training": training,
        },
        Study,
    )
    result = run_cell(value, one_cell(value), tmp_path / "r.json")
    assert result.status == "diverged"
    assert "not finite" in result.detail
    assert result.test is None
    assert read(tmp_path / "r.json") == result
    assert not (tmp_path / "r.failed.json").exists()
    assert not (tmp_path / "r.checkpoint").exists()


def test_missing_data_is_the_users_mistake(tmp_path, monkeypatch):
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    study_ = toy_study(None)
    with pytest.raises(UserError, match="data set 'mine' is missing"):
        run_cell(study_, one_cell(study_), tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()
    # The study's own folder is where it is looked for, without being part of the cell.
    (tmp_path / "mine.txt").write_text("".join(f"{u} {i}\n" for u in range(6) for i in range(u, u + 6)))
    study_ = toy_study(str(tmp_path))
    result = run_cell(study_, one_cell(study_), tmp_path / "r.json")
    assert result.status == "ok", result.detail
    # The data are named by what was read, so that no reader of them is part of what the cell executes.
    names = ("data_sha256", "arrays_sha256", "split_sha256")
    assert len({getattr(result.provenance, name) for name in names}) == 3
    assert "above-sentinel" in result.flags
    # What a finished cell no longer needs is gone.
    assert not (tmp_path / "r.checkpoint").exists()


def toy_study(folder):
    value = {
        "name": "tiny",
        "device": "cpu",
        "data": {"mine": {"format": "pairs", "file": "mine.txt", "sentinel_ndcg10": 1e-9}},
        "data_folder": folder,
        "training": {"models": ["gru4rec"], "datasets": ["mine"], "lengths": [8], "references": [], "epochs": 1},
    }
    return msgspec.convert(value, Study)


def test_a_users_mistake_in_a_child_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    (tmp_path / "mine.txt").write_text("1 2\n2 3\n")
    study_ = toy_study(str(tmp_path))
    result = run_cell(study_, one_cell(study_), tmp_path / "r.json")
    assert result.status == "error"
    assert "no user has 3 events" in result.detail
    assert "Traceback" not in result.detail


def test_a_bit_of_a_checkpoint_that_flipped_changes_no_number(tmp_path, monkeypatch, capfd):
    """torch reads it as if nothing were wrong."""
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    (tmp_path / "mine.txt").write_text("".join(f"{user} {item}\n" for user in range(6) for item in range(6)))
    study_ = toy_study(str(tmp_path))
    study_ = msgspec.structs.replace(study_, training=msgspec.structs.replace(study_.training, epochs=3))
    kept = []
    unlink = Path.unlink

    def keep(path, missing_ok=False):
        if path.name == "r.checkpoint" and path.is_file():
            kept.append(path.read_bytes())
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", keep)
    first = run_cell(study_, one_cell(study_), tmp_path / "r.json")
    (content,) = kept
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        place = content.index(archive.read(largest)) + largest.file_size // 2
    path = tmp_path / "r.checkpoint"
    path.write_bytes(content)
    assert supervisor._falsified(path) == ""
    path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
    again = run_cell(study_, one_cell(study_), tmp_path / "r.json")
    assert "damaged checkpoint" in capfd.readouterr().err
    assert (tmp_path / "r.checkpoint.damaged").is_file()
    assert not again.resumed
    assert [epoch.loss for epoch in again.epochs] == [epoch.loss for epoch in first.epochs]


def test_a_checkpoint_that_breaks_its_reader_is_put_aside_and_the_next_attempt_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    (tmp_path / "mine.txt").write_text("".join(f"{user} {item}\n" for user in range(6) for item in range(6)))
    study_ = toy_study(str(tmp_path))
    # A pickle that sets an item of nothing: what some flipped bits make of one.
    with zipfile.ZipFile(tmp_path / "r.checkpoint", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02s.")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
    first = run_cell(study_, one_cell(study_), tmp_path / "r.json")
    assert first.status == "error"
    assert first.detail.endswith("r.checkpoint.damaged now, and the next attempt starts again")
    assert (tmp_path / "r.checkpoint.damaged").is_file()
    assert not (tmp_path / "r.checkpoint").exists()
    assert run_cell(study_, one_cell(study_), tmp_path / "r.json").status == "ok"


def test_a_signal_without_a_name_has_its_number():
    """Real-time signals have none."""
    assert [signal_name(number) for number in (signal.SIGKILL, signal.SIGRTMIN + 6)] == ["SIGKILL", "signal 40"]
