"""docs/claims.md: every shipped claim stands there with a study that rules on it and records that hold it."""

import re
from pathlib import Path

import pytest

from harness.study.check import load_study
from harness.study.claim import load_cards, shipped_cards
from harness.study.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (ROOT / "docs" / "claims.md").read_text().splitlines()
    if line.startswith("| ") and "---" not in line
][1:]
SHIPPED = {card.id for cards in shipped_cards().values() for card in cards}


def ids(text):
    return [word for word in re.findall(r"`([^`]+)`", text) if word in SHIPPED]


def test_every_shipped_claim_is_there_once():
    assert sorted(name for row in ROWS for name in ids(row[0])) == sorted(SHIPPED)


@pytest.mark.parametrize("row", ROWS, ids=[row[1] for row in ROWS])
def test_the_command_of_a_row_rules_on_its_claims(row):
    study = load_study(re.search(r"(?:STUDY=|harness sweep )([\w-]+)", row[1])[1])
    assert set(ids(row[0])) <= {card.id for card in load_cards(study.claims)}
    for folder in re.findall(r"`([^`]+)`", row[3]):
        kept = read_manifest(ROOT / "results" / "reference" / folder)
        assert set(ids(row[0])) <= {card.id for card in kept.claims}
        assert kept.study.name == study.name
