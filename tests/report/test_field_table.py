"""The table of the field: claims of papers, their own tables and the rulings here, side by side."""

import msgspec
import pytest

from harness import cli
from harness.analysis.analyse import analyse
from harness.analysis.published import find_table, import_table, read_table
from harness.report.field_table import field_markdown, field_rows, field_table
from harness.report.section import sections


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """An analysis with a claim that a shipped table rules on too, and one without."""
    table = read_table(find_table("recmamba-kuairand"))
    card = msgspec.structs.replace(table.claims[0], setting="A GPU | two.", differs="Nothing.")
    other = msgspec.structs.replace(card, id="twice", sentence="Twice as fast.", threshold=2.0, differs=None)
    silent = msgspec.structs.replace(card, id="silent", setting=None, differs=None)
    shown = msgspec.structs.replace(table, claims=[card, other, silent])
    return analyse(import_table(shown, tmp_path_factory.mktemp("field")))


def test_claims_whose_cards_say_what_differs_stand_beside_their_own_tables(found):
    rows = {row.claim.id: row for row in field_rows([found])}
    assert list(rows) == ["recmamba-time", "twice"]
    assert [one.table for one in rows["recmamba-time"].own] == ["recmamba-kuairand", "recmamba-lfm-1b"]
    assert rows["twice"].own == []


def test_plain_lines_fit_and_name_everything(found):
    text = field_table([found])
    assert max(map(len, text.splitlines())) <= 100
    for words in ("recmamba-time: refuted", "twice: supported", "none is shipped", "Nothing.", "not stated", "2 cards"):
        assert words in text


def test_markdown_has_a_row_a_claim(found):
    lines = field_markdown([found]).splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 3
    assert "A GPU \\| two." in lines[2]
    assert "▼ **refuted**" in lines[2]
    assert "● **supported**" in lines[3]


def test_the_report_shows_it(found):
    data = sections()["field"].data(found)
    assert [row["here"]["verdict"] for row in data["rows"]] == ["refuted", "supported"]
    assert len(data["rows"][0]["own"]) == 2


def test_records_without_such_cards_say_so(capsys, tmp_path):
    folder = import_table(read_table(find_table("recmamba-lfm-1b")), tmp_path)
    assert cli.main(["field", str(folder)]) == 64
    assert "name records of study `field`" in capsys.readouterr().err
