"""Cards and rules as a stranger adds them: a card of a few lines, and a rule as one file or from a package."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import factories
import msgspec
import pytest
import yaml

from claims.studies import CLAIMS, QUIET
from harness import cli, doors
from harness.analysis.analyse import analyse
from harness.errors import UserError
from harness.study import claim as cards
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.claim import RULES, Card, load_cards, shipped_cards

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "harness" / "analysis" / "claims" / "_template.py"


def card(**fields):
    return Card(**{"id": "mine", "rule": "speedup", "sentence": "It is fast.", "source": "a paper", **fields})


def ruled(folder, *wanted):
    return analyse(factories.make_folder(folder, claims=list(wanted))).claims


def test_cards_may_share_a_rule_and_each_is_held_to_its_own_number(tmp_path):
    twice, often = ruled(tmp_path, card(id="twice", threshold=2.0), card(id="often", threshold=1000.0))
    assert (twice.overall.verdict, often.overall.verdict) == ("supported", "refuted")
    assert twice.overall.allowed == "≥ 2×"
    assert twice.overall.measured.endswith("at 8,192 events, batch 1 (8,192 tokens a batch)")


def test_two_cards_of_one_rule_do_not_share_the_tolerance_of_its_challenge(tmp_path):
    strict = card(id="strict", rule="linear-time", threshold=1.02)
    lax = card(id="lax", rule="linear-time", threshold=1.5)
    alone = [ruled(tmp_path / one.id, one)[0].overall for one in (strict, lax)]
    assert ["tolerance 2%" in alone[0].detail, "tolerance 50%" in alone[1].detail] == [True, True]
    assert [c.overall for c in ruled(tmp_path / "both", strict, lax)] == alone


def test_opponents_are_labels_models_or_families(tmp_path):
    def variants(*names):
        folder = tmp_path / "-".join(names)
        return {v.variant for v in ruled(folder, card(threshold=2.0, opponents=list(names)))[0].variants}

    assert variants("gru4rec") == {"gru4rec"}
    assert variants("sasrec") == variants("attention") == {"sasrec-math", "sasrec-sdpa"}
    assert variants("recurrent", "sasrec-math") == {"gru4rec", "sasrec-math"}
    (typo,) = ruled(tmp_path / "typo", card(threshold=2.0, opponents=["gru4re"]))
    assert "opponent of claim 'mine' 'gru4re'. Did you mean 'gru4rec'" in typo.overall.detail


def test_lengths_bound_what_a_card_is_about(tmp_path):
    given = factories.LENGTHS
    everything = ruled(tmp_path / "all", card(threshold=2.0))[0].overall.window
    assert everything == (given[0], given[-1])
    one = ruled(tmp_path / "one", card(threshold=2.0, lengths=given[1]))[0].overall
    assert one.window == (given[1], given[1])
    start = cards.From(start=given[-2])
    late = ruled(tmp_path / "from", card(threshold=2.0, lengths=start))[0].overall
    assert late.window == (given[-2], given[-1])


def write_study(folder, claims, **more):
    file = folder / "cards.yaml"
    file.write_text(yaml.safe_dump(claims))
    speed = {
        "models": ["hyenarec", "gru4rec", "lrurec", "sasrec"],
        "sweeps": {"t": {"tokens": 64, "lengths": [16], "replicates": 2, "measure": ["time", "memory"]}},
    }
    study = {"name": "mine", "device": "cpu", "speed": speed, "claims": [str(file)], **more}
    (folder / "mine.yaml").write_text(yaml.safe_dump(study))
    return str(folder / "mine.yaml")


PLAIN = {"id": "mine", "rule": "speedup", "sentence": "It is fast.", "source": "a paper", "threshold": 2.0}


def test_a_challenger_of_its_own_is_paired_with_its_opponents_and_itself(tmp_path):
    before = {c.key for c in cells(load_study(write_study(tmp_path, [PLAIN])))}
    other = {**PLAIN, "id": "other", "challenger": "lrurec", "opponents": ["gru4rec"]}
    study = load_study(write_study(tmp_path, [PLAIN, other]))
    more = [c for c in cells(study) if c.key not in before]
    assert before <= {c.key for c in cells(study)}
    assert sorted({(c.label, c.spec.partner.label) for c in more}) == [
        ("gru4rec", "lrurec"),
        ("lrurec", "lrurec"),
    ]
    assert [c.spec.measure for c in more if c.label == "gru4rec"] == [["time"], ["time"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "speedupp"}, "card 'mine': unknown rule 'speedupp'. Did you mean 'speedup'?"),
        ({"challenger": "lrurc"}, "unknown challenger of claim 'mine' 'lrurc'. Did you mean 'lrurec'?"),
        ({"challenger": "lrurec", "opponents": ["recurent"]}, "'recurent'. Did you mean 'recurrent'?"),
        ({"threshhold": 2.0}, "threshhold"),
        ({"lengths": 0}, "lengths"),
    ],
)
def test_what_a_card_cannot_mean_is_refused_when_the_study_is_read(tmp_path, capsys, change, message):
    study = write_study(tmp_path, [{**PLAIN, **change}])
    assert cli.main(["cells", study]) == 64
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_files_and_ids_choose_cards():
    nine = load_cards()
    assert load_cards(["hyenarec"]) == nine
    assert [c.id for c in load_cards(["kernel", "linear-time"])] == ["linear-time", "kernel"]
    with pytest.raises(UserError, match="two cards have the id 'kernel'"):
        load_cards(["hyenarec", "kernel"])
    with pytest.raises(UserError, match=r"unknown claim 'kernell'.*Did you mean 'kernel'"):
        load_cards(["kernell"])
    with pytest.raises(UserError, match=r"no file of cards 'nowhere\.yaml'"):
        load_cards(["nowhere.yaml"])


def test_a_file_in_the_folder_is_a_rule(tmp_path):
    for name in ("harness", "models", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TEMPLATE, tmp_path / "harness" / "analysis" / "claims" / "fast_at_last.py")
    folder = factories.make_folder(tmp_path / "records", claims=[card(rule="fast-at-last", threshold=2.0)])
    command = [sys.executable, "-m", "harness", "verify", str(folder), "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)})
    claims = json.loads(done.stdout)["claims"]
    assert [(c["rule"], c["verdict"]) for c in claims] == [("fast-at-last", "supported")]
    assert "≥ 2×" in claims[0]["allowed"]


def test_a_package_brings_a_rule_by_an_entry_point(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(TEMPLATE.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("from-a-package", "my_rules", cards.RULES.group)
    broken = metadata.EntryPoint("broken", "no_such_module", cards.RULES.group)
    monkeypatch.setattr(doors, "entry_points", lambda group: [point, broken])
    assert RULES.modules()["from-a-package"] == "my_rules"
    assert ruled(tmp_path / "a", card(rule="from-a-package", threshold=2.0))[0].overall.verdict == "supported"
    with pytest.raises(UserError, match=r"rule 'broken': module 'no_such_module' cannot be imported"):
        ruled(tmp_path / "b", card(rule="broken", threshold=2.0))
    taken = metadata.EntryPoint("speedup", "my_rules", cards.RULES.group)
    monkeypatch.setattr(doors, "entry_points", lambda group: [taken])
    with pytest.raises(UserError, match=r"rule 'speedup' is harness\.analysis\.claims\.speedup already"):
        RULES.modules()


def test_every_published_claim_has_a_rule():
    assert {card.rule for cards in shipped_cards().values() for card in cards} <= set(RULES.modules())


@pytest.mark.parametrize(
    "claim", ["linear-time", "speedup-6x", "long-sequences", "linear-memory", "accuracy", "kernel"]
)
def test_thresholds_come_from_the_claim(tmp_path, claim):
    bare = msgspec.structs.replace(CLAIMS[claim], threshold=None)
    folder = factories.make_folder(tmp_path, lengths=(256,), claims=[bare])
    overall = analyse(folder).claims[0].overall
    assert overall.verdict == "missing"
    assert f"claim '{claim}' has no threshold" in overall.detail


def test_another_threshold_gives_another_verdict(tmp_path):
    folder = factories.make_folder(
        tmp_path,
        noise=QUIET,
        memory=False,
        training=False,
        claims=[msgspec.structs.replace(CLAIMS["speedup-6x"], threshold=4.0)],
    )
    assert analyse(folder).claims[0].overall.verdict == "supported"


def test_an_unknown_rule_names_the_known_ones(tmp_path):
    odd = msgspec.structs.replace(CLAIMS["accuracy"], rule="ranks-beter")
    folder = factories.make_folder(tmp_path, lengths=(256,), claims=[odd])
    with pytest.raises(UserError, match="Did you mean 'ranks-better'"):
        analyse(folder)


def test_a_challenger_is_paired_where_it_is_timed_and_at_the_lengths_of_its_cards(tmp_path):
    other = {**PLAIN, "id": "other", "challenger": "lrurec", "opponents": ["gru4rec"], "lengths": 32}
    sweeps = {
        "both": {"tokens": 64, "lengths": [16, 32], "replicates": 1},
        "without": {"tokens": 64, "lengths": [32], "replicates": 1, "models": ["hyenarec", "gru4rec"]},
    }
    speed = {"models": ["hyenarec", "gru4rec", "lrurec"], "sweeps": sweeps}
    found = cells(load_study(write_study(tmp_path, [PLAIN, other], speed=speed)))
    paired = {(c.label, c.spec.sweep, c.spec.length) for c in found if c.spec.partner.label == "lrurec"}
    assert paired == {("gru4rec", "both", 32), ("lrurec", "both", 32)}


def test_words_of_a_card_decide_nothing():
    plain = card(threshold=2.0)
    assert card(threshold=2.0, setting="A GPU.", differs="Two cores.").digest == plain.digest


def test_rules_in_a_group_have_their_files_names():
    assert RULES.modules()["linear-memory"] == "harness.analysis.claims.cost.linear_memory"
    assert "cost" not in RULES.modules()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opponents": ["grurec"]}, "unknown opponent of claim 'mine' 'grurec'"),
        ({"dataset": "ml-1m"}, "unknown data set of claim 'mine' 'ml-1m'. Legal: none."),
    ],
)
def test_what_a_card_names_must_be_in_the_study(tmp_path, capsys, change, message):
    assert cli.main(["cells", write_study(tmp_path, [{**PLAIN, **change}])]) == 64
    assert message in capsys.readouterr().err


UNFIT = [
    ({"threshold": None}, "claim 'mine' has no threshold; its rule needs one; write it on its card"),
    ({"threshold": 0.0}, "claim 'mine' has the threshold 0; its rule needs a number above 0"),
    ({"threshold": -1.0}, "claim 'mine' has the threshold -1; its rule needs a number above 0"),
    ({"rule": "no-slower", "margin": -1.0}, "has the margin -1; its rule needs a number from 0 to below 1"),
    ({"rule": "no-slower", "margin": 1.0}, "has the margin 1; its rule needs a number from 0 to below 1"),
    ({"challenger": "lrurc"}, "unknown challenger of claim 'mine' 'lrurc'"),
    ({"opponents": ["grurec"]}, "unknown opponent of claim 'mine' 'grurec'"),
    ({"dataset": "nowhere"}, "unknown data set of claim 'mine' 'nowhere'"),
    ({"opponents": ["gru4rec"], "lengths": 77}, "claim 'mine' is about length 77, which no cell of this study has"),
]


@pytest.mark.parametrize(("change", "message"), UNFIT)
def test_a_card_that_cannot_be_ruled_on_keeps_no_other_from_its_verdict(tmp_path, capsys, change, message):
    """As in a study.json that was written by hand, or by an earlier version."""
    mine = msgspec.convert({**PLAIN, **change}, Card)
    others = [c for c in load_cards() if c.id == "speedup-6x"]
    folder = factories.make_folder(tmp_path, memory=False, training=False, claims=[mine, *others])
    assert cli.main(["verify", str(folder), "--json"]) in (0, 1, 2)
    own, other = json.loads(capsys.readouterr().out)["claims"]
    assert own["verdict"] == "missing"
    assert other["verdict"] in ("supported", "refuted")
    assert message in own["detail"]


@pytest.mark.parametrize("status", ["oom", None])
def test_a_family_is_known_without_a_record_that_ran(tmp_path, capsys, status):
    """Out of memory is a result, and says nothing of the model; before the first record there is nothing at all."""
    mine = msgspec.convert({**PLAIN, "opponents": ["attention"]}, Card)
    folder = factories.make_folder(tmp_path, memory=False, training=False, claims=[mine])
    for path in folder.glob("speed/sasrec*/*.json"):
        if status is None:
            path.unlink()
            continue
        content = json.loads(path.read_text())
        content |= {"status": status, "timing": None, "model": None, "reason": "CUDA out of memory"}
        path.write_text(json.dumps(content))
    assert cli.main(["verify", str(folder), "--json"]) in (0, 1, 2)
    (claim,) = json.loads(capsys.readouterr().out)["claims"]
    assert claim["verdict"] == "missing"
    assert "unknown" not in claim["detail"]
