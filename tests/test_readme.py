"""What the README tells people to type exists and works."""

import re
from pathlib import Path

import pytest
import yaml

from harness import cli
from harness.analysis.analyse import analyse
from harness.report.verdict_table import verdict_markdown
from harness.study.check import load_study
from harness.study.find import find_study
from harness.study.loss import LOSSES, loss_spec

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_one():
    parser = cli._parser()
    known = next(a for a in parser._actions if a.choices and "verify" in a.choices).choices
    named = set(re.findall(r"python -m harness ([a-z]+)", README))
    assert {"verify", "report", "sweep", "cells", "check", "data"} <= named <= set(known)


def test_every_make_target_is_one():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_study_and_folder_it_names_is_there():
    for study in re.findall(r"(?:study=|STUDY=|harness sweep |harness cells )([a-z]+)\b(?!\.)", README):
        assert find_study(study).is_file()
    for folder in set(re.findall(r"results/reference/[\w.-]+", README)):
        assert (ROOT / folder / "study.json").is_file(), folder
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_the_verdict_table_is_that_of_the_committed_records():
    shown = README.split("<!-- verdicts -->\n")[1].split("<!-- /verdicts -->")[0]
    folder = ROOT / "results" / "reference" / "cpu-2core"
    assert verdict_markdown(analyse(folder)) in shown


@pytest.mark.parametrize(("language", "file"), [("python", "fossil.py"), ("toml", "pyproject.toml")])
def test_the_example_baseline_is_the_one_that_the_tests_install(language, file):
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert (ROOT / "tests" / "example_plugin" / file).read_text() in blocks


def test_every_loss_and_its_defaults_are_those_of_the_harness():
    rows = re.findall(r"^\| `([a-z-]+)`[^|]*\|[^|]*\|(.*)\|$", README.split("## One loss")[1], re.MULTILINE)
    assert [name for name, _ in rows] == ["loss", *LOSSES, "declared"]
    for name, options in rows[1:]:
        shown = dict(re.findall(r"`(\w+): ([\d.]+)`", options))
        shared = {"name", "normalise", "temperature"}
        assert shown == {k: str(v) for k, v in loss_spec(name).items() if k not in shared}


def test_the_budget_it_shows_is_legal(tmp_path):
    shown = re.findall(r"`budgets: (\{.*?\}\})`", README, re.DOTALL)
    budgets = yaml.safe_load(" ".join(shown[0].split()))
    models = {"training": {"models": [*budgets], "datasets": ["synthetic"], "lengths": [8], "budgets": budgets}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "tiny", "device": "cpu", **models}))
    assert load_study(str(tmp_path / "study.yaml")).training.budgets
