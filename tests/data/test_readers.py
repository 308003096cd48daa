import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.formats import find_format
from harness.data.reading.lines import ItemIds
from harness.data.reading.tokens import MISSING
from harness.errors import UserError

# Without what may separate, quote or bracket; what these do stands in test_cases.py.
TOKEN = st.text(
    st.characters(codec="utf-8", exclude_categories=("Z", "C"), exclude_characters=',;|:"#[]{}'), min_size=1, max_size=6
).filter(lambda token: token not in MISSING)
HISTORIES = st.dictionaries(TOKEN, st.lists(TOKEN, min_size=1, max_size=6), min_size=1, max_size=6)


def read_pairs(path, items):
    return find_format("pairs").read(path, items)[0]


def read_sequences(path, items):
    return find_format("sequences").read(path, items)[0]


def read_ratings(path, items):
    return find_format("ratings").read(path, items)


BLANKS = st.sampled_from(["", "\n", "  \n", "\t\r\n"])


def expected(histories):
    ids = {}
    rows = [[ids.setdefault(token, len(ids) + 1) for token in items] for items in histories.values()]
    return rows, ids


@given(HISTORIES, BLANKS)
def test_pairs_give_back_what_was_written(tmp_path_factory, histories, blank):
    path = tmp_path_factory.mktemp("pairs") / "file.txt"
    text = "".join(f"{user}\t{item}\n{blank}" for user, items in histories.items() for item in items)
    path.write_text(text, encoding="utf-8", newline="")
    ids = ItemIds()
    rows, known = expected(histories)
    assert list(read_pairs(path, ids)) == rows
    assert dict(ids) == known


@given(HISTORIES, BLANKS)
def test_sequences_give_back_what_was_written(tmp_path_factory, histories, blank):
    path = tmp_path_factory.mktemp("sequences") / "file.txt"
    text = "".join(f"{blank}{user} {' '.join(items)}\n" for user, items in histories.items())
    path.write_text(text, encoding="utf-8", newline="")
    ids = ItemIds()
    rows, known = expected(histories)
    assert list(read_sequences(path, ids)) == rows
    assert dict(ids) == known


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_file_and_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "file.txt"
    path.write_bytes(content)
    for form in ("pairs", "sequences", "ratings", "table"):
        try:
            histories = list(find_format(form).read(path, ItemIds())[0])
        except UserError as error:
            histories, message = [], str(error)
        else:
            message = f"{path}, line "
        assert f"{path}, line " in message or message.startswith((f"{path}: the file holds no event", f"{path} is"))
        assert all(history and min(history) >= 1 for history in histories)


@pytest.mark.parametrize("line", ["u", "u a b", "u a 5 1"])
def test_malformed_pair_names_file_line_text_and_form(tmp_path, line):
    path = tmp_path / "file.txt"
    path.write_text(f"u a\n\n{line}\n")
    with pytest.raises(UserError, match="'user item', grouped by user") as caught:
        list(read_pairs(path, ItemIds()))
    assert f"{path}, line 3: '{line}'" in str(caught.value)


def test_a_user_who_comes_back_is_refused(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("u a\nv a\nu b\n")
    with pytest.raises(UserError, match=r"line 3: user 'u' comes back.*`format: table, order: lines`"):
        list(read_pairs(path, ItemIds()))


def test_a_user_with_two_lines_is_refused(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("u a b\nv a\nu c\n")
    with pytest.raises(UserError, match="line 3: user 'u' has two lines"):
        list(read_sequences(path, ItemIds()))


def test_a_line_without_items_is_refused(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("u a b\nv\n")
    with pytest.raises(UserError, match="line 2: 'v' has 1 field"):
        list(read_sequences(path, ItemIds()))


PLAIN = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=6).filter(
    lambda token: token not in MISSING
)
RATINGS = st.lists(st.tuples(PLAIN, PLAIN, st.integers(1, 5), st.integers(-5, 30)), min_size=1, max_size=25)
SEPARATORS = st.sampled_from(["\t", " ", "::", ","])
HEADERS = st.sampled_from(
    [[], ["userId", "movieId", "rating", "timestamp"], ["user:token", "item:token", "r:float", "ts:float"]]
)


@given(RATINGS, SEPARATORS, HEADERS, BLANKS)
def test_ratings_come_out_by_user_and_time(tmp_path_factory, events, separator, header, blank):
    path = tmp_path_factory.mktemp("ratings") / "file.txt"
    body = "".join(f"{separator.join(map(str, event))}\n{blank}" for event in events)
    named = f"{separator.join(header)}\n" if header else ""
    path.write_text(named + body, encoding="utf-8", newline="")
    ids = ItemIds()
    histories, times = read_ratings(path, ids)
    users = list(dict.fromkeys(user for user, *_ in events))
    # sorted() is stable, so ties keep the order of the file.
    expected = [sorted((e for e in events if e[0] == user), key=lambda e: e[3]) for user in users]
    histories, tokens = list(histories), {number: token for token, number in ids.items()}
    assert [[tokens[i] for i in history] for history in histories] == [[e[1] for e in own] for own in expected]
    assert list(times) == [[e[3] for e in own] for own in expected]
    assert sorted(ids.values()) == list(range(1, len({e[1] for e in events}) + 1))


@pytest.mark.parametrize("line", ["u a 5", "u a 5 1 1", "u,a,5,", "u::a:5::1"])
def test_malformed_rating_names_file_line_text_and_form(tmp_path, line):
    path = tmp_path / "file.txt"
    path.write_text(f"u a 5 1\n{line}\n")
    with pytest.raises(UserError, match="'user item rating time'") as caught:
        read_ratings(path, ItemIds())
    assert f"{path}, line 2: '{line}'" in str(caught.value)


def test_a_rating_without_a_time_names_file_line_and_what_is_legal(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("u a 5 1\nu a 5 x\n")
    with pytest.raises(UserError, match=r"line 2: time 'x' is neither a number nor a date\. Legal: unix seconds"):
        read_ratings(path, ItemIds())


def test_a_first_line_with_figures_is_no_header(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("u1,a,5,soon\n")
    with pytest.raises(UserError, match="line 1"):
        read_ratings(path, ItemIds())
