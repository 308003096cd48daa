"""Data that come split, as files of train, validation and test."""

import json

import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from harness import cli
from harness.data import sources, splits
from harness.data.account import Leaks
from harness.data.batches import TrainingSequences, queries
from harness.data.catalogue import DataSource, joint_sha256
from harness.data.leaks import leaks
from harness.data.parts import Files
from harness.errors import UserError
from harness.plan.data_places import place
from harness.records import schema as records
from harness.run.sweep import changed_data
from harness.study.cells import cells
from harness.study.check import load_study

NAMES = ("train", "validation", "test")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(folder, form="sequences", **texts):
    for part, text in texts.items():
        (folder / f"{part}.txt").write_text(text)
    return DataSource(format=form, files=Files(**{part: str(folder / f"{part}.txt") for part in texts}))


def held(split, part):
    """Per user of a split: held-out items, and the history that they are ranked after."""
    stored, found = split.interactions, split.held(part)
    return {
        int(user): (
            stored.items[end : end + count].tolist(),
            stored.items[stored.offsets[user] : end].tolist(),
        )
        for user, end, count in zip(found.users, found.ends, found.counts, strict=True)
    }


def split_of(folder, form="sequences", **texts):
    prepared = sources.prepare("mine", source(folder, form, **texts))
    return prepared, splits.given(prepared.interactions)


def test_three_files_of_sequences(here):
    """Several targets a user, an item of test that is not in train, and a user for training alone."""
    prepared, split = split_of(here, train="u a b c\nv b a\nw c a\n", validation="v d\nu d\n", test="u e b\nv e\n")
    # Items by their first event, user by user: a b c d e.
    assert held(split, "validation") == {0: ([4], [1, 2, 3]), 1: ([4], [2, 1])}
    assert held(split, "test") == {0: ([5, 2], [1, 2, 3, 4]), 1: ([5], [2, 1, 4])}
    training = split.training()
    assert training.items.tolist() == [1, 2, 3, 2, 1, 3, 1]
    assert training.offsets.tolist() == [0, 3, 5, 7]
    assert (split.users.tolist(), split.training_only, split.interactions.num_items) == ([0, 1], 1, 5)
    assert leaks(split) == Leaks(trained=0, held_out=5, had_before=1)
    assert prepared.account.left_out == {}


def test_without_validation_it_is_taken_from_train(here):
    """Of users of test who have two training events; others keep theirs for training."""
    _, split = split_of(here, train="u a b c\nv b\nw c a\n", test="u d\nv d\n")
    assert held(split, "validation") == {0: ([3], [1, 2])}
    assert held(split, "test") == {0: ([4], [1, 2, 3]), 1: ([4], [2])}
    assert split.training().offsets.tolist() == [0, 2, 3, 5]


def test_who_is_not_in_train_is_left_out_and_their_items_stay(here):
    prepared, split = split_of(here, train="u a b\nv b a\n", validation="u c\nx y z\n", test="v d\nx q\nn m a\n")
    assert held(split, "test") == {1: ([4], [2, 1])}
    assert split.interactions.num_items == 8
    assert prepared.account.left_out == {
        "in validation, of 1 users without a training event": 2,
        "in test, of 2 users without a training event": 3,
    }
    assert prepared.account.rows == 6


TABLES = {
    "train": "user,item,rating,time\nu,a,5,1500000000\nv,a,3,1500000005\nu,b,4,1500000001\nv,c,4,1500000001\n",
    "validation": "user,item,rating,time\nu,c,2,1500000002\nv,b,2,1500000004\n",
    "test": "user,item,rating,time\nv,b,2,1500000004\nu,a,2,1500000001\nv,d,1,1500000009\n",
}


