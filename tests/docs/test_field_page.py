"""docs/field.md: its table is that of the committed records, and its figures are theirs."""

from pathlib import Path

import pytest
from committed import analysis_of

from harness.report.field_table import field_markdown

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "field.md").read_text()


@pytest.fixture(scope="module")
def found():
    return analysis_of("field-cpu")


@pytest.fixture(scope="module")
def again():
    return analysis_of("field-cpu-again")


def test_the_table_is_that_of_the_records(found):
    between = PAGE.partition("<!-- field -->\n")[2].partition("<!-- /field -->")[0]
    assert between == field_markdown([found])


def test_most_cards_of_other_papers_are_decided(found):
    decided = [c.id for c in found.claims if c.overall.verdict in ("supported", "refuted")]
    assert len(decided) == 9
    assert "Nine of the ten" in PAGE
    assert all(c.overall.verdict != "missing" for c in found.claims)


def test_figures_in_the_text_are_the_records(found):
    speedup = {c.id: c.overall.statistic for c in found.claims}
    assert f"{speedup['hyena-8k']:.1f} and\n{speedup['hyena-64k']:.0f} times" in PAGE
    recmamba = {c.id: {v.variant: v.statistic for v in c.variants} for c in found.claims if c.id.startswith("recmamba")}
    assert f"it is {recmamba['recmamba-time']['sasrec-math']:.1f}\n  times as fast" in PAGE
    assert f"{100 * recmamba['recmamba-memory']['sasrec-math']:.0f} % less memory" in PAGE


def test_two_runs_agree_in_every_verdict_that_both_decide(found, again):
    first, second = ({c.id: c.overall for c in one.claims} for one in (found, again))
    assert first.keys() == second.keys()
    decided = [id for id in first if {first[id].verdict, second[id].verdict} <= {"supported", "refuted"}]
    assert len(decided) >= 9
    assert [first[id].verdict for id in decided] == [second[id].verdict for id in decided]


def test_the_figures_of_the_second_run_are_on_the_page(again):
    text = " ".join(PAGE.split())
    for claim in again.claims:
        figure = claim.overall.measured.split(" over ")[0].split(" the events")[0].split(" memory")[0]
        assert figure in text, claim.id
