import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from harness import cli
from harness.records.environment import ROOT


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "movilens"], ["movilens", "movielens"]),
        (["data", "ml-2m"], ["ml-2m", "ml-1m"]),
        (["verify", "no-such-folder"], ["no-such-folder"]),
        (["check", "sasrek"], ["sasrek", "sasrec"]),
        (["report", "no-such-folder"], ["no-such-folder"]),
        (["nonsense"], ["nonsense", "verify"]),
        (["verfy", "results/cpu"], ["verfy", "Did you mean 'verify'?", "--help"]),
        (["speed", "--study", "cpu", "--cell", "x/y", "--output", "z"], ["x/y", "cells"]),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_64(capsys, arguments, words):
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 64
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def test_an_internal_fault_is_70_with_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(cli, "load_study", lambda _: 1 / 0)
    assert cli.main(["cells", "cpu"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_models_lists_what_is_registered(capsys):
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"hyenarec", "sasrec", "gru4rec", "lrurec", "popularity", "markov", "decayed-markov"} <= set(rows)
    for row in rows.values():
        assert {"name", "family", "causal", "citation", "parameters"} <= set(row)
        assert (row["parameters"] == 0) == (row["family"] == "reference")
        assert row["causal"] or row["objective"] in {"masked-item", "last-item"}
    assert cli.main(["models"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, row in rows.items():
        for shown in (row["family"], row["citation"], f"{row['parameters']:,}"):
            assert shown in lines[name]
        assert ("non-causal" in lines[name]) != row["causal"]
    assert lines["Parameters"] == "Parameters at 10,000 items, length 200 and default options."


TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "speed": {
        "models": ["gru4rec", "lrurec"],
        "budget_seconds": 0.5,
        "minimum_seconds": 0.05,
        "minimum_steps": 2,
        "catalogue_items": 100,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [16, 32], "tokens": 64, "replicates": 1}},
    },
}


def test_sweep_analyse_report_and_verify_without_a_workflow_engine(tmp_path):
    study = tmp_path / "tiny.yaml"
    study.write_text(yaml.safe_dump(TINY))
    swept = run("sweep", str(study), cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert "4 measured, 0 failed, 0 not finished" in swept.stdout
    again = run("sweep", str(study), cwd=tmp_path)
    assert "0 measured" in again.stdout
    folder = tmp_path / "results" / "tiny"
    report = run("report", "results/tiny", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    # Not `scaling`, for which it would be taken for the workflow's.
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"tiny.pdf", "tiny.html"}
    assert (tmp_path / "reports" / "tiny.pdf").read_bytes().startswith(b"%PDF")
    verify = run("verify", "results/tiny", "--json", cwd=tmp_path)
    assert verify.returncode == 2, verify.stderr
    claims = json.loads(verify.stdout)["claims"]
    for claim in claims:
        assert {"id", "verdict", "statistic", "interval", "threshold", "evidence"} <= set(claim)
    assert {c["id"]: c["verdict"] for c in claims}["accuracy"] == "missing"
    # One replicate gives no interval: nothing may be decided.
    assert {c["verdict"] for c in claims} <= {"inconclusive", "missing"}
    (folder / "study.json").unlink()
    broken = run("verify", "results/tiny", cwd=tmp_path)
    assert broken.returncode == 64
    assert "study.json" in broken.stderr


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_minutes_that_are_none_measure_nothing(tmp_path, monkeypatch, capsys, minutes):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "cpu", f"--minutes={minutes}"]) == 64
    assert minutes in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_wrong_cell_names_the_command_that_lists_the_right_ones(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["speed", "--study", "tiny.yaml", "--cell", "gru4rec/none", "--output", "r.json"]) == 64
    assert "`python -m harness cells tiny.yaml` lists its 4" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error():
    run = subprocess.Popen(
        [sys.executable, "-m", "harness", "cells", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    run.stdout.close()
    assert run.stderr.read() == ""
    assert run.wait() == 128 + signal.SIGPIPE


def test_help_names_every_command_once_within_a_terminal(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert max(map(len, text.splitlines())) <= 120
    commands = next(action.choices for action in cli._parser()._actions if isinstance(action.choices, dict))
    for name in commands:
        assert sum(line.startswith(f"  {name} ") for line in text.splitlines()) == 1, name


@pytest.fixture(scope="module")
def completion(tmp_path_factory):
    script = tmp_path_factory.mktemp("completion") / "completion.sh"
    script.write_text(run("completion", "bash").stdout)
    return script


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["ver"], {"verify"}),
        (["sweep", "--ki"], {"--kind"}),
        (["sweep", "--kind", ""], {"speed", "training"}),
        (["report", "--fig"], {"--figures"}),
    ],
)
def test_the_tab_key_completes_commands_options_and_values(completion, typed, expected):
    words = " ".join(f"'{word}'" for word in ["harness", *typed])
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_harness harness '{typed[-1]}' ''"
    command = ["bash", "-c", f"source {completion}; {asked}; printf '%s\\n' \"${{COMPREPLY[@]}}\""]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) == expected


@pytest.mark.parametrize("how", ["ascii", "closed"])
def test_a_verdict_is_in_the_exit_code_whatever_the_terminal_can_show(how):
    """A script that reads the exit code must not take a terminal's letters for a fault of the harness."""
    command = f"{shlex.quote(sys.executable)} -m harness verify results/reference/places-alone"
    command += " >&-" if how == "closed" else ""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    plain = subprocess.run(["sh", "-c", command.removesuffix(" >&-")], cwd=ROOT, capture_output=True, check=False)
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == plain.returncode in (0, 1, 2)
    assert b"Traceback" not in done.stderr
