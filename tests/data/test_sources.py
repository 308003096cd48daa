import gzip
import hashlib
import multiprocessing
import os
import shutil
import tomllib
import zipfile
from pathlib import Path

import pytest

from harness.data import sources
from harness.data.catalogue import SOURCES, DataSource, Origin
from harness.data.summary import summary
from harness.errors import UserError

ROOT = Path(__file__).parents[2]
TEXT = b"u a\nu b\nu c\nv a\n"
SHA = hashlib.sha256(TEXT).hexdigest()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def source(**changes):
    return DataSource(**{"format": "pairs", "file": "x.txt", "sha256": SHA, **changes})


def test_missing_file_names_checksum_place_and_remedy(place):
    with pytest.raises(UserError) as caught:
        sources.prepare("toy", source(citation="Somebody 2020"), place)
    for part in ("'toy' is missing", "Somebody 2020", SHA, str(place / "x.txt")):
        assert part in str(caught.value)


def test_wrong_checksum_names_both(place):
    (place / "x.txt").write_bytes(TEXT + b"w a\n")
    with pytest.raises(UserError) as caught:
        sources.prepare("toy", source(), place)
    assert SHA in str(caught.value)
    assert hashlib.sha256(TEXT + b"w a\n").hexdigest() in str(caught.value)


def test_environment_variable_wins_over_the_study(place, tmp_path, monkeypatch):
    (place / "x.txt").write_bytes(TEXT)
    monkeypatch.setenv("HYENAREC_DATA", str(place))
    prepared = sources.prepare("toy", source(), tmp_path / "elsewhere")
    assert prepared.interactions.items.tolist() == [1, 2, 3, 1]
    assert prepared.data_sha256 == SHA


def test_prepared_arrays_serve_without_the_file(place):
    (place / "x.txt").write_bytes(TEXT)
    first = sources.prepare("toy", source(), place)
    (place / "x.txt").unlink()
    again = sources.prepare("toy", source(), place)
    assert again.folder == first.folder
    assert again.interactions.offsets.tolist() == [0, 3, 4]


def test_without_a_checksum_the_file_decides(place):
    (place / "x.txt").write_bytes(TEXT)
    first = sources.prepare("toy", source(sha256=None), place)
    (place / "x.txt").write_bytes(TEXT + b"w z\n")
    second = sources.prepare("toy", source(sha256=None), place)
    assert first.data_sha256 == SHA
    assert second.data_sha256 != SHA
    assert second.interactions.num_users == 3


def test_a_corrected_format_gives_its_own_arrays(place):
    (place / "x.txt").write_text("1 7 3 1500000001\n2 7 3 1500000000\n")
    given = {"sha256": None, "format": "sequences"}
    assert sources.prepare("toy", source(**given), place).interactions.num_items == 4
    table = sources.prepare("toy", source(**given | {"format": "table"}), place).interactions
    assert (table.num_items, table.timestamps.tolist()) == (1, [1500000001, 1500000000])
    swapped = {"format": "table", "user": 2, "item": 1, "time": 4}
    assert sources.prepare("toy", source(**given | swapped), place).interactions.items.tolist() == [1, 2]


@pytest.mark.parametrize("file", ["items.npy", "offsets.npy", "timestamps.npy", "meta.json"])
@pytest.mark.parametrize("how", ["zeroed", "cut", "emptied", "removed"])
def test_damaged_arrays_are_prepared_again(place, capsys, file, how):
    (place / "x.txt").write_text("".join(f"u,{item},5,{1500000000 + item}\n" for item in range(50)))
    table = source(sha256=None, format="table")
    whole = sources.prepare("toy", table, place)
    path, expected = whole.folder / file, whole.interactions.items.tolist()
    content = path.read_bytes()
    changed = {"zeroed": content[:-60] + bytes(60), "cut": content[:-60], "emptied": b""}
    path.unlink() if how == "removed" else path.write_bytes(changed[how])
    again = sources.prepare("toy", table, place)
    assert again.interactions.items.tolist() == expected
    assert again.interactions.timestamps.tolist() == [1500000000 + item for item in range(50)]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "are damaged; preparing them again" in said[0]
    sources.prepare("toy", table, place)
    assert capsys.readouterr().err == ""


