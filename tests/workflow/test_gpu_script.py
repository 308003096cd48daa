"""workflow/gpu.py and the session behind it, rehearsed on a CPU: what it leaves, when it ends, and how it goes on."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from operator_examples import operator_record

from harness import cli
from harness.run import session
from harness.run.operator import bench as operator_bench

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "workflow" / "gpu.py"
STUDY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "model": {"hidden_size": 8, "num_layers": 1},
    "speed": {
        "models": ["gru4rec"],
        "budget_seconds": 0.3,
        "minimum_seconds": 0.02,
        "minimum_steps": 2,
        "catalogue_items": 100,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 32, "replicates": 2}},
    },
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLACES = ["--study", "tiny.yaml", "--device", "cpu", "--output", "out", "--results", "records"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the study, in which the script is typed."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(folder, *arguments):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, *PLACES], cwd=folder, capture_output=True, text=True
    )


def test_a_command_leaves_an_archive_that_another_goes_on_from_and_a_report_is_made_of(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    # A phase runs the code of the script, whatever lies where it is started.
    (first / "harness").mkdir()
    (first / "harness" / "__init__.py").write_text("raise ImportError('another checkout')")
    done = call(first, "speed", "--minutes", "5", "--commit", "abc")
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(first / "out" / "tiny.tar.gz") as bundle:
        names = bundle.getnames()
        bundle.extractall(tmp_path / "unpacked", filter="data")
    assert len([n for n in names if n.startswith("tiny/speed/gru4rec/constant-tokens-L16-r")]) == 2
    assert {"tiny/study.json", "logs/speed.txt", "logs/machine.txt"} <= set(names)
    assert "2 measured, 0 failed" in (tmp_path / "unpacked/logs/speed.txt").read_text()

    # All is there already, so the second command measures nothing.
    again = call(second, "speed", "--minutes", "1", "--resume", str(first / "out" / "tiny.tar.gz"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 measured, 0 failed" in again.stdout

    verify = [sys.executable, "-m", "harness", "verify", str(tmp_path / "unpacked" / "tiny"), "--json"]
    claims = json.loads(subprocess.run(verify, cwd=ROOT, capture_output=True, text=True).stdout)["claims"]
    assert {claim["verdict"] for claim in claims} <= {"inconclusive", "missing"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["speed", "--minutes", "0"], "--minutes must be a number above 0, got '0'"),
        (["speed=nan"], "the minutes of speed must be a number above 0, got 'nan'"),
        (["speed", "--resume", "gone.tar.gz"], "'gone.tar.gz' is not an archive"),
        (["speed", "--data", "gone"], "--data: 'gone' is not a folder"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(place, script, capsys, arguments, words):
    assert script.main([*arguments, *PLACES]) == 64
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert words in message
    assert [path.name for path in place.iterdir()] == ["tiny.yaml"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a driver")
def test_an_unknown_study_and_a_missing_driver_are_said(place, script, capsys):
    for option, words in (("--study=nope", "unknown study 'nope'"), ("--device=cuda", "no NVIDIA driver")):
        assert script.main(["speed", *PLACES, option]) == 64
        assert words in capsys.readouterr().err


def test_a_command_ends_in_time_with_what_it_has(tmp_path):
    begin = time.monotonic()
    command = ["bash", "-c", "echo begun; sleep 60"]
    words = session.run_phase(command, tmp_path, tmp_path / "log.txt", 0.5, lambda: None)
    assert time.monotonic() - begin < 40
    assert words == "stopped after 0 s"
    assert "begun" in (tmp_path / "log.txt").read_text()


def test_a_killed_command_has_written_its_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "ARCHIVE_EVERY_SECONDS", 0.1)
    written = []
    command = [sys.executable, "-c", "import time; time.sleep(1)"]
    session.run_phase(command, tmp_path, tmp_path / "log.txt", 5, lambda: written.append(1))
    assert written


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_command_leaves_nothing_running(tmp_path):
    pid_file = tmp_path / "pid"
    body = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    driver = (
        "import sys; from pathlib import Path; from harness.run.session import run_phase\n"
        f"command, here = [sys.executable, '-c', {body!r}], Path({str(tmp_path)!r})\n"
        "run_phase(command, here, here / 'log', 60, lambda: None)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", driver], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.kill()
    command.wait()
    while Path(f"/proc/{pid_file.read_text()}").exists():
        assert time.monotonic() < deadline, "a phase outlived its command"
        time.sleep(0.05)


def test_what_is_missing_is_named_with_its_remedy(tmp_path, script, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "NEEDED", {"torch": "torch", "no_such_module": "some-package"})
    assert script.main(["speed", "--device", "cpu"]) == 64
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "lacks some-package" in message
    assert "pip install some-package" in message


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("sped", "unknown phase 'sped'. Did you mean 'speed'? Legal: bench, speed, tests, training."),
        ("speed=soon", "the minutes of speed must be a number above 0, got 'soon'"),
    ],
)
def test_an_unknown_phase_is_refused_with_the_legal_ones(script, capsys, word, words):
    assert script.main([word, "--device", "cpu", "--study", "cpu"]) == 64
    message = capsys.readouterr().err
    assert words in message


def test_the_packages_are_those_that_the_sweep_imports(script):
    """What a sweep and its children import from elsewhere; torch's own needs come with torch."""
    code = (
        "import sys; before = set(sys.modules); import torch; own = set(sys.modules)\n"
        "import harness.cli, harness.run.sweep, harness.run.fork_server as server, harness.run.operator.bench\n"
        "import harness.run.operator.child, harness.measure.operator.measures, harness.run.session\n"
        "import harness.report.operator_table; server.imports()\n"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - own}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    for package in ("snakemake", "typst", "matplotlib", "seaborn", "psutil"):
        assert package not in done.stdout.split()
    named = set(done.stdout.split()) & {"numpy", "scipy", "msgspec", "yaml", "filelock"}
    assert named <= set(script.NEEDED)


def test_the_bench_is_a_phase_that_keeps_its_record(place, script, monkeypatch):
    """Its command is one of the harness, typed in this process; what the bench measures has tests of its own."""
    python = [sys.executable, "-P", "-m", "harness"]

    def run_here(command, *_):
        assert command[: len(python)] == python
        return f"exit status {cli.main(command[len(python) :])}"

    monkeypatch.setattr(session, "run_phase", run_here)
    monkeypatch.setattr(operator_bench, "bench", lambda wanted, **_: operator_record(wanted))
    assert script.main(["bench", "--minutes", "3", "--bench-elements", "131072", *PLACES]) == 0
    with tarfile.open(place / "out" / "tiny.tar.gz") as bundle:
        record = json.load(bundle.extractfile("tiny/operator.json"))
    assert record["settings"]["elements"] == 131072


@pytest.mark.parametrize("option", ["--phases=speed", "--bench-elements=64"])
def test_what_only_an_archive_makes_sense_with_says_so(capsys, option):
    assert cli.main(["sweep", "cpu", option]) == 64
    assert "need --archive FILE" in capsys.readouterr().err
