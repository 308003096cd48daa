"""Preparation against plain Python, and what readers leave out."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.data.account import Account
from harness.data.catalogue import DataSource
from harness.data.preparation import Preparation, prepared
from harness.data.sources import prepare
from harness.errors import UserError

HISTORIES = st.lists(st.lists(st.integers(1, 8), min_size=1, max_size=10), min_size=1, max_size=10)


def plain(histories, choices):
    """The same events as lists of (user, item), step by step."""
    events = [(user, item) for user, history in enumerate(histories) for item in history]
    if choices.repeats == "first":
        events = list(dict.fromkeys(events))
    if choices.repeats == "exact":
        timed = [(user, item, place // 2) for user, own in enumerate(histories) for place, item in enumerate(own)]
        events = [(user, item) for user, item, _ in dict.fromkeys(timed)]
    while choices.core > 1:
        users, items = Counter(user for user, _ in events), Counter(item for _, item in events)
        kept = [(u, i) for u, i in events if users[u] >= choices.core and items[i] >= choices.core]
        done = len(kept) == len(events) or choices.core_passes == "one"
        events = kept
        if done:
            break
    found = {}
    for user, item in events:
        found.setdefault(user, []).append(item)
    longest = choices.longest or max(map(len, histories))
    cut = [history[-longest:] for history in found.values()]
    numbers = {}
    return [[numbers.setdefault(item, len(numbers) + 1) for item in history] for history in cut]


CHOICES = st.builds(
    Preparation,
    repeats=st.sampled_from(["keep", "first", "exact"]),
    core=st.integers(1, 4),
    longest=st.none() | st.integers(1, 5),
)


@given(HISTORIES, CHOICES, st.booleans())
def test_does_what_plain_python_does(histories, choices, one):
    if one and choices.core > 1:
        choices = Preparation(**{**choices.given, "core_passes": "one"})
    expected, account = plain(histories, choices), Account()
    # Two events of a user have each time.
    times = [[100 * user + place // 2 for place, _ in enumerate(history)] for user, history in enumerate(histories)]
    if not expected:
        with pytest.raises(UserError, match=f"core {choices.core} leaves no event"):
            prepared("mine", choices, (iter(histories), iter(times)), account)
        return
    found, seconds = prepared("mine", choices, (iter(histories), iter(times)), account)
    assert list(found) == expected
    moments = list(seconds)
    assert [len(history) for history in moments] == [len(history) for history in expected]
    # Times stay with their events: those of one user, in their order.
    assert all(len({moment // 100 for moment in history}) == 1 and sorted(history) == history for history in moments)
    assert account.rows + sum(account.left_out.values()) == sum(map(len, histories))


@given(HISTORIES, st.integers(2, 4))
def test_a_k_core_is_one(histories, least):
    try:
        found, _ = prepared("mine", Preparation(core=least), (histories, None), Account())
    except UserError:
        return
    found = list(found)
    assert min(map(len, found)) >= least
    assert min(Counter(item for history in found for item in history).values()) >= least


def test_a_sample_of_users_is_fixed_and_follows_the_seed():
    histories = [[user + 1, 99] for user in range(40)]

    def drawn(count, seed):
        found, times = prepared("mine", Preparation(users=count, seed=seed), (histories, histories), Account())
        assert len(list(found)) == count
        return [history[0] for history in times]

    assert drawn(5, 0) == drawn(5, 0) == [5, 7, 15, 35, 39]
    assert drawn(5, 0) != drawn(5, 1)
    assert set(drawn(5, 0)) < set(drawn(6, 0))
    with pytest.raises(UserError, match="users is 41, and 40 are left; write at most 40"):
        drawn(41, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"core_passes": "one"}, "core is 1; write `core: 5`"),
        ({"seed": 3}, "write `users: 1000`"),
    ],
)
def test_choices_that_mean_nothing_are_refused(content, words):
    with pytest.raises(UserError, match=words):
        DataSource(format="table", file="x", preparation=Preparation(**content)).check("mine")
    with pytest.raises(UserError, match="is generated, so preparation mean nothing"):
        DataSource(format="synthetic", preparation=Preparation(core=5)).check("mine")


ROWS = [
    ("a", "x", 5, 1_000_000_001),
    ("a", "y", 2, 1_000_000_002),
    ("a", "z", 4.5, 1_000_000_003),
    ("b", "z", 3, 1_000_000_003),
    ("b", "x", 4, 1_000_000_003),
    ("b", "y", 4, 1_000_000_003),
]


def written(folder, rows, header="user,item,rating,timestamp"):
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))


def told(path, capsys, *options):
    assert cli.main(["data", str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_least_rating_leaves_events_out_and_says_so(tmp_path, capsys):
    path = written(tmp_path, ROWS)
    found = told(path, capsys, "--least-rating", "4")
    assert (found["events"], found["left_out"]["rating below 4"]) == (4, 2)
    assert found["columns"]["rating"] == "rating"
    assert found["study"]["data"]["rows"]["least_rating"] == 4
    assert told(path, capsys)["events"] == 6
    # The cells of one are not those of the other.
    plain, rated = (DataSource(format="table", file=str(path), least_rating=least) for least in (None, 4))
    assert plain.spoken != rated.spoken
    assert prepare("m", plain).folder != prepare("m", rated).folder


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        (ROWS, ["--least-rating", "9"], "leaves no event; the highest rating is 5"),
        (ROWS, ["--rating", "stars", "--least-rating", "4"], "'stars', given as rating, is not there"),
        (ROWS, ["--rating", "rating"], "write `least_rating: 4`"),
        (
            [*ROWS, ("b", "w", "good", 1_000_000_009)],
            ["--least-rating", "4"],
            "line 8: the rating 'good' is not a number",
        ),
        (
            [*ROWS, ("b", "w", "nan", 1_000_000_009)],
            ["--least-rating", "4"],
            "line 8: the rating 'nan' is not a number",
        ),
    ],
)
def test_ratings_that_cannot_be_meant_are_refused(tmp_path, capsys, rows, options, words):
    assert cli.main(["data", str(written(tmp_path, rows)), *options]) == 64
    assert words in capsys.readouterr().err


def test_without_a_header_the_third_of_four_columns_is_the_rating(tmp_path, capsys):
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in ROWS))
    assert told(path, capsys, "--least-rating", "4")["events"] == 4


def test_hashed_ties_do_not_follow_the_file(tmp_path, capsys):
    hashes = {
        order: [
            told(written(tmp_path, rows), capsys, "--ties", order)["histories"]["sha256"]
            for rows in (ROWS, ROWS[::-1], sorted(ROWS, key=lambda row: row[1]))
        ]
        for order in ("file", "hashed")
    }
    assert len(set(hashes["hashed"])) == 1
    assert len(set(hashes["file"])) > 1
    assert cli.main(["data", str(tmp_path / "rows.csv"), "--ties", "hashed", "--order", "lines"]) == 64


def test_a_preparation_is_part_of_the_cells_and_told(tmp_path):
    path = written(tmp_path, ROWS)
    one = DataSource(format="table", file=str(path), preparation=Preparation(longest=2))
    assert one.spoken.endswith("longest 2")
    found = prepare("mine", one)
    assert found.interactions.lengths.tolist() == [2, 2]
    assert found.account.left_out["by longest: 2"] == 2
    assert found.account.rows == 4
    assert prepare("mine", DataSource(format="table", file=str(path))).interactions.num_events == 6


def test_exact_repeats_need_times():
    with pytest.raises(UserError, match="repeats: exact is of events of one second, and there are no times"):
        prepared("mine", Preparation(repeats="exact"), (iter([[1, 1]]), None), Account())
