"""Every public data set of the registry: what stands there is meant, and a small file of its layout is read.

The layouts are those that the publishers describe; all values are made up here.
"""

import gzip
import io
import re
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from harness import cli
from harness.data import sources
from harness.data.account import Account
from harness.data.catalogue import SOURCES, Origin
from harness.data.formats import find_format
from harness.data.preparation import Preparation
from harness.data.reading.lines import ItemIds
from harness.data.remote.page import table

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {name: source for name, source in SOURCES.items() if name != "synthetic"}
# Nothing is known of where to get this very file.
WITHOUT_ADDRESS = {"video-games"}
# Of these no checksum could be verified.
UNVERIFIED = {
    "amazon-2014-beauty",
    "amazon-2014-sports",
    "amazon-2014-video-games",
    "amazon-2014-books",
    "amazon-2023-beauty",
    "amazon-2023-sports",
    "amazon-2023-books",
    "steam",
    "lfm-user-groups",
}

# User 12 has item 5 at 1,300,000,200 and item 31 before, at 1,300,000,100; user 40 has item 5. Where a set counts only
# some rows as events, one of user 12 with item 77 is none.
MOVIELENS = "userId,movieId,rating,timestamp\n12,5,4.5,1300000200\n40,5,3.0,1300000150\n12,31,2.0,1300000100\n"
AMAZON = "A12,000005,4.0,1300000200\nA40,000005,3.0,1300000150\nA12,000031,2.0,1300000100\n"
AMAZON_2023 = (
    "user_id,parent_asin,rating,timestamp\n"
    "A12,B5,4.0,1300000200123\nA40,B5,3.0,1300000150000\nA12,B31,2.0,1300000100999\n"
)
KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)
CLICK = "{},{},20110313,700,{},{},0,0,0,0,0,1,9000,8000,0,0,0,0,1\n"
STEAM = (
    "{{u'username': u'{}', u'hours': 0.5, u'products': 3, u'product_id': u'{}', u'page_order': 0, u'date': u'{}', "
    "u'text': u\"It\\'s \\u0411 {{fine}}, isn't it\", u'early_access': False, u'page': 1, u'user_id': None}}\n"
)
KUAIREC = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
VIEW = "{},{},13838,10867,2011-03-13 07:09:28.04,20110313,{},1.27\n"
SECONDS = [[1300000100, 1300000200], [1300000150]]
DAYS = [[1299974400, 1300060800], [1299974400]]
LAYOUTS = {
    "ml-1m": ("12 31\n12 5\n40 5\n", None),
    "ml-1m-ratings": ("12::5::4::1300000200\n40::5::3::1300000150\n12::31::2::1300000100\n", SECONDS),
    "ml-100k": ("12\t5\t4\t1300000200\n40\t5\t3\t1300000150\n12\t31\t2\t1300000100\n", SECONDS),
    "ml-latest-small": (MOVIELENS, SECONDS),
    "ml-20m": (MOVIELENS, SECONDS),
    "ml-32m": (MOVIELENS, SECONDS),
    "beauty": ("12 31 5\n40 5\n", None),
    "sports": ("12 31 5\n40 5\n", None),
    "video-games": ("12 31 5\n40 5\n", None),
    "video": ("12 31\n12 5\n40 5\n", None),
    **dict.fromkeys([name for name in PUBLIC if name.startswith("amazon-2014")], (AMAZON, SECONDS)),
    **dict.fromkeys([name for name in PUBLIC if name.startswith("amazon-2023")], (AMAZON_2023, SECONDS)),
    "steam": (
        STEAM.format("An A 12", 5, "2011-03-14")
        + STEAM.format("B, 40", 5, "2011-03-13")
        + STEAM.format("An A 12", 31, "2011-03-13"),
        DAYS,
    ),
    "gowalla": (
        "12\t2011-03-13T07:10:00Z\t30.26\t-97.74\t5\n40\t2011-03-13T07:09:10Z\t30.26\t-97.74\t5\n"
        "12\t2011-03-13T07:08:20Z\t-30.1\t97.0\t31\n",
        SECONDS,
    ),
    "kuairec": (
        KUAIREC
        + VIEW.format(12, 5, 1300000200.04)
        + VIEW.format(40, 5, "1.30000015E9")
        + VIEW.format(12, 31, 1300000100.5),
        SECONDS,
    ),
    "kuairand-1k": (
        KUAIRAND + CLICK.format(12, 31, 1300000100123, 1) + CLICK.format(40, 5, 1300000150000, 1),
        KUAIRAND + CLICK.format(12, 77, 1300000190000, 0) + CLICK.format(12, 5, 1300000200123, 1),
        SECONDS,
    ),
    "lfm-user-groups": (
        "12\t900\t800\t5\t1300000200\n40\t900\t800\t5\t1300000150\n12\t901\t801\t31\t1300000100\n",
        SECONDS,
    ),
}


