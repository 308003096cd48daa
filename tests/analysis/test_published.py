"""Published tables, ruled on by the same code; docs/published.md tells them."""

import json
import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import cli
from harness.analysis import published
from harness.analysis.analyse import analyse
from harness.analysis.estimates import statistics, timing
from harness.analysis.load import load
from harness.errors import UserError
from harness.study.claim import shipped_cards

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "workflow" / "published" / "hyena.json"
PAGE = (ROOT / "docs" / "published.md").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return published.import_table(published.read_table(TABLE), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def found(whole):
    return analyse(whole)


@pytest.fixture(scope="module")
def above(tmp_path_factory):
    return analyse(published.import_table(published.read_table(TABLE), tmp_path_factory.mktemp("above"), 8192))


def ruling(analysis, claim):
    return next(c for c in analysis.claims if c.id == claim)


def law(analysis, label):
    return next(w for w in analysis.laws if w.label == label)


def test_every_point_has_five_percent_and_says_so(whole, found):
    for point in found.times:
        assert math.log(point.step_interval[1] / point.step_seconds) == pytest.approx(math.log(1.05))
        assert point.flagged == point.processes == 3
    flags = {flag for _, record in load(whole).speed() for flag in record.flags}
    assert flags == {"published, not measured here: ±5% assumed"}
    assert "±5 %" in PAGE


def test_points_are_the_published_ones(found):
    table = published.read_table(TABLE)
    for point in found.times:
        milliseconds = table.columns[point.label].milliseconds[table.lengths.index(point.length)]
        assert 1e3 * point.step_seconds == pytest.approx(milliseconds)
    assert [(c.label, c.length, c.status) for c in found.censored] == [("attention", 65536, "oom")] * 3


def test_the_error_of_a_ratio_is_that_of_two_independent_points(whole):
    groups = timing.groups(load(whole))
    group = next(g for g in groups if (g.label, g.length) == ("flash-attention", 8192))
    sides = [[timing.step_seconds(r, side, "step")[0] for r in group.records] for side in ("model", "partner")]
    own, partner, ratio = (
        statistics.estimate(values) for values in (*np.log(sides), np.log(sides[0]) - np.log(sides[1]))
    )
    assert own.error == pytest.approx(partner.error)
    assert ratio.error == pytest.approx(math.hypot(own.error, partner.error))


def test_the_crossover_with_flash_attention_lies_between_4k_and_8k(found):
    cross = next(c for c in found.crossovers if c.label == "flash-attention")
    assert (cross.state, cross.bracket) == ("crosses", (4096, 8192))
    assert 4096 < cross.interval[0] < cross.length < cross.interval[1] < 8192


def test_above_8k_the_cost_per_token_is_flat_for_hyena(found, above):
    for analysis in (found, above):
        own = law(analysis, "hyena")
        assert own.rise_window == (8192, 65536)
        assert own.rise_interval[1] < 1.10
    assert ruling(above, "hyena-linear-time").overall.verdict == "supported"


def test_above_8k_it_is_linear_for_flash_attention(found, above):
    assert law(above, "flash-attention").chosen == "linear"
    assert law(above, "flash-attention").rise_interval[0] > 7
    own = next(v for v in ruling(found, "hyena-quadratic-attention").variants if v.variant == "flash-attention")
    # Below 4K it hardly grows, which no power law fits: the exponent stays open by a hair.
    assert own.verdict == "inconclusive"
    assert own.interval == pytest.approx((0.772, 0.974), abs=0.01)


def test_the_flat_stretch_below_8k_is_recognised_as_fixed_cost(found):
    own = law(found, "hyena")
    fit = next(f for f in own.fits if f.law == own.best)
    assert fit.fixed_interval[0] > 0
    assert fit.fixed_seconds > 0.5 * fit.fitted_seconds[own.lengths.index(4096)]
    assert fit.fixed_seconds < 0.1 * fit.fitted_seconds[-1]
    assert "are fixed cost" in ruling(found, "hyena-linear-time").overall.detail
    slopes = {s.lengths: s.slope for s in found.local_slopes if s.label == "hyena"}
    assert slopes[4096, 8192] < 0.1 < 0.9 < slopes[8192, 16384]


def test_a_hundredfold_at_64k_is_refuted_at_eleven(found):
    claim = ruling(found, "hyena-64k")
    assert claim.overall.verdict == "refuted"
    flash = next(v for v in claim.variants if v.variant == "flash-attention")
    assert flash.statistic == pytest.approx(129.07 / 11.32)
    assert "11.4× at length 65,536" in flash.detail
    assert flash.interval[1] < 14
    # Where attention ran out of memory the speed-up may be any: not refuted there, and no process decides it.
    other = next(v for v in claim.variants if v.variant == "attention")
    assert (other.verdict, other.sample_size) == ("inconclusive", None)


def test_a_claim_of_eleven_would_not_be_refuted(whole, tmp_path):
    table = published.read_table(TABLE)
    claims = [msgspec.structs.replace(c, threshold=11.0) for c in table.claims if c.id == "hyena-64k"]
    found = analyse(published.import_table(msgspec.structs.replace(table, claims=claims), tmp_path))
    assert {v.variant: v.verdict for v in found.claims[0].variants} == {
        "attention": "supported",
        "flash-attention": "inconclusive",
    }


def test_the_page_tells_what_the_code_finds(whole, above, capsys):
    assert cli.main(["verify", str(whole), "--markdown"]) == 1
    assert capsys.readouterr().out.strip() in PAGE


@pytest.mark.parametrize("name", [n for n in published.table_names() if n != "hyena"])
def test_the_page_tells_the_ruling_over_every_table(name, tmp_path, capsys):
    published.import_table(published.read_table(published.find_table(name)), tmp_path)
    cli.main(["verify", str(tmp_path), "--markdown"])
    rows = [line for line in capsys.readouterr().out.splitlines()[2:] if not line.startswith("| –")]
    assert rows
    for row in rows:
        assert row.replace("| ", f"| `{name}` | ", 1) in PAGE


def test_claims_of_shipped_tables_are_those_of_the_cards():
    """The table of the field joins them by id, and holds both against the same threshold by the same rule."""
    of_the_table_alone = {"hyena-linear-time", "hyena-quadratic-attention", "hyena-long-sequences"}
    cards = {card.id: card for own in shipped_cards().values() for card in own}
    # A published decode step has no history of its own to stream after: it is a time like another.
    rules = {"fuxi-linear-decode": "speedup"}
    for name in published.table_names():
        for claim in published.read_table(published.find_table(name)).claims:
            if claim.id not in of_the_table_alone:
                card = cards[claim.id]
                assert claim.rule == rules.get(claim.id, card.rule)
                assert (claim.threshold, claim.margin) == (card.threshold, card.margin), claim.id


def test_a_papers_own_tables_may_contradict_its_abstract_and_each_other():
    own = published.own_rulings(["recmamba-time", "recmamba-memory", "fuxi-linear-decode"])
    times = {one.table: one.overall for one in own["recmamba-time"]}
    assert times["recmamba-kuairand"].statistic == pytest.approx(49.42 / 18.21)
    assert times["recmamba-kuairand"].verdict == "refuted"
    assert times["recmamba-lfm-1b"].statistic == pytest.approx(41.24 / 11.75)
    assert times["recmamba-lfm-1b"].verdict == "inconclusive"
    memory = {one.table: one.overall for one in own["recmamba-memory"]}
    assert memory["recmamba-memory"].statistic == pytest.approx(1 - 8.36 / 37.86)
    assert memory["recmamba-memory-again"].statistic == pytest.approx(1 - 38.43 / 58.65)
    assert memory["recmamba-memory-again"].verdict == "refuted"
    (decode,) = own["fuxi-linear-decode"]
    assert decode.overall.statistic == pytest.approx(121 / 5.7)


def test_no_table_is_read_for_claims_that_none_has():
    assert published.own_rulings(["no-slower-than-lrurec"]) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rule": "ranks-better"}, "reads more than a table holds; legal here: speedup"),
        ({"rule": "memory-saving"}, "needs gigabytes, and no column has any"),
        ({"phase": "forward"}, "about phase `forward`, the table about `step`; set both alike"),
        ({"challenger": "attention"}, "'attention' must be the table's partner, 'hyena'"),
        ({"rule": "no-slower"}, "needs a `margin`, such as 0.05"),
        ({"opponents": ["attention", "lstm"]}, "'lstm' is not a column or family"),
        ({"lengths": 1000}, "about no length of the table"),
    ],
)
def test_a_claim_on_which_no_rule_could_rule_is_refused(tmp_path, change, words):
    table = json.loads(TABLE.read_text())
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table, "claims": [{**table["claims"][0], **change}]}))
    with pytest.raises(UserError, match=re.escape(words)):
        published.read_table(path)


