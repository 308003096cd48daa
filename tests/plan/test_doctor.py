"""What `doctor` says of machines that lack something, and of an A/A control whose truth is known."""

import json

import factories
import msgspec
import numpy as np
import pytest

from harness import cli
from harness.data.catalogue import SOURCES, DataSource
from harness.data.sources import prepared_folder, sha256_of
from harness.plan import doctor
from harness.plan.data_places import place
from harness.records import cgroup


def about(topic, found):
    (one,) = [finding for finding in found if finding.topic == topic]
    return one


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose /proc and /sys are empty folders, for a test to fill."""
    for name in ("PROC", "SYS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(doctor, name, tmp_path / name)
    return tmp_path


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_system_without_proc_is_one_line_that_says_what_is_not_recorded(machine):
    (found,) = doctor._system()
    assert (found.topic, found.state) == ("/proc", "note")
    assert "peak memory on the CPU" in found.found
    assert doctor.line(found).count("/proc") == 1


def test_a_proc_that_allows_everything_is_not_mentioned(machine):
    for name in ("stat", "clear_refs"):
        put(machine / "PROC" / "self" / name, "")
    assert list(doctor._system()) == []


@pytest.mark.parametrize(("libc", "state"), [(("glibc", "2.36"), "ok"), (("", ""), "note")])
def test_a_system_without_glibc_is_one_line(monkeypatch, libc, state):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: libc)
    found = doctor._allocator()
    assert found.state == state
    assert ("not glibc" in found.found) == (state == "note")


def test_another_allocator_is_named_with_what_to_type(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    found = doctor._allocator()
    assert (found.state, found.advice) == ("note", "type  unset LD_PRELOAD")
    assert "libjemalloc" in found.found


CPU = "SYS/devices/system/cpu"


@pytest.mark.parametrize(
    ("files", "governor", "turbo"),
    [
        ({}, ("ok", "not readable"), ("ok", "not readable")),
        (
            {f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n", f"{CPU}/intel_pstate/no_turbo": "0\n"},
            ("note", "powersave"),
            ("note", "on"),
        ),
        (
            {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n", f"{CPU}/intel_pstate/no_turbo": "1\n"},
            ("ok", "performance"),
            ("ok", "off"),
        ),
        ({f"{CPU}/cpufreq/boost": "1\n"}, ("ok", "not readable"), ("note", "on")),
        ({f"{CPU}/cpufreq/boost": "0\n"}, ("ok", "not readable"), ("ok", "off")),
    ],
)
def test_governor_and_turbo_are_read_where_they_can_be(machine, files, governor, turbo):
    for name, text in files.items():
        put(machine / name, text)
    found = list(doctor._frequency())
    for topic, (state, words) in (("governor", governor), ("turbo", turbo)):
        assert about(topic, found).state == state
        assert about(topic, found).found.startswith(words)
        assert bool(about(topic, found).advice) == (state == "note")


@pytest.mark.parametrize(("quota", "state"), [(None, "ok"), (2.0, "ok"), (1.5, "note")])
def test_a_quota_that_is_no_whole_number_is_noted(monkeypatch, quota, state):
    monkeypatch.setattr(cgroup, "cores", lambda: quota)
    assert doctor._cores(4).state == state


def test_a_full_disk_and_little_memory_are_noted(monkeypatch):
    monkeypatch.setattr(doctor, "_DISK_BYTES", 1 << 62)
    monkeypatch.setattr(doctor, "_MEMORY_BYTES", 1 << 62)
    assert {finding.state for finding in doctor._disk()} == {"note"}
    assert doctor._memory().state == "note"


def control(model_seconds, **changes):
    """The record of an A/A control whose model takes that many seconds a step, its copy 10 ms."""
    truths = {"hyenarec": factories.HYENAREC}
    cell = factories.speed_cell("hyenarec", truths, "a-a", "tokens", 512, 8, 0, ["time"])
    rng = np.random.default_rng(0)
    record = factories.speed_record(cell, truths, rng)
    blocks = factories.blocks(rng, model_seconds, 0.01, pairs=20, process_noise=0.0, block_noise=0.003)
    return msgspec.structs.replace(record, timing=factories.timing(blocks), **changes)


def test_a_quiet_machine_is_told_from_one_that_is_not():
    quiet = doctor.judge(control(0.01))
    assert quiet.state == "ok"
    assert "20 pairs of blocks" in quiet.found
    biased = doctor.judge(control(0.0104))
    assert biased.state == "note"
    assert "1.04" in biased.found
    disturbed = doctor.judge(control(0.01, flags=["neighbours: its threads waited; delete the record"]))
    assert disturbed.state == "note"
    assert "its threads waited" in disturbed.found
    assert "delete" not in disturbed.found


def test_a_control_that_failed_is_a_problem_with_its_reason():
    failed = doctor.judge(control(0.01, status="error", detail="no such operator"))
    assert failed.state == "problem"
    assert "no such operator" in failed.found


def test_where_data_lie_is_told_without_fetching(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    assert place("synthetic", SOURCES["synthetic"]).state == "generated"
    assert place("ml-latest-small", SOURCES["ml-latest-small"]).state == "packaged"
    assert place("ml-1m", SOURCES["ml-1m"]).state == "to be fetched"
    waiting = place("ml-20m", SOURCES["ml-20m"])
    assert waiting.state == "waits for consent"
    assert "HYENAREC_CONSENT=ml-20m" in waiting.advice
    monkeypatch.setenv("HYENAREC_CONSENT", "ml-32m, ml-20m")
    assert place("ml-20m", SOURCES["ml-20m"]).state == "to be fetched"
    put(tmp_path / "archives" / "ml-20m" / "ml-20m.zip", "")
    assert place("ml-20m", SOURCES["ml-20m"], str(tmp_path / "archives")).state == "found"
    missing = place("video-games", SOURCES["video-games"])
    assert missing.state == "missing"
    assert "HYENAREC_DATA=FOLDER" in missing.advice
    put(tmp_path / "data" / "own.csv", "1,2,3\n")
    own = DataSource(format="ratings", file="own.csv", sha256=sha256_of(tmp_path / "data" / "own.csv"))
    assert place("own", own, str(tmp_path / "data")).state == "found"
    monkeypatch.setenv("HYENAREC_DATA", str(tmp_path / "data"))
    assert place("own", own).state == "found"
    put(tmp_path / "data" / "own.csv", "1,2,4\n")
    other = place("own", own)
    assert other.state == "another file"
    assert own.sha256 in other.advice
    prepared_folder("beauty", SOURCES["beauty"], None).mkdir(parents=True)
    assert place("beauty", SOURCES["beauty"]).state == "prepared"
    assert not list((tmp_path / "cache").glob("files/*"))


def test_the_command_prints_every_finding_and_its_json_holds_the_same(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    assert cli.main(["doctor", "--no-noise"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert cli.main(["doctor", "--no-noise", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    topics = [one["topic"] for one in found]
    assert {
        "machine",
        "cores",
        "memory",
        "disk",
        "allocator",
        "C++ operators",
        "GPU",
        "triton",
        "data video-games",
    } <= {*topics}
    assert "noise" not in topics
    assert all(topic in text for topic in topics)
    monkeypatch.setenv("HYENAREC_DATA", str(tmp_path / "nowhere"))
    assert cli.main(["doctor", "--no-noise"]) == 1
    assert "problem data " in capsys.readouterr().out
