"""The workflow itself, with a tiny study, in a copy of the workflow files."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from checkout import lay_out

TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "timing_partner": "gru4rec",
    "speed": {
        "models": ["gru4rec"],
        "budget_seconds": 0.5,
        "minimum_seconds": 0.05,
        "minimum_steps": 2,
        "catalogue_items": 100,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [16, 32], "tokens": 64, "replicates": 1}},
    },
}
ONE_CELL = {
    **TINY,
    "speed": {**TINY["speed"], "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 64, "replicates": 1}}},
}


@pytest.fixture
def project(tmp_path):
    lay_out(tmp_path)
    write(tmp_path, TINY)
    yield tmp_path
    # A test that failed in the middle must not leave a workflow that takes the next one's time.
    for process in find(tmp_path, ""):
        process.kill()


def write(folder, study):
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))


DOCUMENT, ANALYSIS = "reports/scaling.pdf", "results/tiny/analysis.json"


def start(folder, target=DOCUMENT, **options):
    """The workflow as in the foreground: a shell makes what it starts in the background deaf to Ctrl-C.

    What is asked of the cells is asked up to the analysis: drawing takes longer than measuring these.
    """
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options}
    command = [sys.executable, "workflow/run.py", target, "--config", "study=tiny.yaml"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def make(folder, target=DOCUMENT):
    process = start(folder, target)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def records(folder):
    found = (folder / "results" / "tiny" / "speed").rglob("*.json")
    return {p: p.stat().st_mtime_ns for p in found if not p.name.startswith(".")}


def test_only_what_is_asked_for_is_measured(project):
    code, output = make(project)
    assert code == 0, output
    first = records(project)
    assert len(first) == 2
    # Few enough lines to be read, with the verdicts and where everything lies; the rest is in the log that is named.
    assert output.count("\n") < 60
    for words in ("log of Snakemake: logs/tiny/snakemake.log", "[2/2]", "linear-time", "document  reports/scaling.pdf"):
        assert words in output
    assert "rule speed" in (project / "logs" / "tiny" / "snakemake.log").read_text()
    pdf = (project / "reports" / "scaling.pdf").stat().st_mtime_ns

    code, output = make(project)
    assert code == 0, output
    assert "nothing to measure: all cells and the document are up to date" in output
    assert "Nothing to be done" in (project / "logs" / "tiny" / "snakemake.log").read_text()
    assert records(project) == first
    assert (project / "reports" / "scaling.pdf").stat().st_mtime_ns == pdf

    study = {**TINY, "speed": {**TINY["speed"], "models": ["gru4rec", "lrurec"]}}
    assert planned(project, study) == {"speed": 2, "manifest": 1, "analyse": 1, "report": 1, "total": 5}

    write(project, TINY)
    gone, kept = first
    gone.unlink()
    code, output = make(project, ANALYSIS)
    assert code == 0, output
    second = records(project)
    assert second.keys() == first.keys()
    assert second[kept] == first[kept]
    assert second[gone] > first[gone]


def test_many_timed_cells_are_forked_and_snakemake_finds_them_done(project):
    """Each of the twelve records says that its child imported nothing anew; nothing is measured twice."""
    sweep = {"lengths": [2, 4, 8, 16, 32, 64], "tokens": 64, "replicates": 2}
    write(project, {**TINY, "speed": {**TINY["speed"], "sweeps": {"constant-tokens": sweep}}})
    code, output = make(project, ANALYSIS)
    assert code == 0, output
    assert "[12/12" in output
    found = [json.loads(path.read_text()) for path in records(project)]
    assert len(found) == 12
    imports = sorted(one["provenance"]["import_seconds"] for one in found)
    # A server's first child waits for the server's imports, and each replicate has a server of its own.
    assert max(imports[:10]) < 0.5
    assert "rule speed" not in (project / "logs" / "tiny" / "snakemake.log").read_text()
    assert (project / ANALYSIS).exists()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [("stdy=tiny.yaml", "knows 'study' alone, not stdy", 1), ("study=nope", "error: unknown study 'nope'", 64)],
)
def test_a_misspelt_word_is_said_and_nothing_is_blamed_on_cells(project, words, said, code):
    command = [sys.executable, "workflow/run.py", "reports/scaling.pdf", "--config", words]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert "failed.json" not in done.stderr
    assert not (project / "results").exists()


def find(folder, word):
    """Processes working in `folder` whose command line holds `word`."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(folder) and any(word in part for part in process.info["cmdline"] or []):
            found.append(process)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX's")
def test_a_terminal_gets_a_bar_and_its_cursor_back(project):
    write(project, ONE_CELL)
    master, slave = pty.openpty()
    command = [sys.executable, "workflow/run.py", ANALYSIS, "--config", "study=tiny.yaml"]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, cwd=project, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = b""
    # Linux says EIO where the other end is closed.
    with contextlib.suppress(OSError):
        while content := os.read(master, 1 << 16):
            text += content
    os.close(master)
    assert process.wait(timeout=60) == 0
    shown = text.decode()
    assert "0/1 cells" in shown
    assert "gru4rec, 16 events, process 1" in shown
    assert "document  reports/scaling.pdf" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    # NO_COLOR is obeyed: no code of a colour, bold and dim aside.
    assert not re.search(r"\x1b\[(?:\d+;)*[34]\d", shown)


def test_a_misspelt_study_or_model_is_one_line(project):
    write(project, {**TINY, "timing_partner": "gru5rec"})
    code, output = make(project)
    assert code != 0
    assert "unknown model 'gru5rec'. Did you mean 'gru4rec'?" in output
    assert "Traceback" not in output


def planned(folder, study):
    """Jobs per rule of a dry run."""
    write(folder, study)
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "2", "reports/scaling.pdf"]
    done = subprocess.run(
        [*command, "--config", "study=tiny.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    lines = [line.split() for line in output.splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def test_the_operator_is_timed_once_and_only_where_the_study_asks_for_it(project):
    # That a study without it asks for none is seen where cells are added.
    wanted = {**TINY, "operator": True}
    jobs = planned(project, wanted)
    assert (jobs["operator"], jobs["speed"], jobs["analyse"]) == (1, 2, 1)
    folder = project / "results" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operator.json").write_text("{}")
    assert "operator" not in planned(project, wanted)
    # Deleted under a finished analysis it is measured again, like any record.
    (folder / "operator.json").unlink()
    (folder / "analysis.json").write_text("{}")
    assert planned(project, wanted)["operator"] == 1
