"""Small files as people bring them: each is read right, or refused with file, line, what is wrong and what to do."""

import gzip
import io
import zipfile

import pytest
import zstandard

from harness.data.account import Account, Options
from harness.data.formats import find_format
from harness.data.reading.lines import ItemIds
from harness.errors import UserError

# Three users whose rows are not in the order of their times.
ROWS = [
    ("7", "40", "2.5", 1500000000),
    ("7", "1900", "3.0", 1500000035),
    ("7", "1850", "", 1500000038),
    ("8", "40", "4.0", 1000000000),
    ("8", "1850", "5.0", 1000000188),
    ("8", "2040", "nan", 1000000111),
    ("8", "1900", "5.0", 1000000059),
    ("9", "2040", "4.0", 1400000038),
    ("9", "40", "3.0", 1400000000),
]
BASE = {"7": "40 1900 1850", "8": "40 1900 2040 1850", "9": "40 2040"}
ISO = {1500000000: "2017-07-14T02:40:00Z", 1500000035: "2017-07-14T04:40:35+02:00"}


def rows(pattern="{0},{1},{2},{3}", header="userId,movieId,rating,timestamp\n", end="\n", order=ROWS):
    return header + "".join(pattern.format(*row) + end for row in order)


def read(path, form="table", **options):
    """Histories by user in the order of the reader, seconds, and what the reader tells."""
    ids, account = ItemIds(), Account()
    histories, times = find_format(form).histories(path, ids, Options(**options), account)
    histories = list(histories)
    names = list(ids)
    found = [" ".join(names[item - 1] for item in history) for history in histories]
    return found, None if times is None else [list(own) for own in times], account


