"""What scripts may rely on: the schema of `verify --json`, and one message per bad file."""

import json
import math
import re
import shutil
from pathlib import Path

import factories
import pytest

from harness import cli
from harness.analysis.compare import Change, Comparison
from harness.analysis.load import load
from harness.analysis.results import ClaimVerdict
from harness.report.verdicts_json import VERDICTS_SCHEMA, ClaimEntry, Verdicts

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("hyenarec", "sasrec-sdpa", "gru4rec")


@pytest.fixture
def folder(tmp_path):
    truths = {k: factories.TRUTHS[k] for k in LABELS}
    return factories.make_folder(tmp_path / "study", truths=truths, lengths=(256, 512, 1024), seeds=(0, 1))


def run(capsys, *arguments):
    code = cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


# Fields may be added; none may go or change its meaning while the number stays.
FIELDS = {
    Verdicts: {"schema", "study", "completeness", "refused", "other_split", "stale", "claims"},
    ClaimEntry: {
        "id", "sentence", "source", "variant", "verdict", "statistic", "interval", "threshold", "margin", "window",
        "evidence", "detail", "missing", "sample_size", "sample_unit", "variants",
    },
    ClaimVerdict: {
        "id", "variant", "verdict", "statistic", "interval", "threshold", "margin", "window", "evidence", "detail",
        "missing", "sample_size", "sample_unit",
    },
}  # fmt: skip


def test_the_schema_stays():
    assert VERDICTS_SCHEMA == 1
    for kind, fields in FIELDS.items():
        assert fields <= set(kind.__struct_fields__), kind


@pytest.mark.parametrize("kind", [Verdicts, ClaimEntry, Comparison, Change])
def test_every_field_is_documented(kind):
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "json.md").read_text()))
    assert set(kind.__struct_fields__) <= documented


def test_threats_stand_in_both_forms_of_verify(folder, capsys):
    path = next((folder / "speed" / "gru4rec").iterdir())
    path.write_text(path.read_text().replace("Example CPU at 3 GHz", "Another CPU"))
    _, words, _ = run(capsys, "verify", folder)
    assert "threats to validity" in words
    assert "2 machines are mixed" in words
    assert max(map(len, words.splitlines())) <= 100
    _, shown, _ = run(capsys, "verify", folder, "--json")
    assert any("2 machines are mixed" in threat for threat in json.loads(shown)["threats"])


def test_verify_json_holds_the_schema(folder, capsys):
    code, out, err = run(capsys, "verify", folder, "--json")
    found = json.loads(out)
    assert err == ""
    assert found["schema"] == VERDICTS_SCHEMA
    assert found["study"] == "factory"
    assert set(found["completeness"]) >= {"cells", "ok", "censored", "failed", "missing"}
    assert FIELDS[Verdicts] <= set(found)
    words = {claim["verdict"] for claim in found["claims"]}
    assert words <= {"supported", "refuted", "inconclusive", "missing"}
    assert code == (1 if "refuted" in words else 2 if words & {"inconclusive", "missing"} else 0)
    for claim in found["claims"]:
        assert FIELDS[ClaimEntry] <= set(claim)
        assert claim["variant"] == ""
        assert claim["interval"] is None or len(claim["interval"]) == 2
        for variant in claim["variants"]:
            assert FIELDS[ClaimVerdict] <= set(variant)
        for path in claim["evidence"]:
            assert (folder / path).is_file()


# --- one clear message, and the rest still reports ------------------------------------------------


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def older(path):
    edit(path, lambda c: c.update(schema_version=0))


def newer(path):
    edit(path, lambda c: c.update(schema_version=2, colour="blue"))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def with_nan(path):
    edit(path, lambda c: c["test"]["metrics"].update({"ndcg@10": math.nan}))


def twice(path):
    shutil.copy(path, path.with_name("again.json"))


def another_split(path):
    edit(path, lambda c: c["provenance"].update(split_sha256="6" * 64))


BAD = [
    (older, "record schema 0, this harness reads schema 1", False),
    (newer, "record schema 2, this harness reads schema 1", False),
    (truncated, "not a complete JSON file", False),
    (with_nan, "test.metrics.ndcg@10 is nan, which no measurement gives; delete it", False),
    (twice, "a second record of the cell training/gru4rec/", True),
    (another_split, "split 66666666 of synthetic, most records there have 55555555", True),
]


@pytest.mark.parametrize(("spoil", "words", "counts"), BAD, ids=[b[0].__name__ for b in BAD])
def test_a_bad_file_gives_one_message_and_the_rest_is_ruled_on(folder, capsys, spoil, words, counts):
    path = folder / next(c.path for c in load(folder).manifest.cells if (c.kind, c.label) == ("training", "gru4rec"))
    before = json.loads(run(capsys, "verify", folder, "--json")[1])
    spoil(path)
    named = path.with_name("again.json") if spoil is twice else path
    code, out, err = run(capsys, "verify", folder, "--json")
    assert code in (0, 1, 2)
    (line,) = err.splitlines()
    assert line.startswith(f"warning: {named}: {words}")
    after = json.loads(out)
    assert len(after["refused"]) + len(after["other_split"]) == 1
    assert after["completeness"]["ok"] == before["completeness"]["ok"] - (not counts)
    speed = {"linear-time", "quadratic-attention", "speedup-6x", "long-sequences", "linear-memory"}
    kept = [[c for c in found["claims"] if c["id"] in speed] for found in (before, after)]
    assert kept[0] == kept[1]


def test_all_of_them_at_once_in_verdicts_and_report(folder, tmp_path, capsys):
    cells = [c.path for c in load(folder).manifest.cells if c.kind == "training" and c.spec.length is not None]
    for (spoil, _, _), name in zip(BAD, cells, strict=True):
        spoil(folder / name)
    code, out, err = run(capsys, "verify", folder, "--json")
    assert code in (1, 2)
    assert len(err.splitlines()) == 6
    found = json.loads(out)
    assert (len(found["refused"]), len(found["other_split"])) == (5, 1)
    code, _, told = run(capsys, "report", folder, "--output", tmp_path / "report.pdf")
    assert (code, told) == (0, err)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