def test_what_a_killed_preparation_left_is_cleared(place, tmp_path):
    (place / "x.txt").write_bytes(TEXT)
    folder = sources.prepare("toy", source(), place).folder
    shutil.rmtree(folder)
    (folder.parent / f".{folder.name}.abc").mkdir()
    other = folder.parent / ".other-data.abc"
    other.mkdir()
    sources.prepare("toy", source(), place)
    assert {path for path in folder.parent.iterdir() if path.suffix != ".lock"} == {folder, other}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": SHA.upper()}, "in lower case"),
        ({"sha256": "abc"}, "64 of the digits"),
        ({"url": "example.org/x"}, "must begin with https://"),
        ({"url": "https://"}, "must begin with https://"),
        ({"separator": ";;"}, "one character, or '::'"),
        ({"separator": '"'}, "cannot separate"),
        ({"encoding": "klingon"}, "encoding is 'klingon'"),
        ({"encoding": "rot13"}, "encoding is 'rot13'"),
        ({"format": "table", "user": 0}, "counted from 1"),
        ({"format": "table", "time": "when", "order": "lines"}, "leave one of them out"),
        ({"user": "who"}, "user mean nothing to this format; it takes separator, encoding"),
        ({"file": "/nowhere/x.txt"}, "there is no file /nowhere/x.txt"),
    ],
)
def test_a_source_that_cannot_be_meant_is_refused(place, changes, words):
    with pytest.raises(UserError, match=words):
        sources.prepare("toy", source(**{"sha256": None, **changes}), place)


def test_a_folder_of_data_may_lie_in_the_home_folder_or_be_relative(place, tmp_path, monkeypatch):
    (place / "x.txt").write_bytes(TEXT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for folder in ("~/data", "data"):
        assert sources.locate("toy", source(), folder) == place / "x.txt"
    assert sources.locate("toy", source(file="~/data/x.txt")) == place / "x.txt"
    with pytest.raises(UserError, match=f"that data_folder names, {tmp_path / 'other'}, is not there"):
        sources.locate("toy", source(), "other")


def test_ratings_keep_their_timestamps(place):
    (place / "r.csv").write_text("userId,movieId,rating,timestamp\nu,b,3,20\nv,a,1,7\nu,a,4.5,10\n")
    stored = sources.prepare("toy", DataSource(format="ratings", file="r.csv"), place).interactions
    assert stored.items.tolist() == [1, 2, 1]
    assert stored.offsets.tolist() == [0, 2, 3]
    assert stored.timestamps.tolist() == [10, 20, 7]
    assert stored.timestamps.dtype == "int64"


def test_download_is_verified_and_kept(place, tmp_path, capsys):
    origin = tmp_path / "origin.txt"
    origin.write_bytes(TEXT)
    found = sources.locate("toy", source(url=origin.as_uri()), place)
    assert found == tmp_path / "cache" / "files" / "x.txt"
    assert "fetching" in capsys.readouterr().err
    origin.unlink()
    assert sources.locate("toy", source(url=origin.as_uri()), place) == found


def test_a_bad_download_leaves_nothing(place, tmp_path):
    origin = tmp_path / "origin.txt"
    origin.write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=f"expected (sha256:)?{SHA}"):
        sources.locate("toy", source(url=origin.as_uri()), place)
    assert [p.name for p in (tmp_path / "cache" / "files").iterdir() if p.suffix != ".lock"] == []


def test_failed_download_says_where_to_put_the_file(place, tmp_path):
    with pytest.raises(UserError, match=r"fetching it failed .*put it at"):
        sources.locate("toy", source(url=(tmp_path / "nothing").as_uri()), place)


def test_a_malformed_file_leaves_no_arrays(place, tmp_path):
    (place / "x.txt").write_bytes(b"u a b\n")
    with pytest.raises(UserError, match="line 1"):
        sources.prepare("toy", source(sha256=None), place)
    assert [p.name for p in (tmp_path / "cache" / "prepared").iterdir() if p.suffix != ".lock"] == []


def _prepare(folder, barrier, results):
    barrier.wait()
    prepared = sources.prepare("toy", DataSource(format="sequences", file="big.txt"), folder)
    results.put((str(prepared.folder), prepared.interactions.num_events, int(prepared.interactions.items[-1])))