def test_leaks_are_counted_and_said(here, capsys):
    """An event of test that is in validation, two that are earlier than their history, one item had before."""
    _, split = split_of(here, "table", **TABLES)
    # v: c a, then b, then b again and d; u: a b, then c, then a at the time of b.
    assert held(split, "test") == {0: ([1], [1, 2, 3]), 1: ([2, 4], [3, 1, 2])}
    found = leaks(split)
    assert found == Leaks(
        trained=0,
        held_out=5,
        had_before=2,
        copies=1,
        # Of validation b of v, before its a; of test the same b, and a of u before its c.
        earlier=3,
        # Later than time 4: one of four; than 1: one of four; than 9: none.
        later_training=(1 / 4 + 1 / 4 + 0) / 3,
    )
    assert cli.main(["data", "train.txt", "--validation", "validation.txt", "--test", "test.txt"]) == 0
    out = capsys.readouterr().out
    assert f"leak check: {found.words}" in out
    assert "0 of 5 held-out events are trained on; 2 are of an item" in out
    assert "warning: 1 of 5 held-out events stand in the history" in out
    assert "warning: 3 of 5 held-out events are earlier" in out
    assert "events: train 4, validation 2, test 3; 2 users ranked, 0 in training only" in out


def test_other_splits_are_checked_too(here, capsys):
    (here / "all.csv").write_text(
        "user,item,time\n"
        + "".join(f"u{u},i{(3 * u + t) % 9},{1500000000 + 10 * t + u}\n" for u in range(5) for t in range(20))
    )
    assert cli.main(["data", "all.csv"]) == 0
    out = capsys.readouterr().out.splitlines()
    checks = [line for line in out if line.startswith("leak check")]
    assert len(checks) == 2
    assert "leak check of split global-temporal: 0 of 20 held-out events are trained on" in checks[1]
    assert "0.0% of the training events come after a test event" in checks[1]
    found = json.loads((cli.main(["data", "all.csv", "--json"]), capsys.readouterr().out)[1])
    assert found["split"] == "leave-one-out"
    assert found["leaks"]["held_out"] == 10
    assert found["leaks"]["later_training"] == 0


REFUSED = {
    "no user": (
        {"train": "u a b\n", "test": "U c\n"},
        "test.txt: no user of test is in train, for instance 'U'. Write the same ids in all files",
    ),
    "whole histories": (
        {"train": "u a b\nv b c a\nw a\n", "test": "u a b c\nv b c a d\nw d\n"},
        "test.txt: the events of 2 users, such as 'u', begin with all of the user's training events",
    ),
    "the same file twice": (
        {"train": "u a b c d\nv b c d\n", "test": "u d a\nv b\n"},
        "3 of 3 events of test (",
    ),
    "a malformed line": ({"train": "u a b\n", "test": "u c\nu d\n"}, "test.txt, line 2: user 'u' has two lines"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ambiguous_files_are_refused(here, case):
    texts, words = REFUSED[case]
    with pytest.raises(UserError) as caught:
        sources.prepare("mine", source(here, **texts))
    assert words in str(caught.value)


def test_tables_of_unlike_times_are_refused(here):
    train = "user,item,time\nu,a,1500000000\nu,b,1500000001\n"
    for test, words in {
        "user,item,time\nu,c,2017-07-15\n": "are unix seconds, those of test",
        "user,item,time\nu,b,1500000001\nu,c,1500000009\n": "1 of 2 events of test",
    }.items():
        with pytest.raises(UserError) as caught:
            sources.prepare("mine", source(here, "table", train=train, test=test))
        assert words in str(caught.value)


def test_ids_that_look_alike_in_two_files_are_warned_of(here):
    prepared, _ = split_of(here, train="u 1 2\nv 2 1 5\n", test="u 3.0\nv 3 5.0\n")
    assert any("'5' and '5.0'" in words for words in prepared.account.warnings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file": "x.txt"}, "file and files are two ways"),
        ({"sha256": "0" * 64}, "sha256 and files are two ways"),
        ({"preparation": {"core": 5}}, "preparation means nothing"),
        ({"files": {"train": "a", "test": "a"}}, "names one file twice (a, a)"),
        ({"files": {"train": "a", "test": {"file": "b", "sha256": "X"}}}, "'mine, test': sha256 is 'X'"),
        ({"format": "synthetic"}, "files mean nothing"),
    ],
)
def test_contradictions_are_refused(changes, words):
    content = {"format": "sequences", "files": {"train": "a", "test": "b"}, **changes}
    with pytest.raises(UserError) as caught:
        msgspec.convert(content, DataSource).check("mine")
    assert words in str(caught.value)


HISTORIES = st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=9), min_size=1, max_size=7)


