"""Without torch: what reads records works, what measures says in one line what is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORDS = "results/reference/tuning-beauty"
WITHOUT_TORCH = """
import sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, WithoutTorch())
from harness import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def harness(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_torch_comes_with_an_extra_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(line.startswith("torch") for line in project["dependencies"])
    assert any(line.startswith("torch") for line in project["optional-dependencies"]["measure"])


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (["verify", RECORDS], {0, 1, 2}),
        (["accuracy", RECORDS], {0}),
        (["compare", RECORDS, RECORDS], {0}),
        (["cells", "quick"], {0}),
        (["data", "ml-latest-small"], {0}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_reads_works(arguments, codes):
    done = harness(*arguments)
    assert done.returncode in codes, done.stderr
    assert "torch, which is not installed" not in done.stderr


def test_reports_are_made(tmp_path):
    done = harness("report", RECORDS, "--output", str(tmp_path / "a.pdf"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("arguments", [["sweep", "quick"], ["check", "sasrec"], ["models"], ["plan", "quick"]])
def test_what_measures_says_what_to_install(arguments, tmp_path):
    if arguments[0] in ("sweep", "plan"):
        arguments = [*arguments, "--results", str(tmp_path / "results")]
    done = harness(*arguments)
    assert done.returncode == 64, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "pip install 'hyenarec-bench[measure]'" in line
    assert not (tmp_path / "results").exists()