def write(tmp_path, content, name="file.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def packed(name, *members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, rows())
    return file.getvalue()


INTER = "user_id:token\titem_id:token\t{}timestamp:float\n"
AS_BASE = {
    "plain": rows(),
    "carriage returns and line feeds": rows(end="\r\n"),
    "carriage returns": rows(end="\r").replace("\n", "\r"),
    "byte order mark": "\ufeff" + rows(),
    "byte order mark, no header": "\ufeff" + rows(header=""),
    "shuffled": rows(order=ROWS[4:] + ROWS[:4]),
    "item first": rows("{1},{0},{2},{3}", "movieId,userId,rating,timestamp\n"),
    "index column": rows("1,{0},{1},{2},{3}", ",userId,movieId,rating,timestamp\n"),
    "extra column": rows("{0},{1},{2},{3},", "user_id,parent_asin,rating,timestamp,history\n"),
    "semicolons": rows("{0};{1};{2};{3}", "userId;movieId;rating;timestamp\n"),
    "bars": rows("{0}|{1}|{2}|{3}", "userId|movieId|rating|timestamp\n"),
    "colons": rows("{0}::{1}::{2}::{3}", ""),
    "tabs": rows("{0}\t{1}\t{2}\t{3}", ""),
    "blanks": rows("{0}  {1} 5 {3}", ""),
    "quotes": rows('"{0}","{1}","{2}","{3}"', '"userId","movieId","rating","timestamp"\n'),
    "quotes about some": rows('{0},"{1}",{2},{3}', "").replace("7,", '"7",', 1),
    "a text over two lines": rows('{0},{1},"a, ""b""\n\nc",{3}', "user,item,text,time\n"),
    "comment": "# a sample\n" + rows(),
    "blank lines": rows(end="\n\n  \n"),
    "blanks about fields": rows("{0} , {1}, {2}, {3}", "user, item, rating, time\n"),
    "no final line end": rows().rstrip("\n"),
    "floats": rows("{0},{1},{2},{3}.0"),
    "fractions": rows("{0},{1},{2},{3}.25"),
    "exponents": rows("{0},{1},{2},{3}e0"),
    "milliseconds": rows("{0},{1},{2},{3}000", "uid,asin,stars,time_ms\n"),
    "nanoseconds": rows("{0},{1},{2},{3}000000123"),
    "RecBole": rows("{0}\t{1}\t{2}\t{3}.0", INTER.format("rating:float\t")),
    "RecBole without ratings": rows("{0}\t{1}\t{3}", INTER.format("")),
    "JSON lines": rows('{{"rating": 5.0, "reviewerID": "{0}", "asin": {1}, "unixReviewTime": {3}, "tags": ["x"]}}', ""),
    "gzip": gzip.compress(rows().encode()),
    "Zstandard": zstandard.compress(rows().encode()),
    "zip": packed("zip", "ratings/file.csv", "__MACOSX/file.csv"),
    "sessions": rows("{0},{3},{1},view", "session_id,event_time,item_id,event\n"),
    "time before rating": rows("{0},{1},{3},{2}", "user,item,timestamp,rating\n"),
}


@pytest.mark.parametrize("case", AS_BASE)
def test_a_table_is_read_as_the_same_histories(tmp_path, case):
    found, times, account = read(write(tmp_path, AS_BASE[case]))
    assert found == list(BASE.values())
    assert times[1] == [1000000000, 1000000059, 1000000111, 1000000188]
    assert account.rows == len(ROWS)
    assert account.warnings == []


@pytest.mark.parametrize("kind", ["int64", "string", "timestamp[ms]", "timestamp[us]", "double"])
def test_a_parquet_file_is_read_as_the_same_histories(tmp_path, kind):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    seconds = arrow.array([row[3] for row in ROWS])
    times = seconds.cast("timestamp[s]").cast(kind) if kind.startswith("timestamp") else seconds.cast(kind)
    users, items = arrow.array([row[0] for row in ROWS]).dictionary_encode(), arrow.array([int(row[1]) for row in ROWS])
    parquet.write_table(arrow.table({"uid": users, "asin": items, "ts": times}), tmp_path / "x.parquet")
    found, times, account = read(tmp_path / "x.parquet")
    assert found == list(BASE.values())
    assert times[1] == [1000000000, 1000000059, 1000000111, 1000000188]
    assert (account.rows, account.warnings) == (len(ROWS), [])


def test_a_parquet_file_with_broken_ids_is_refused(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for users, words in (
        ([1.0, 2.0], "of type double, which cannot be a user"),
        (["a", None], "line 2: the user is missing"),
    ):
        parquet.write_table(arrow.table({"user": users, "item": [1, 2], "time": [1500000000] * 2}), tmp_path / "x")
        with pytest.raises(UserError, match=words):
            read(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="is damaged"):
        read(tmp_path / "x")


def test_what_was_read_is_told(tmp_path):
    text = "# a sample\n" + rows("{0},{1},{2},{3},", "user_id,parent_asin,rating,timestamp,history\n\n")
    told = read(write(tmp_path, text))[2]
    assert told.form == "table with a header, separated by commas"
    assert told.columns == {"user": "user_id", "item": "parent_asin", "time": "timestamp"}
    assert told.ignored == ["rating", "history"]
    assert told.left_out == {"comments": 1, "header": 1, "blank lines": 1}
    assert (told.unit, told.duplicates, told.ties) == ("unix seconds", 0, 0.0)


def test_dates_have_zones_and_fractions(tmp_path):
    zoned = "u,a,5,2017-07-14T04:40:00+02:00\nu,b,5,2017-07-14T02:39:59.5Z\n"
    found, times, told = read(write(tmp_path, zoned))
    assert (found, times, told.unit) == (["b a"], [[1499999999, 1500000000]], "ISO dates")
    found, times, told = read(write(tmp_path, "u,a,5,2017-07-15\nu,b,5,2017-07-14 00:00:01\n"))
    assert (found, times) == (["b a"], [[1499990401, 1500076800]])
    assert told.unit == "ISO dates without a zone, read as UTC"
    found, times, told = read(write(tmp_path, "u,a,5,20170715\nu,b,5,20170714\n"))
    assert (found, times, told.unit) == (["b a"], [[1499990400, 1500076800]], "dates YYYYMMDD")


# Form, text, histories; and words of a warning, if one is due.
READ = {
    "order finer than a float32": ("table", "1,b,5,1500000145999\n1,a,5,1500000145998\n1,c,5,1500000146000\n", "a b c"),
    "order by the fraction": ("table", "1,a,5,1500000144.7\n1,b,5,1500000144.2\n1,c,5,1500000150\n", "b a c"),
    "ties in the order of the file": ("table", "1,b,5,1500000000\n1,a,5,1500000000\n", "b a"),
    "colons in ids, commas between": ("table", "u::1,b,5,3\nu::1,a,5,2\n", "a b", "not unix seconds after 1990"),
    "colons in ids, blanks between": ("table", "n::c::1 n::c::2 5 1500000000\n", "n::c::2"),
    "addresses as ids": ("table", "http://x.org/a::b::5::1500000001\nhttp://x.org/a::a::5::1500000000\n", "a b"),
    "blanks in ids, commas between": ("table", "A1,B 31,5,1500000000\nA1,B 32,3,1500000001\n", "B 31 B 32"),
    "blanks in ids, tabs between": ("table", "1\tThe Who\t2\t1500000001\n1\tAir\t2\t1500000000\n", "Air The Who"),
    "names that say nothing": ("table", "col1,col2,col3,col4\n1,31,2.5,1500000000\n", "31", "say nothing"),
    "a row twice": ("table", "1,a,5,1500000000\n1,a,5,1500000000\n", "a a"),
    "ratings of zero": ("table", "user,item,label,timestamp\n1,a,0,1500000000\n", "a"),
    "small times": ("table", "u,a,5,-5\nu,b,5,0\nu,c,5,10\n", "a b c", "not unix seconds after 1990"),
    "other digits": ("table", "u,a,5,٣\nu,b,5,2\n", "b a", "not unix seconds after 1990"),
    "ids with and without .0": ("table", "1,a,5,1500000000\n1.0,b,5,1500000001\n", "a, b", "without '.0'"),
    "pairs by commas": ("pairs", "1,31\n1,1029\n2,31\n", "31 1029, 31"),
    "pairs by colons": ("pairs", "1::31\n1::1029\n2::31\n", "31 1029, 31"),
    "pairs by tabs": ("pairs", "u\tThe Who\nu\tBlur\n", "The Who Blur"),
    "pairs with a header": ("pairs", "user_id item_id\n1 31\n1 40\n", "31 40"),
    "pairs in quotes": ("pairs", '"1","3,1"\n1,"40"\n', "3,1 40"),
    "pairs with a mark": ("pairs", "\ufeff1 31\n1 40\n", "31 40"),
    "pairs without a final end": ("pairs", "1 a\n\n2 a\n2 b", "a, a b"),
    "huge ids": ("pairs", "1 18446744073709551616\n2 18446744073709551617\n", f"{2**64}, {2**64 + 1}"),
    "zero and less": ("pairs", "-1 0\n-1 -5\n0 0\n", "0 -5, 0"),
    "leading zeros": ("pairs", "007 a\n7 b\n", "a, b"),
    "sequences by commas and blanks": ("sequences", "1, 31, 40\n2, 40\n", "31 40, 40"),
    "sequences by a tab and commas": ("sequences", "1\t31,40\n2\t40\n", "31 40, 40"),
    "sequences by tabs": ("sequences", "1\tThe Who\tBlur\n2\tBlur\n", "The Who Blur, Blur"),
    "sequences by tabs and blanks": ("sequences", "1\ta\tb\n2 b c\n3 c d\n4\td\n", "a b, b c, c d, d"),
    "sequences by bars": ("sequences", "1|Matrix,The|Heat\n2|Alien|Heat\n", "Matrix,The Heat, Alien Heat"),
    "sequences by semicolons": ("sequences", "1;a;b\n2;b\n", "a b, b"),
    "sequences by a blank and commas": ("sequences", "1 31,40\n2 40,31\n", "31 40, 40 31"),
    "sequences with a colon behind the user": ("sequences", "1: 31 40\n2: 40\n", "31 40, 40"),
    "sequences with a comment": ("sequences", "#1 a b\n# a comment\n2 a\n", "a b, a"),
    "sequences with a header": ("sequences", "user_id item_id_list\n1 a b\n", "a b"),
    "sequences with a mark": ("sequences", "\ufeff1 a b\n", "a b"),
    "brackets in an id": ("sequences", "1 [a] b\n", "[a] b"),
    "repeats": ("sequences", "1 a a b\n", "a a b"),
    "item zero": ("sequences", "1 0 1 0\n2 0\n", "0 1 0, 0"),
    "padding": ("sequences", "1 5 0 0\n2 7 5 0\n", "5 0 0, 7 5 0", "looks like padding"),
    "two spellings": ("sequences", "1 cafe\u0301\n2 caf\u00e9\n", "cafe\u0301, caf\u00e9", "look like another's"),
    "dates with a zone's name": ("table", "u,b,5,2019-10-01 09:00:01 UTC\nu,a,5,2019-10-01 9:00:00 UTC\n", "a b"),
    "hours of one digit": ("table", "u,b,5,2010-12-01 10:26\nu,a,5,2010-12-01 8:26\n", "a b"),
    "a colon in users of one kind": ("sequences", "u:1 a b\nu:2 c d\n", "a b, c d"),
    "an invisible character": ("sequences", "1 b\n2 b\u200b\n", "b, b\u200b", "look like another's"),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_a_file_is_read_as_it_is_meant(tmp_path, case):
    form, text, histories, *warning = READ[case]
    found, _, told = read(write(tmp_path, text), form)
    assert ", ".join(found) == histories
    assert len(told.warnings) == len(warning)
    assert all(words in told.warnings[0] for words in warning)


# Form, text, and words of the message.
REFUSED = {
    "a time beyond any date": ("table", rows("{0},{1},{2},9999999999999999999999"), "line 2: time '9+' is beyond"),
    "2 to the power of 63": ("table", "1,a,5,9223372036854775808\n1,b,5,1\n", "line 1: time .* is beyond any date"),
    "a year beyond": ("table", "1,a,5,1500000000\n1,b,5,9500000000\n", "line 2: time 9500000000 is not a date from"),
    "two units": ("table", "1,a,5,1500000000\n1,b,5,1500000001\n1,b,5,1500000000000\n", "line 3: .* would be millis"),
    "a zero among times": ("table", "1,a,5,1500000000\n1,b,5,1500000001\n1,b,5,0\n", "line 3: .* numbers before 1990"),
    "an underscore": ("table", "u,a,5,999\nu,b,5,1_000\n", "line 2: time '1_000' is not a number"),
    "no time": ("table", "1,a,5,1500000000\n1,b,5,\n", "line 2: time '' is missing"),
    "a date among numbers": ("table", "1,a,5,1500000000\n1,b,5,2017-01-01\n", "line 2: .* before it are numbers"),
    "a zone in one date": ("table", "1,a,5,2017-01-01\n1,b,5,2017-01-01T00:00Z\n", "line 2: .* has a time zone"),
    "an early date": ("table", "1,a,5,1917-01-01\n", "line 1: the date lies outside 1990 to 2100"),
    "an infinite time": ("table", "1,a,5,1500000000\n1,b,5,inf\n", "line 2: time 'inf'"),
    "an empty item": ("table", "1,,5,1500000000\n", "line 1: the item is missing .*leave the line out"),
    "nan as an item": ("table", "1,a,5,1500000000\n1,nan,5,1500000001\n", "line 2: the item is missing"),
    "a field less": ("table", "user item rating time\n1 a 5 1500000000\n1  3 1500000001\n", "line 3: .* has 3 field"),
    "no times and no order": ("table", "User-ID;ISBN;Book-Rating\n1;034X;5\n", "known as time.*order: lines"),
    "names without a user": ("table", "who,item,time\n1,a,1500000000\n", "no column is known as user.*`user: NAME`"),
    "times in another column": ("table", "a,1,1500000000,4\nb,1,1500000001,3\n", "column 3 looks like times"),
    "rating or time": ("table", "1,a,4\n1,b,3\n", "the third may be a rating.*`user: 1,"),
    "two columns": ("table", "1,a\n1,b\n", "2 columns are is not known"),
    "times behind the user": ("table", "1,1500000000,a\n2,1500000001,b\n", "column 2 holds .*`user: 1, item: 3, time"),
    "dates behind the user": ("table", "1,2014-04-08T10:51:09.277Z,21,0\n", "column 2 holds .*`user: 1, item: 3, time"),
    "no times at all": ("table", "1,a,4\n1,b,3\n", "`user: 1, item: 2, order: lines`"),
    "a day and a time of day": ("table", "user,item,date,time\nu,a,2019-01-01,10:10:00\n", "`time: date`"),
    "a workbook": ("table", packed("zip", "[Content_Types].xml", "xl/workbook.xml"), "a workbook; export its sheet"),
    "a colon behind users, commas between": ("sequences", "1:10,11\n2:11,12\n", "where the user ends is not known"),
    "a comma behind users, blanks between": ("sequences", "1,10 11\n2,11 12\n", "where the user ends is not known"),
    "a bar behind users, blanks between": ("sequences", "1|10 11\n2|11 12\n", "where the user ends is not known"),
    "five columns": ("table", "1,a,4,5,1500000000\n", "`user: 1, item: 2, time: 4`"),
    "a line end in a name": ("table", '"wh\no",item,time\n1,a,1500000000\n', "as user; the columns are wh o"),
    "an odd line end in an id": ("pairs", "1\t\x85a\n2\tb\n1\x85x\ty\n1\tc\n", "line 4: user '1' comes back"),
    "a list in a table": ("table", "user:token\titem_id_list:token_seq\n1\t2 3\n", "write one row an event"),
    "an open quote": ("table", 'user,item,time\n1,a,1500000000\n1,"b,1500000001\n', "line 3: a quote is not closed"),
    "a quote over rows": ("table", 'user,item,time\n1,"a,1500000000\n1,b",1500000001\n', "line 2: .*Close the quote"),
    "JSON of another kind": ("table", "{user: 1}\n", "line 1: .* is not JSON"),
    "no item in JSON": ("table", '{"uid": 1, "item": 2, "ts": 1500000000}\n{"uid": 1}\n', "2: 'item' is missing"),
    "JSON with lists": ("table", '{"user": 1, "item": [2], "time": 1500000000}\n', "line 1: 'item' is a list"),
    "a zip of two": ("table", packed("zip", "a.csv", "b.csv"), r"2 files \(a.csv, b.csv\).*Unpack it"),
    "a gzip cut off": ("table", gzip.compress(rows().encode())[:-9], "is damaged"),
    "a Zstandard cut off": ("table", zstandard.compress(rows().encode())[:-9], "no event|is damaged"),
    "zero bytes": ("table", b"\x89PNG\0\0", "line 1: not text"),
    "UTF-16": ("table", rows().encode("utf-16"), "line 1: the text is UTF-16.*`encoding: utf-16`"),
    "Latin-1": ("sequences", "1 a b\n2 caf\u00e9\n".encode("latin-1"), "line 2: not UTF-8.*`encoding: latin-1`"),
    "no events": ("table", "", "holds no event"),
    "a header alone": ("table", "user,item,time\n", "holds no event"),
    "no pairs": ("pairs", "\n", "holds no event"),
    "no sequences": ("sequences", "# nothing\n", "holds no event"),
    "pairs not grouped": ("pairs", "1 a\n2 b\n1 b\n", "line 3: user '1' comes back"),
    "pairs, items first": ("pairs", "item_id user_id\n1 31\n", "line 1: .* names the items first"),
    "pairs that may be cut twice": ("pairs", "a 1,b\na 1,c\n", "line 1: .* by commas or by blanks; write which"),
    "pairs that are a table": ("pairs", "a b,1,2\na b,2,3\n", "line 1: .* by blanks or by commas"),
    "pairs without an item": ("pairs", "1\t31\n1\tnan\n", "line 2: .* has no item"),
    "a user with two lines": ("sequences", "1 a b\n2 a\n1 d\n", "line 3: user '1' has two lines"),
    "a line without the separator": ("sequences", "1;a;b\n2\n3;c\n", "line 2: '2' has 1 field"),
    "a blank for a tab, blanks in ids": ("sequences", "1\tThe Who\tBlur\n2 Blur\n", "line 2: '2 Blur' has 1 field"),
    "lists in brackets": ("sequences", "1 ['a', 'b']\n", "line 1: .* holds a list in brackets"),
    "JSON sequences": ("sequences", '{"user": 1, "items": [1, 2]}\n', "line 1: .* holds a list in brackets"),
    "sequences of a typed table": ("sequences", "user:token\titem_list:token_seq\n1\t2 3\n", "`format: table`"),
    "sequences of a table": ("sequences", "userId,movieId,rating\n1,2,3\n", "line 1: .* names the columns of a table"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, case):
    form, content, words = REFUSED[case]
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=words) as caught:
        read(path, form)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


GIVEN = {
    "columns by name": ("who,what,when,user\n1,a,1500000000,x\n", {"user": "who", "item": "what", "time": "when"}),
    "columns by number": ("a,1500000000,1\n", {"user": 3, "item": 1, "time": 2}),
    "the order of the lines": ("user,item\n1,a\n", {"order": "lines"}),
    "the order of lines without a header": ("1,a\n", {"order": "lines"}),
    "a separator": ("1~a~5~1500000000\n", {"separator": "~"}),
    "a byte order mark, UTF-8 spelled otherwise": (b"\xef\xbb\xbf1,a,5,1500000000\n", {"encoding": "utf8"}),
    "an encoding": ("1,a,5,1500000000\n".encode("utf-16"), {"encoding": "utf-16"}),
}


@pytest.mark.parametrize("case", GIVEN)
def test_a_study_may_say_how_a_file_is_read(tmp_path, case):
    content, options = GIVEN[case]
    found, times, _ = read(write(tmp_path, content), **options)
    assert found == ["a"]
    assert times == (None if "order" in options else [[1500000000]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "who"}, "column 'who', given as user, is not there; the columns are user, item, time"),
        ({"user": 9}, "user is column 9, and there are 3"),
        ({"user": "item"}, "one column is given for two"),
    ],
)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        read(write(tmp_path, "user,item,time\n1,a,1500000000\n"), **options)


def test_users_of_a_table_are_in_the_order_of_their_ids(tmp_path):
    text = "".join(f"{user},i{user},5,1500000000\n" for user in ("b", "10", "9", "a", "007"))
    assert read(write(tmp_path, text))[0] == ["i007", "i9", "i10", "ia", "ib"]
    assert read(write(tmp_path, text), "ratings")[0] == ["ib", "i10", "i9", "ia", "i007"]


def test_ties_and_rows_that_are_twice_are_counted(tmp_path):
    text = "u,a,5,1500000000\nu,b,5,1500000000\nu,a,5,1500000000\nu,c,5,1500000001\nv,a,5,1500000000\n"
    told = read(write(tmp_path, text))[2]
    assert told.duplicates == 1
    assert told.ties == pytest.approx(2 / 3)
    assert told.warnings == []


def test_ties_in_the_order_of_the_items_are_a_warning(tmp_path):
    def text(items):
        return "".join(f"u,{item},5,1500000000\n" for item in items)

    assert "100% of the neighbouring events with the same time" in read(write(tmp_path, text(range(20))))[2].warnings[0]
    assert read(write(tmp_path, text([*range(0, 20, 2), *range(19, 0, -2)])))[2].warnings == []


TITLES = "user\titem\ttitle\ttime\n" + "".join(f"u\ti{n}\t{{{n}}}\t{1500000000 + n}\n" for n in range(6))


def test_a_quote_that_holds_rows_is_not_taken_for_a_title(tmp_path):
    text = TITLES.format("a", '"Heroes', "b", "c", 'Low"', "d")
    with pytest.raises(UserError, match="line 3: a quote goes over lines that look like rows themselves"):
        read(write(tmp_path, text))
    # Text may hold commas, so it is read, and said.
    found, _, told = read(write(tmp_path, text.replace("\t", ",")))
    assert found == ["i0 i1 i5"]
    assert "a quote goes over lines that look like rows" in told.warnings[0]
    assert read(write(tmp_path, TITLES.format("a", '"b\nc"', *"cdef")))[0] == ["i0 i1 i2 i3 i4 i5"]


def test_a_long_text_in_quotes_is_read(tmp_path):
    text = f'user,item,time,review\nu,a,1500000000,"{"x" * 200_000}, y"\n'
    assert read(write(tmp_path, text))[0] == ["a"]


def test_a_column_that_is_there_twice_in_a_parquet_file_is_refused_by_number_too(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = [arrow.array(column) for column in (["u"], ["v"], ["a"], [1500000000])]
    parquet.write_table(arrow.table(columns, names=["user_id", "user_id", "item_id", "timestamp"]), tmp_path / "x")
    with pytest.raises(UserError, match="'user_id', the user, is there twice; name the columns apart"):
        read(tmp_path / "x", user=1)


def test_half_a_character_in_an_id_is_no_end_of_the_program(tmp_path):
    text = '{"user": "u", "item": "\\ud800b", "time": 1500000000}\n{"user": "u", "item": "a", "time": 1500000000}\n'
    assert len(read(write(tmp_path, text), ties="hashed")[0]) == 1