def test_columns_may_hold_different_quantities(tmp_path):
    table = json.loads(TABLE.read_text())
    columns = table["columns"]
    columns["hyena"]["gigabytes"] = [1.0] * 7
    columns["attention"] = {"family": "attention", "gigabytes": [2.0] * 6 + ["OOM"]}
    card = {"id": "less", "rule": "memory-saving", "sentence": "Less.", "source": "x", "threshold": 0.4, "margin": 0.05}
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table, "claims": [*table["claims"][:1], card]}))
    found = analyse(published.import_table(published.read_table(path), tmp_path / "records"))
    assert found.completeness.missing == 0
    assert {v.variant for v in ruling(found, "hyena-64k").variants} == {"flash-attention"}
    (less,) = ruling(found, "less").variants
    assert (less.variant, less.window) == ("attention", (32768, 32768))


def test_a_challenger_of_the_family_of_attention_is_not_its_own_opponent(tmp_path):
    table = published.read_table(published.find_table("fuxi-linear-decode"))
    claims = [msgspec.structs.replace(table.claims[0], opponents=None)]
    found = analyse(published.import_table(msgspec.structs.replace(table, claims=claims), tmp_path))
    assert {v.variant for v in found.claims[0].variants} == {"hstu", "fuxi-alpha", "fuxi-beta"}


