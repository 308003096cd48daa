"""What the README tells people to type exists and works."""

import re
import sys
import types
from pathlib import Path

from harness import cli
from harness.analysis.analyse import analyse
from harness.conformance import check_class
from harness.reporting.tables import verdict_markdown
from harness.study import find_study
from models.base import SequenceModel

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
    for study in re.findall(r"(?:study=|STUDY=|harness sweep |harness cells )([a-z]+)", README):
        assert find_study(study).is_file()
    for folder in set(re.findall(r"results/reference/[\w.-]+", README)):
        assert (ROOT / folder / "study.json").is_file(), folder
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_the_verdict_table_is_that_of_the_committed_records():
    shown = README.split("<!-- verdicts -->\n")[1].split("<!-- /verdicts -->")[0]
    folder = ROOT / "results" / "reference" / "cpu-2core"
    assert verdict_markdown(analyse(folder)) in shown


def test_the_example_baseline_keeps_the_contract(tmp_path):
    code = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@register(" in block)
    module = types.ModuleType("mean_history")
    sys.modules["mean_history"] = module
    try:
        exec(compile(code, "mean_history.py", "exec"), module.__dict__)
        kind = next(
            v
            for v in vars(module).values()
            if isinstance(v, type) and issubclass(v, SequenceModel) and "NAME" in vars(v)
        )
        findings = check_class(kind)
    finally:
        del sys.modules["mean_history"]
    assert [f"{f.test}: {f.detail}" for f in findings if not f.passed] == []
