"""The page from a sentence to a verdict: its files are legal, and its commands give the verdict that it promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.claim import RULES, load_cards, shipped_cards

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "verify-a-claim.md").read_text()


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A folder with the two files as they are shown."""
    card, study = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "card.yaml").write_text(card)
    (tmp_path / "mine.yaml").write_text(study)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_rule_of_a_shipped_card_is_in_the_table_or_is_one_of_this_project_alone():
    table = TEXT.split("| the sentence says |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z]+-[a-z-]+|speedup|energy)`", table))
    assert named <= set(RULES.modules())
    shipped = {card.rule for cards in shipped_cards().values() for card in cards}
    assert shipped - named == {"equal-quality", "kernel", "streaming"}


def test_the_files_ask_for_as_many_cells_as_the_page_says(page):
    assert "fifteen cells" in TEXT
    found = list(cells(load_study("mine.yaml")))
    assert len(found) == 15
    assert {cell.spec.partner.label for cell in found} == {"lrurec"}
    assert [card.id for card in load_cards(["card.yaml"])] == ["incremental"]


def test_the_commands_give_a_verdict(page):
    """The page's study, smaller: three processes and a few milliseconds each."""
    study = yaml.safe_load((page / "mine.yaml").read_text())
    study["speed"] |= {"budget_seconds": 0.05, "minimum_seconds": 0.01, "minimum_steps": 2, "catalogue_items": 100}
    study["speed"]["sweeps"]["one-user"] |= {"replicates": 3}
    study["model"] = {"hidden_size": 8}
    (page / "mine.yaml").write_text(yaml.safe_dump(study))
    commands = re.findall(r"^python -m (harness (?:cells|sweep|verify) .*)$", TEXT, re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["cells", "sweep", "verify"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = [
        subprocess.run(
            [sys.executable, "-m", *command.split(), *(["--json"] if " verify " in command else [])],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        for command in commands
    ]
    assert [run.returncode for run in done[:2]] == [0, 0], done[1].stderr
    assert done[0].stdout.count("missing speed") == 9
    claim = json.loads(done[2].stdout)["claims"][0]
    assert (claim["id"], claim["rule"], claim["challenger"]) == ("incremental", "serving-anew", "lrurec")
    assert claim["verdict"] in ("supported", "refuted", "inconclusive")
    assert {v["variant"] for v in claim["variants"]} == {"sasrec-math", "sasrec-sdpa"}
    assert claim["statistic"] > 0
    assert len(claim["evidence"]) == 9
    assert done[2].returncode == {"supported": 0, "refuted": 1, "inconclusive": 2}[claim["verdict"]]