def test_two_processes_may_prepare_at_once(place):
    (place / "big.txt").write_text("".join(f"u{u} {' '.join(map(str, range(u, u + 50)))}\n" for u in range(3000)))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_prepare, args=(place, barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert {events for _, events, _ in found} == {150_000}
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "ml-1m",
            "6,040 users, 3,416 items, 999,611 events\nhistory: min 18, median 96, mean 165.5, p99 906, max 2277",
        ),
        (
            "ml-100k",
            "943 users, 1,682 items, 100,000 events\nhistory: min 20, median 65, mean 106.0, p99 443, max 737",
        ),
        (
            "ml-latest-small",
            "610 users, 9,724 items, 100,836 events\nhistory: min 20, median 70.5, mean 165.3, p99 1256, max 2698",
        ),
        ("beauty", "22,363 users, 12,101 items, 198,502 events\nhistory: min 5, median 6, mean 8.9, p99 43, max 204"),
        ("video", "31,013 users, 23,715 items, 287,107 events\nhistory: min 1, median 6, mean 9.3, p99 50, max 860"),
    ],
)
def test_real_files(name, facts, tmp_path, monkeypatch):
    folder = os.environ.get("HYENAREC_DATA")
    if not folder:
        pytest.skip("HYENAREC_DATA names no folder of real data")
    if not (Path(folder) / SOURCES[name].file).is_file():
        pytest.skip(f"{SOURCES[name].file} is not in HYENAREC_DATA")
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path))
    assert facts in summary(name, SOURCES[name])


