"""`python -m harness data FILE`: a file that no study names."""

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from harness import cli
from harness.data.catalogue import DataSource
from harness.data.reading import guess as guessing
from harness.data.sources import sha256_of
from harness.records import schema as records
from harness.run.sweep import changed_data
from harness.study.cells import cells
from harness.study.check import load_study

ROOT = Path(__file__).parents[2]
TABLE = "user,item,stars,time\n" + "".join(
    f"u{user},i{(7 * user + step) % 9},5,{1500000000 + step}\n" for user in range(4) for step in range(6)
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def data(capsys, *arguments):
    code = cli.main(["data", *map(str, arguments)])
    out, error = capsys.readouterr()
    return out if code == 0 else error


def test_a_file_is_described_and_its_lines_make_a_study(here, capsys):
    (here / "My ratings.csv").write_text(TABLE)
    out = data(capsys, "My ratings.csv")
    for line in (
        "My-ratings: 4 users, 9 items, 24 events",
        "columns: user is user, item is item, time is time; not used: stars",
        "rows: 24 kept; left out: 1 header",
        "timestamps: unix seconds",
        "time: 2017-07-14 to 2017-07-14",
    ):
        assert line in out.splitlines()
    training = {"training": {"models": ["gru4rec"], "datasets": ["My-ratings"], "lengths": [8]}}
    lines = yaml.safe_load(out.split("in a study:\n")[1])
    assert lines.pop("training") == {"datasets": ["My-ratings"]}
    study = {"name": "mine", "device": "cpu", **training, **lines}
    (here / "mine.yaml").write_text(yaml.safe_dump(study))
    assert "24 events" in data(capsys, "My-ratings", "--study", "mine.yaml")


def test_json_says_the_same(here, capsys):
    (here / "x.csv").write_text(TABLE + "# end\n")
    (here / "x.txt").write_text(
        "".join(f"u{u} {' '.join(f'i{(7 * u + s) % 9}' for s in range(6))}\n" for u in range(4))
    )
    table, sequences = (json.loads(data(capsys, file, "--json")) for file in ("x.csv", "x.txt"))
    assert table["columns"] == {"user": "user", "item": "item", "time": "time"}
    assert table["left_out"] == {"header": 1, "comments": 1}
    assert (table["unit"], sequences["unit"]) == ("unix seconds", None)
    assert table["histories"] == sequences["histories"]
    assert table["split_sha256"] == sequences["split_sha256"]
    assert table["study"]["data"]["x"]["format"] == "table"


def test_what_cannot_be_found_in_a_file_may_be_said(here, capsys):
    (here / "x.csv").write_text("who;what\n1;a\n1;b\n1;c\n1;d\n".replace(";", "~"))
    assert "Write `separator:`" in data(capsys, "x.csv", "--format", "table")
    said = ("--user", "who", "--item", "2", "--order", "lines", "--separator", "~")
    out = data(capsys, "x.csv", *said)
    assert "1 users, 4 items, 4 events" in out
    entry = yaml.safe_load(out.split("in a study:\n")[1])["data"]["x"]
    assert DataSource(**entry).given == {"user": "who", "item": 2, "order": "lines", "separator": "~"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "Or give the path of a file"),
        (["synthetic", "--format", "table"], "--format means nothing"),
        (["x.csv", "--format", "tabel"], "Did you mean 'table'"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, capsys, arguments, words):
    (here / "x.csv").write_text(TABLE)
    assert words in data(capsys, *arguments)


GUESSES = {
    "user,item,time\n1,a,1500000000\n": "table",
    "1,a,5,3\n1,b,5,2\n": "table",
    "1 a 5 1500000000\n": "table",
    '{"user": 1}\n': "table",
    'who,text,when\n1,"a\nb",1500000000\n': "table",
    "user item time\n1 a\n": "table",
    "1 a\n1 b\n": "pairs",
    "user,item\n1,a\n": "pairs",
    "1\tThe Who\n": "pairs",
    "1 a b c\n2 b\n": "sequences",
    "1\ta,b\n2\tc,a\n": "sequences",
    "1, a, b\n2, a\n": "sequences",
    "user_id\titems\n1\t10,11\n2\t11,12\n": "sequences",
    "user_id,item_seq\n1,3 4 5\n2,4 5\n": "sequences",
    "user;items\n1;1,2,3\n": "sequences",
    "user,title\n1,Toy Story\n1,The Matrix\n": "pairs",
}


@pytest.mark.parametrize("text", GUESSES)
def test_the_format_of_a_file_is_guessed(here, text):
    (here / "x").write_text(text)
    assert guessing.guess(here / "x") == GUESSES[text]


@pytest.mark.parametrize("command", [["sweep", "mine.yaml"], ["train", "--study", "mine.yaml", "--output", "r.json"]])
def test_a_study_on_data_without_anything_to_train_on_is_refused_before_it_runs(here, capsys, command):
    mine = study(here)
    (here / "x.csv").write_text("u,a,5,1500000000\nu,b,5,1500000001\n")
    cell = [] if command[0] == "sweep" else ["--cell", next(cells(mine)).key]
    assert cli.main([*command, *cell]) == 64
    assert "data set 'own': no user has 3 events" in capsys.readouterr().err


def test_a_json_list_over_lines_is_refused(here, capsys):
    (here / "x").write_text('[\n{"user": 1}\n]\n')
    assert "write one object a line" in data(capsys, "x")


def test_an_encoding_that_is_none_of_text_is_refused(here, capsys):
    (here / "x").write_text(TABLE)
    for name in ("mbcs", "hex", "base64"):
        assert "encoding is" in data(capsys, "x", "--encoding", name)


def test_a_row_or_a_history_is_asked_about(here, capsys):
    (here / "x").write_text("1 31 5 3\n2 32 4 7\n")
    assert "--format table` or `--format sequences" in data(capsys, "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [("1 a b\n2 b a\n", "nobody can be ranked"), ("1 a b c\n2 d e f\n", "nothing can be trained")],
)
def test_who_cannot_be_ranked_or_trained_is_said(here, capsys, text, words):
    (here / "x").write_text(text)
    assert f"{words}" in data(capsys, "x", "--format", "sequences").split("warning: ")[1]


def study(folder, **changes):
    (folder / "x.csv").write_text(TABLE)
    content = {
        "name": "mine",
        "device": "cpu",
        "data": {"own": {"format": "table", "file": str(folder / "x.csv"), **changes}},
        "training": {
            "models": ["gru4rec"],
            "datasets": ["own"],
            "lengths": [8],
            "references": ["popularity"],
            "epochs": 1,
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_study(str(folder / "mine.yaml"))


def test_options_of_reading_make_other_cells_and_their_defaults_do_not(here):
    def digests(**changes):
        return {cell.digest for cell in cells(study(here, **changes))}

    plain = digests()
    assert digests(encoding="utf-8", order="time") == plain
    assert digests(time="time").isdisjoint(plain)


@pytest.mark.parametrize(
    ("name", "entry", "words"),
    [
        ("ml-1m", {"format": "table", "file": "x.csv"}, "is one of the catalogue"),
        ("own", {"format": "pairs", "file": "x.csv", "user": 1}, "user mean nothing to this format"),
        ("own", {"format": "synthetic", "order": "lines"}, "order mean nothing"),
    ],
)
def test_a_study_with_such_data_is_refused(here, capsys, name, entry, words):
    content = {
        "name": "mine",
        "data": {name: entry},
        "training": {"models": ["gru4rec"], "datasets": [name], "lengths": [8]},
    }
    (here / "mine.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["cells", "mine.yaml"]) == 64
    assert words in capsys.readouterr().err


def test_a_changed_file_is_noticed(here, capsys):
    mine, folder = study(here), here / "results" / "mine"
    done = [*cells(mine)]
    measured = records.read(next((ROOT / "results" / "reference" / "accuracy-ml-1m" / "training").rglob("*.json")))
    provenance = msgspec.structs.replace(measured.provenance, data_sha256=sha256_of(here / "x.csv"))
    for cell in done:
        records.write(msgspec.structs.replace(measured, provenance=provenance), folder / cell.path)
    assert changed_data(mine, folder) == {}
    (here / "x.csv").write_text(TABLE + "u9,i1,5,1500000000\n")
    assert set(changed_data(mine, folder)) == {cell.key for cell in done}
    assert cli.main(["cells", "mine.yaml"]) == 0
    out, error = capsys.readouterr()
    assert f"changed training {done[0].key}" in out
    assert f"{len(done)} records in results/mine were measured on another content of {here / 'x.csv'}" in error


@pytest.mark.parametrize(
    ("content", "options", "typed"),
    [
        ("kunde,artikel,zeit\na,b,2020-01-01\na,c,2020-01-02\n", [], "--user NAME --item NAME --time NAME"),
        (
            "kunde,artikel,zeit\na,b,2020-01-01\n",
            ["--user", "kunde", "--item", "artikel"],
            "--time NAME  or  --order lines",
        ),
        ("user,item\na,b\nb,c\na,d\n", [], "--format table --order lines"),
        ("a,b,4,5,1500000000\n", [], "--user 1 --item 2 --time 4"),
        ("1 caf\xe9\n".encode("latin-1"), [], "--encoding latin-1"),
        ("a 1,b\na 1,c\n", ["--format", "pairs"], "--separator ,  or  --format table"),
    ],
)
def test_what_a_study_would_say_is_told_as_options_to_type(tmp_path, capsys, monkeypatch, content, options, typed):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "log.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["data", str(path), *options]) == 64
    assert capsys.readouterr().err.endswith(f"; here type  {typed}\n")


def test_a_path_without_a_file_is_said_with_the_nearest_one(tmp_path, capsys):
    (tmp_path / "purchases.csv").write_text("")
    assert cli.main(["data", str(tmp_path / "purchase.csv")]) == 64
    assert (
        f"there is no file {tmp_path}/purchase.csv. Did you mean '{tmp_path}/purchases.csv'?" in capsys.readouterr().err
    )