def packed(path, names, texts):
    """The file as it is published: in an archive, compressed or plain."""
    if not names:
        content = texts[0].encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in zip(names, texts, strict=True):
                archive.writestr(name, text)
            archive.writestr("README", "about")
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, text in zip(names, texts, strict=True):
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    monkeypatch.delenv("HYENAREC_CONSENT", raising=False)
    monkeypatch.setattr(sources, "_PACKAGED", tmp_path / "no package")
    return tmp_path


def local(name, folder):
    """The entry with an address in a folder, and none of the checksums of the published file."""
    origin = PUBLIC[name].origin or Origin(url="https://example.org/x.txt")
    url = (folder / origin.archive).as_uri()
    changed = msgspec.structs.replace(origin, url=url, checksum=None, size=None)
    return msgspec.structs.replace(PUBLIC[name], origin=changed, sha256=None)


def read(name, source):
    ids, account = ItemIds(), Account()
    path = sources.locate(name, source)
    histories, times = find_format(source.format).histories(path, ids, source.options, account)
    histories = [list(history) for history in histories]
    tokens = [None, *ids]
    return [[tokens[item] for item in history] for history in histories], times and [list(t) for t in times], account


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - {"yambda-50m"}))
def test_a_file_of_the_published_layout_is_fetched_and_read(here, monkeypatch, name):
    monkeypatch.setenv("HYENAREC_CONSENT", name)
    *texts, expected = LAYOUTS[name]
    source = local(name, here)
    packed(here / source.origin.archive, source.origin.members, texts)
    items, times, account = read(name, source)
    assert [[int(re.sub("[A-Z]", "", item)) for item in history] for history in items] == [[31, 5], [5]]
    assert times == expected
    assert account.warnings == []
    # What the preparation leaves is another question: all sets are prepared as they are named.
    plain = msgspec.structs.replace(source, preparation=Preparation())
    assert sources.prepare(name, plain).interactions.offsets.tolist() == [0, 2, 3]


def test_a_header_of_the_listening_events_is_read_as_one(here):
    text = "user\tartist\talbum\ttrack\ttimestamp\n" + LAYOUTS["lfm-user-groups"][0]
    source = local("lfm-user-groups", here)
    packed(here / source.origin.archive, (), [text])
    items, times, account = read("lfm-user-groups", source)
    assert (items, times) == ([["31", "5"], ["5"]], SECONDS)
    assert account.columns == {"user": "user", "item": "track", "time": "timestamp"}


def test_listens_of_yambda_are_read(here):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "uid": ([12, 12, 40, 12], "uint32"),
        "timestamp": ([100, 200, 150, 190], "uint32"),
        "item_id": ([31, 5, 5, 77], "uint32"),
        "is_organic": ([1, 0, 1, 1], "uint8"),
        "played_ratio_pct": ([100, 50, 70, 49], "uint16"),
        "track_length_seconds": ([200, 201, 202, 203], "uint32"),
    }
    table = arrow.table({name: arrow.array(values).cast(kind) for name, (values, kind) in columns.items()})
    source = local("yambda-50m", here)
    parquet.write_table(table, here / source.origin.archive)
    items, times, account = read("yambda-50m", source)
    assert (items, times) == ([["31", "5"], ["5"]], [[100, 200], [150]])
    assert account.left_out == {"rating below 50": 1}
    assert "numbers before 1990" in account.unit


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'username': 'a', 'product_id': open('x'), 'date': '2011-03-13'}", "'product_id' is a list or an object"),
        ("{'username': 'a', 'product_id': None, 'date': '2011-03-13'}", "'product_id' is missing"),
        ("{'username': 'a', 'date': '2011-03-13'}", "'product_id' is missing"),
        ("{'username': 'a', 'product_id': [5], 'date': '2011-03-13'}", "'product_id' is a list or an object"),
        ("{'username': 'a', 'product_id': '5', ", "is not a Python dict"),
        ("__import__('os').getcwd()", "is not a Python dict"),
        ("{'username': 'a', **{}}", "is not a Python dict"),
        ("{'username': " + "[" * 50_000, "is not a Python dict"),
    ],
)
def test_a_dict_that_is_none_is_refused_with_its_line_and_never_run(here, line, words):
    source = local("steam", here)
    packed(here / source.origin.archive, (), [STEAM.format("A", 5, "2011-03-13") + line + "\n"])
    with pytest.raises(sources.UserError, match=f"line 2: .*{words}"):
        read("steam", source)