@given(HISTORIES, st.sampled_from(["sequences", "pairs", "table", "ratings"]), st.booleans())
def test_leave_one_out_as_files_is_leave_one_out(tmp_path_factory, histories, form, two):
    # Without times a file of repeats alone cannot be told from one of copies, and is refused.
    ranked = [history for history in histories if len(history) > 2]
    assume(any(history[-1] not in history[:-1] for history in ranked))
    assume(any(history[-2] not in history[:-2] for history in ranked))
    folder = tmp_path_factory.mktemp("parts")
    # Times rise over all events, so that no event is another's copy.
    clock = iter(range(1_500_000_000, 1_600_000_000))
    names = [f"u{(7 * u + 5) % 10}" for u, _ in enumerate(histories)]
    events = [[(names[u], f"i{item}", next(clock)) for item in history] for u, history in enumerate(histories)]
    # Users stand in no order of their ids, and in another one in the files that are held out.
    parts = {"all": events}
    cut = {"validation": slice(-2, -1), "test": slice(-1, None)}
    parts |= {part: [user[place] for user in events[::-1] if len(user) > 2] for part, place in cut.items()}
    parts["train"] = [user[:-2] if len(user) > 2 else user for user in events]
    if two:
        parts["train"] = [user[:-1] if len(user) > 2 else user for user in events]
        del parts["validation"]
    texts = {part: "".join(written(user, form) for user in users) for part, users in parts.items()}
    for part, text in texts.items():
        (folder / part).write_text(text)
    files = Files(**{part: str(folder / part) for part in NAMES if part in parts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYENAREC_CACHE", str(folder / "cache"))
        came = sources.prepare("came", DataSource(format=form, files=files))
        whole = sources.prepare("whole", DataSource(format=form, file=str(folder / "all")))
    given, built_in = splits.given(came.interactions), splits.leave_one_out(whole.interactions)
    assert came.arrays_sha256 == whole.arrays_sha256
    assert came.interactions.num_items == whole.interactions.num_items
    for part in ("validation", "test"):
        for field in ("users", "ends", "counts"):
            np.testing.assert_array_equal(getattr(given.held(part), field), getattr(built_in.held(part), field))
    assert same(given.training(), built_in.training())
    assert leaks(given) == leaks(built_in)
    batches = (TrainingSequences(split, 5, 2, seed=0) for split in (given, built_in))
    for one, other in zip(*([*each.epoch(0)] for each in batches), strict=True):
        assert same(one, other)
    asked = (queries(split, "test", length=4, batch_size=3) for split in (given, built_in))
    for one, other in zip(*asked, strict=True):
        assert same(one, other)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def written(events, form):
    if form == "sequences":
        return " ".join([events[0][0], *(item for _, item, _ in events)]) + "\n"
    rows = [(user, item) if form == "pairs" else (user, item, 5, time) for user, item, time in events]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def study(folder, **changes):
    texts = {
        part: "".join(
            f"u{u},i{(5 * u + 3 * t) % 17},{1500000000 + 100 * t + u}\n" for u in range(12) for t in range(*places)
        )
        for part, places in {"train": (0, 8), "validation": (8, 9), "test": (9, 11)}.items()
    }
    for part, text in texts.items():
        (folder / f"{part}.csv").write_text(text)
    content = {
        "name": "mine",
        "device": "cpu",
        "data": {"own": {"format": "table", "files": {part: str(folder / f"{part}.csv") for part in texts}}},
        "training": {
            "models": ["gru4rec"],
            "datasets": ["own"],
            "lengths": [8],
            "references": ["popularity"],
            "epochs": 1,
            "split": "given",
            **changes,
        },
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_study(str(folder / "mine.yaml"))


def test_a_study_trains_on_it(here, capsys):
    mine = study(here)
    keys = {cell.label: cell for cell in cells(mine)}
    for label in ("gru4rec", "popularity"):
        path = here / "results" / keys[label].path
        assert cli.main(["train", "--study", "mine.yaml", "--cell", keys[label].key, "--output", str(path)]) == 0
        record = records.read(path)
        # Two events of test a user, each with a rank of its own.
        assert len(record.test.ranks) == 24
        assert record.test.users == np.repeat(np.arange(12), 2).tolist()
        assert (record.num_users, record.num_events, record.spec.split) == (12, 132, "given")
        provenance = record.provenance
        assert set(provenance.files_sha256) == {"train", "validation", "test"}
        assert provenance.data_sha256 == joint_sha256(provenance.files_sha256)
        assert (provenance.leaks.held_out, provenance.leaks.trained) == (36, 0)
    assert changed_data(mine, here / "results") == {}
    with (here / "test.csv").open("a") as file:
        file.write("u1,i1,1500009999\n")
    assert set(changed_data(mine, here / "results").values()) == {here / "test.csv"}
    capsys.readouterr()
    assert cli.main(["cells", "mine.yaml", "--results", "results"]) == 0
    assert f"another content of {here / 'test.csv'}" in capsys.readouterr().err


def test_the_lines_to_paste_make_a_study(here, capsys):
    study(here)
    files = ["--validation", "validation.csv", "--test", "test.csv"]
    assert cli.main(["data", "train.csv", *files]) == 0
    out = capsys.readouterr().out
    entry = yaml.safe_load(out.split("in a study:\n")[1])["data"]
    (name,) = entry
    assert set(entry[name]["files"]["test"]) == {"file", "sha256"}
    content = yaml.safe_load((here / "mine.yaml").read_text())
    content["data"], content["training"]["datasets"] = entry, [name]
    (here / "again.yaml").write_text(yaml.safe_dump(content))
    again = load_study(str(here / "again.yaml"))
    # All checksums are stated, so the arrays serve without the files, and another content is another cell.
    spec = next(cells(again)).spec.source
    assert spec.sha256 == joint_sha256({part: one["sha256"] for part, one in entry[name]["files"].items()})
    assert spec.file.startswith(f"train {here / 'train.csv'}, validation ")
    (here / "train.csv").unlink()
    assert place(name, again.sources()[name]).state == "prepared"
    assert sources.prepare(name, again.sources()[name]).interactions.num_users == 12
    assert place("own", load_study("mine.yaml").sources()["own"]).state == "missing"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "leave-one-out"}, "data set 'own' comes split, as files, and training.split is 'leave-one-out'"),
        ({"datasets": ["own", "ml-1m"]}, "data set 'ml-1m' does not come split"),
    ],
)
def test_split_and_data_must_fit(here, changes, words):
    with pytest.raises(UserError, match=words):
        study(here, **changes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.csv", "--validation", "test.csv"], "add `--test FILE`"),
        (["train.csv", "--test", "tset.csv"], "--test: there is no file"),
        (["synthetic", "--test", "test.csv"], "--test means nothing"),
    ],
)
def test_what_cannot_be_meant_on_the_command_line_is_refused(here, capsys, arguments, words):
    study(here)
    assert cli.main(["data", *arguments]) == 64
    assert words in capsys.readouterr().err


def test_a_damaged_part_of_the_arrays_is_prepared_again(here, capsys):
    one = source(here, train="u a b c\n", test="u d\n")
    prepared = sources.prepare("mine", one)
    np.save(prepared.folder / splits.HELD_OUT_FILE, np.array([[0, 2]]))
    again = sources.prepare("mine", one)
    assert held(splits.given(again.interactions), "test") == {0: ([4], [1, 2, 3])}
    assert "are damaged; preparing them again" in capsys.readouterr().err


def test_arrays_that_did_not_come_split_have_no_given_split(here):
    (here / "x").write_text("u a b c\n")
    prepared = sources.prepare("mine", DataSource(format="sequences", file=str(here / "x")))
    with pytest.raises(ValueError, match="come as files"):
        splits.given(prepared.interactions)
