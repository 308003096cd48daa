import msgspec
import pytest
from examples import MODELS, example, with_labels

from harness.report.numbers import interval, number, window
from harness.report.verdict_table import doubts, verdict_markdown, verdict_table


def test_a_line_per_claim_and_variant_within_100_columns():
    analysis = with_labels(example(tuple(MODELS)), {"gru4rec": "a-very-long-label-" * 8})
    lines = verdict_table(analysis).split("\n")
    assert max(map(len, lines)) <= 100
    for claim in analysis.claims:
        row = next(line for line in lines if line.startswith(f"{claim.id} "))
        assert row.split()[1] == claim.overall.verdict
    variants = [v.variant for c in analysis.claims for v in c.variants]
    assert sum(line.startswith("  sasrec-sdpa ") for line in lines) == variants.count("sasrec-sdpa") > 0


def test_columns_are_aligned():
    lines = verdict_table(example()).split("\n")
    place = lines[0].index("verdict")
    rows = [line for line in lines[2:-1] if line and not line.startswith("    ")]
    assert all(line[place:].split()[0] in {"supported", "refuted", "inconclusive", "missing"} for line in rows)


def test_the_last_line_counts_the_verdicts():
    analysis = example()
    last = verdict_table(analysis).split("\n")[-1]
    counts, cards = last.split(": ")
    assert sum(int(part.split()[0]) for part in counts.split(", ")) == len(analysis.claims)
    assert cards == f"of {len(analysis.claims)} claims"


def test_what_is_missing_is_named():
    table = " ".join(verdict_table(example(training=False)).split())
    assert "training cells of" in table


def test_a_model_that_sees_the_future_is_marked_in_every_row():
    analysis = example(tuple(MODELS))
    models = [msgspec.structs.replace(m, causal=m.label != "sasrec-sdpa") for m in analysis.models]
    analysis = msgspec.structs.replace(analysis, models=models)
    for table in (verdict_table(analysis), verdict_markdown(analysis)):
        rows = [line for line in table.splitlines() if line.startswith(("  sasrec-sdpa", "| – sasrec-sdpa"))]
        assert rows
        assert all("sasrec-sdpa (non-causal)" in row for row in rows)
        assert table.count("(non-causal)") == len(rows)


@pytest.mark.parametrize(
    ("size", "unit", "words"),
    [
        (9, "processes", "About 9 processes would decide."),
        (3, "processes", "At least 3 processes are needed."),
        (3, "seeds", "At least 3 seeds are needed."),
        (6, "lengths", "About 6 lengths would decide."),
        (
            20060,
            "processes",
            "More than 1,000 processes would be needed: measure on a quieter machine, or another size.",
        ),
    ],
)
def test_an_undecided_claim_says_how_many_would_decide(size, unit, words):
    analysis = example()
    claim = analysis.claims[0]
    overall = msgspec.structs.replace(claim.overall, verdict="inconclusive", sample_size=size, sample_unit=unit)
    table = verdict_table(msgspec.structs.replace(analysis, claims=[msgspec.structs.replace(claim, overall=overall)]))
    assert words in " ".join(table.split())


def test_no_claims():
    assert "no claim" in verdict_table(msgspec.structs.replace(example(), claims=[]))


def test_markdown_has_a_row_per_claim_and_variant_and_escapes_bars():
    analysis = example()
    first = msgspec.structs.replace(analysis.claims[0], sentence="a|b\nin two lines")
    table = verdict_markdown(msgspec.structs.replace(analysis, claims=[first, *analysis.claims[1:]]))
    lines = table.splitlines()
    variants = [v.variant for c in analysis.claims if len(c.variants) > 1 for v in c.variants]
    assert variants
    assert len(lines) == 2 + len(analysis.claims) + len(variants)
    assert "a\\|b in two lines" in lines[2]
    assert {line.replace("\\|", "").count("|") for line in lines} == {6}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (1.1, "1.1"),
        (0.01234, "0.0123"),
        (8192, "8,192"),
        (999.6, "1,000"),
        (-5.127, "-5.13"),
        (2.5e-7, "2.50e-07"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [(None, "-"), ((None, None), "-"), ((1.0, None), ">= 1"), ((None, 2.0), "<= 2"), ((0.98, 1.25), "[0.98, 1.25]")],
)
def test_intervals(ends, text):
    assert interval(ends) == text


def test_windows():
    assert [window(None), window((128, 8192)), window((64, 64))] == ["-", "128-8,192", "64"]


def flagged(analysis, share):
    """The analysis with so many of its timed cells flagged."""
    timed = [row.path for row in analysis.records if row.step_seconds is not None and row.status == "ok"]
    chosen = set(timed[: round(share * len(timed))])
    flags = [
        "model step: only 4 steps in 1.9 s fitted the budget; give it more",
        "neighbours: waited 7% of the time; stop",
    ]
    rows = [
        msgspec.structs.replace(r, flags=flags[r.number % 2 :] if r.path in chosen else []) for r in analysis.records
    ]
    return msgspec.structs.replace(analysis, records=rows)


def test_a_disturbed_machine_is_said_below_the_verdicts():
    assert doubts(flagged(example(), 0.4)) == []
    (words,) = doubts(flagged(example(), 1.0))
    assert words.endswith("of them: neighbours: waited …% of the time.")
    assert verdict_table(flagged(example(), 1.0)).endswith("neighbours: waited …% of the time.")


def test_a_preliminary_study_says_so_below_its_verdicts():
    analysis = flagged(example(), 0.0)
    study = msgspec.structs.replace(analysis.study, preliminary=True)
    assert "Preliminary: the study measures too little" in verdict_table(msgspec.structs.replace(analysis, study=study))
    assert "Preliminary" not in verdict_table(analysis)