@pytest.fixture
def packaged(place, tmp_path, monkeypatch):
    """A package that brings x.txt."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "x.txt.gz").write_bytes(gzip.compress(TEXT))
    monkeypatch.setattr(sources, "_PACKAGED", folder)
    return folder


def test_movielens_latest_small_needs_nothing_fetched(place, capsys):
    # `place` names no folder of real data and an empty cache.
    text = summary("ml-latest-small", SOURCES["ml-latest-small"])
    assert "610 users, 9,724 items, 100,836 events" in text
    assert "timestamps: unix seconds" in text
    assert "not for evidence" in text
    assert "terms of use" in capsys.readouterr().err


def test_the_packaged_file_is_the_one_of_the_catalogue_and_has_its_licence():
    source = SOURCES["ml-latest-small"]
    packed = sources._PACKAGED / f"{source.file}.gz"
    content = packed.read_bytes()
    assert hashlib.sha256(gzip.decompress(content)).hexdigest() == source.sha256
    # No file name and no time in the header, so that packing it again gives the same bytes.
    assert content[3:8] == bytes(5)
    licence = (packed.parent / "LICENSE.txt").read_text()
    for term in (
        "may not state or imply any endorsement",
        "under these same license conditions",
        "commercial",
        "2827872",
    ):
        assert term in licence
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {path for pattern in project["license-files"] for path in ROOT.glob(pattern)}
    assert packed.parent / "LICENSE.txt" in declared


def test_a_file_of_the_user_wins_over_the_packaged_one(place, packaged):
    own = b"u a\nu b\n"
    (place / "x.txt").write_bytes(own)
    assert sources.prepare("toy", source(sha256=None), place).interactions.num_users == 1
    with pytest.raises(UserError, match=f"expected (sha256:)?{SHA}"):
        sources.prepare("toy", source(), place)


def test_a_compressed_file_elsewhere_is_not_packaged(place, packaged, tmp_path):
    (tmp_path / "y.txt.gz").write_bytes(gzip.compress(TEXT))
    for file in (str(tmp_path / "y.txt"), "../y.txt"):
        with pytest.raises(UserError, match="is missing"):
            sources.locate("toy", source(file=file), place)
    assert not (tmp_path / "y.txt").exists()


def test_a_packaged_file_wins_over_an_address(place, packaged):
    assert sources.prepare("toy", source(url="file:///nowhere"), place).interactions.num_users == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(gzip.compress(TEXT)[:-9], "install the package again"), (TEXT, "install the package again"), (b"", "sha256 is")],
    # Named, since packed text holds the time, and two processes must collect the same tests.
    ids=["cut", "not packed", "empty"],
)
def test_a_damaged_package_is_said_and_leaves_nothing(place, packaged, tmp_path, content, words):
    (packaged / "x.txt.gz").write_bytes(content)
    with pytest.raises(UserError, match=words):
        sources.prepare("toy", source(), place)
    assert [p.name for p in (tmp_path / "cache" / "files").iterdir() if p.suffix != ".lock"] == []


def zipped(path, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def published(path, **changes):
    """A source in an archive at an address."""
    checksum = f"md5:{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
    given = {"url": path.as_uri(), "members": ("x",), "checksum": checksum, "licence": "CC BY 4.0", "size": 2_500}
    return source(origin=Origin(**given | changes), citation="Somebody 2020", sha256=None)


def kept(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache" / "files").iterdir() if p.suffix != ".lock")


def test_a_file_in_an_archive_is_fetched_with_its_licence_and_size_shown_first(place, tmp_path, capsys):
    origin = published(zipped(tmp_path / "there" / "a.zip", x=TEXT))
    found = sources.prepare("toy", origin, place)
    assert found.interactions.items.tolist() == [1, 2, 3, 1]
    said = capsys.readouterr().err
    assert "fetching file://" in said
    assert "2.5 kB" in said
    assert "licence: CC BY 4.0" in said
    assert "cite: Somebody 2020" in said
    # The archive goes once its file is there.
    assert kept(tmp_path) == ["x.txt"]
    (tmp_path / "there" / "a.zip").unlink()
    assert sources.locate("toy", origin, place) == tmp_path / "cache" / "files" / "x.txt"


def test_an_archive_that_the_user_has_is_taken_and_left_alone(place, tmp_path):
    there = zipped(tmp_path / "there" / "a.zip", x=TEXT)
    origin = published(there, consent=True)
    here = place / "a.zip"
    there.rename(here)
    assert sources.prepare("toy", origin, place).interactions.num_users == 2
    assert here.is_file()


def test_an_archive_of_another_checksum_is_refused(place, tmp_path):
    origin = published(zipped(tmp_path / "there" / "a.zip", x=TEXT))
    zipped(place / "a.zip", x=TEXT + b"w a\n")
    with pytest.raises(UserError, match=r"a\.zip is another file than md5:"):
        sources.locate("toy", origin, place)
    assert kept(tmp_path) == []


def test_an_archive_without_the_file_is_said_and_leaves_no_file(place, tmp_path):
    origin = published(zipped(tmp_path / "there" / "a.zip", y=TEXT))
    with pytest.raises(UserError, match="'x' is not there; it holds y"):
        sources.locate("toy", origin, place)
    assert kept(tmp_path) == ["a.zip"]


def test_terms_wait_for_consent_by_name(place, tmp_path, monkeypatch, capsys):
    origin = published(zipped(tmp_path / "there" / "a.zip", x=TEXT), consent=True, terms="https://example.org/terms")
    for others in ("", "another", "toy-2,other"):
        monkeypatch.setenv("HYENAREC_CONSENT", others)
        with pytest.raises(UserError) as caught:
            sources.locate("toy", origin, place)
        for part in ("HYENAREC_CONSENT=toy", "https://example.org/terms", "2.5 kB", "Somebody 2020"):
            assert part in str(caught.value)
    assert kept(tmp_path) == []
    monkeypatch.setenv("HYENAREC_CONSENT", "other, toy")
    assert sources.locate("toy", origin, place).read_bytes() == TEXT


def test_what_does_not_fit_on_the_disk_is_not_fetched(place, tmp_path):
    origin = published(zipped(tmp_path / "there" / "a.zip", x=TEXT), size=10**18)
    with pytest.raises(UserError, match="1e\\+09 GB do not fit on the disk"):
        sources.locate("toy", origin, place)


def test_a_file_of_the_user_is_held_against_the_published_checksum(place, tmp_path):
    (tmp_path / "there").write_bytes(TEXT)
    origin = published(tmp_path / "there", members=())
    (place / "x.txt").write_bytes(TEXT + b"w a\n")
    with pytest.raises(UserError, match="has not the checksum md5:"):
        sources.locate("toy", origin, place)
    (place / "x.txt").write_bytes(TEXT)
    assert sources.locate("toy", origin, place) == place / "x.txt"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "example.org/x"}, "must begin with https://"),
        ({"url": "https://example.org/"}, "end in the name of a file"),
        ({"checksum": "sha1:0"}, "must be md5: and 32"),
        ({"members": ("../x",)}, "paths inside the archive"),
        ({"members": ("/x",)}, "paths inside the archive"),
    ],
)
def test_an_origin_that_cannot_be_meant_is_refused(place, changes, words):
    origin = Origin(**{"url": "https://example.org/x", **changes})
    with pytest.raises(UserError, match=words):
        sources.prepare("toy", source(origin=origin), place)
    with pytest.raises(UserError, match="leave url out"):
        sources.prepare("toy", source(origin=Origin(url="https://a.org/x"), url="https://a.org/x"), place)