def test_numbers_of_a_dict_stay_as_they_are_written(here):
    (here / "x.json").write_text("{'user': 10000000000000001.0, 'item': -1e3, 'time': 1300000100}\n")
    source = msgspec.structs.replace(local("steam", here), origin=None, file=str(here / "x.json"))
    source = msgspec.structs.replace(source, user=None, item=None, time=None)
    ids = ItemIds()
    find_format("table").histories(here / "x.json", ids, source.options, account := Account())
    assert list(ids) == ["-1e3"]
    assert account.form == "Python dicts, one a line"


def test_every_entry_can_be_meant_and_says_what_it_should():
    assert PUBLIC.keys() - {name for name, source in PUBLIC.items() if source.origin} == WITHOUT_ADDRESS
    for name, source in PUBLIC.items():
        source.check(name)
        assert find_format(source.format).refuse(source.options) is None
        assert source.citation
        if (origin := source.origin) is not None:
            assert origin.licence != "not stated"
            assert origin.columns
            assert urlsplit(origin.terms).scheme == "https"
            assert urlsplit(origin.url).scheme == "https"
    verified = {n for n, s in PUBLIC.items() if s.sha256 or (s.origin and s.origin.checksum)}
    assert PUBLIC.keys() - verified == UNVERIFIED


def test_files_are_apart_and_none_is_another_sets_archive():
    files = [source.file for source in PUBLIC.values()]
    archives = [str(Path(s.file).with_name(s.origin.archive)) for s in PUBLIC.values() if s.origin and s.origin.members]
    assert len({*files, *archives}) == len(files) + len(archives)


def test_the_registry_is_what_a_study_says_under_data(here, capsys):
    entries = yaml.safe_load((ROOT / "harness/data/remote/registry.yaml").read_text())
    study = {
        "name": "mine",
        "device": "cpu",
        "data": {f"my-{name}": entry for name, entry in entries.items()},
        "training": {"models": ["gru4rec"], "datasets": ["my-steam", "kuairand-1k"], "lengths": [8]},
    }
    (here / "mine.yaml").write_text(yaml.safe_dump(study))
    assert cli.main(["cells", str(here / "mine.yaml"), "--results", str(here / "results")]) == 0
    assert "my-steam" in capsys.readouterr().out


def test_the_table_of_the_page_is_that_of_the_registry():
    page = (ROOT / "docs" / "data.md").read_text()
    # Print it again with `python -m harness.data.remote.page`.
    assert page.partition("<!-- sources -->\n")[2].partition("<!-- /sources -->")[0] == table()
    rows = [line.split(" | ") for line in table().splitlines()[2:]]
    assert [row[0].strip("| `") for row in rows] == [*PUBLIC]
    assert {row[0].strip("| `") for row in rows if row[2] == "none verified"} == UNVERIFIED


def test_an_unknown_name_is_answered_with_the_nearest(here, capsys):
    assert cli.main(["data", "kuairand1k"]) == 64
    assert "Did you mean 'kuairand-1k'?" in capsys.readouterr().err


def test_a_set_with_terms_says_them_with_its_size_and_citation_before_anything_is_fetched(here, capsys):
    assert cli.main(["data", "ml-20m"]) == 64
    said = capsys.readouterr().err
    for part in ("no commercial use", "199 MB", "Harper and Konstan", "HYENAREC_CONSENT=ml-20m", "ml-20m-README.html"):
        assert part in said