def test_a_partner_without_numbers_is_refused(tmp_path):
    table = json.loads(TABLE.read_text())
    table["columns"]["hyena"]["milliseconds"] = [None] * 7
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(UserError, match="needs milliseconds of 'hyena', which has none"):
        published.read_table(path)


def test_a_table_of_memory_alone_counts_no_times(tmp_path):
    published.import_table(published.read_table(published.find_table("recmamba-memory")), tmp_path)
    found = analyse(tmp_path)
    assert found.times == []
    assert {p.label: p.peak_bytes for p in found.memory} == {
        "recmamba": 8_360_000_000,
        "sasrec": 37_860_000_000,
        "linrec": 11_850_000_000,
    }
    assert (found.completeness.ok, found.completeness.missing) == (3, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"partner": "hyaena"}, "partner 'hyaena' is not a column"),
        ({"lengths": [1024, 512]}, "must increase"),
        ({"assumed_error": 0}, "assumed_error 0"),
        ({"colour": "blue"}, "colour"),
        (
            {
                "columns": {"../../hyena": {"family": "convolution", "milliseconds": [1.0] * 7}},
                "partner": "../../hyena",
            },
            "since it names files",
        ),
        ({"columns": {"hyena": {"family": "convolution", "milliseconds": [1.0]}}}, "one entry per length"),
        ({"columns": {"hyena": {"family": "convolution", "milliseconds": [-1.0] * 7}}}, "above 0"),
    ],
)
def test_a_table_that_is_none(tmp_path, change, words):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**json.loads(TABLE.read_text()), **change}))
    with pytest.raises(UserError, match=words):
        published.read_table(path)


def test_no_table_and_no_length(tmp_path):
    with pytest.raises(UserError, match=r"docs/published\.md"):
        published.read_table(tmp_path / "none.json")
    with pytest.raises(UserError, match="no length"):
        published.import_table(published.read_table(TABLE), tmp_path, 1_000_000)


def test_the_command_of_the_page(tmp_path, capsys):
    assert "python -m harness.analysis.published hyena " in PAGE
    assert published.main(["hyena", str(tmp_path), "8192"]) == 0
    assert "harness verify" in capsys.readouterr().out
    assert {c.cell.spec.length for c in load(tmp_path).counted} == {8192, 16384, 32768, 65536}
    assert published.main([str(tmp_path / "none.json"), str(tmp_path)]) == 64
    assert capsys.readouterr().err.startswith("error: ")
    assert published.main(["hyaena", str(tmp_path)]) == 64
    assert "hyena" in capsys.readouterr().err
