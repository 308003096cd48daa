"""Members of archives: the right ones arrive, and no archive can write anywhere, follow a link or fill the disk."""

import io
import stat
import tarfile
import zipfile
import zlib

import pytest

from harness.data.remote import unpacking
from harness.data.remote.unpacking import ArchiveError, unpack

FIRST, SECOND = b"user,item\n1,a\n2,b", b"user,item\n3,c\n"


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


KINDS = pytest.mark.parametrize("packed", [zipped, tarred])


def unpacked(archive, *members):
    file = io.BytesIO()
    unpack(archive, members, file)
    return file.getvalue()


@KINDS
def test_members_are_joined_with_one_header_in_the_order_asked_for(packed, tmp_path):
    archive = packed(tmp_path / "a", {"in/2.csv": SECOND, "in/1.csv": FIRST, "README": b"no"})
    assert unpacked(archive, "in/1.csv") == FIRST
    assert unpacked(archive, "in/1.csv", "in/2.csv") == b"user,item\n1,a\n2,b\n3,c\n"


@KINDS
def test_of_members_without_a_header_every_line_stays(packed, tmp_path):
    archive = packed(tmp_path / "a", {"1": b"1,a\n2,b\n", "2": b"3,c\n4,d", "3": b"", "4": b"5,e\n"})
    assert unpacked(archive, "1", "2", "3", "4") == b"1,a\n2,b\n3,c\n4,d\n5,e\n"


@KINDS
def test_nothing_is_written_where_an_archive_says(packed, tmp_path):
    folder = tmp_path / "below" / "here"
    folder.mkdir(parents=True)
    archive = packed(folder / "a", {"../../evil": b"x", "/tmp/evil-of-a-test": b"x", "good": b"1 a\n"})
    before = sorted(tmp_path.rglob("*"))
    assert unpacked(archive, "good") == b"1 a\n"
    assert sorted(tmp_path.rglob("*")) == before


@KINDS
def test_a_member_that_is_not_there_is_said_with_what_is(packed, tmp_path):
    with pytest.raises(ArchiveError, match=r"'c' is not there; it holds a, b"):
        unpacked(packed(tmp_path / "a", {"a": b"", "b": b""}), "c")


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("x", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x", b"2")
    with pytest.raises(ArchiveError, match="'x' is there twice"):
        unpacked(tmp_path / "a", "x")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_not_followed(tmp_path, kind):
    (tmp_path / "secret").write_text("secret")
    entry = tarfile.TarInfo("x")
    entry.type, entry.linkname = kind, str(tmp_path / "secret")
    with tarfile.open(tmp_path / "a", "w") as archive:
        archive.addfile(entry)
    with pytest.raises(ArchiveError, match="is a link or no file"):
        unpacked(tmp_path / "a", "x")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_links_of_a_zip_are_not_followed(tmp_path, kind):
    entry = zipfile.ZipInfo("x")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr(entry, "secret")
    with pytest.raises(ArchiveError, match="is a link or no file"):
        unpacked(tmp_path / "a", "x")


@KINDS
def test_what_is_far_larger_than_it_can_be_is_refused_before_the_disk_is_full(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "_LEAST_LIMIT", 1 << 20)
    archive = packed(tmp_path / "a", {"x": bytes(40 << 20)})
    file = io.BytesIO()
    with pytest.raises(ArchiveError, match="far larger than it can be"):
        unpack(archive, ["x"], file)
    assert len(file.getvalue()) < 8 << 20


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    content = zipped(tmp_path / "a", {"x": b"1 a\n" * 1000}).read_bytes()
    size = (4000).to_bytes(4, "little")
    assert content.count(size) == 2
    (tmp_path / "a").write_bytes(content.replace(size, (400).to_bytes(4, "little")))
    with pytest.raises(ArchiveError, match="damaged"):
        unpacked(tmp_path / "a", "x")


def test_an_encrypted_member_is_said(tmp_path):
    content = bytearray(zipped(tmp_path / "a", {"x": b"1 a\n"}).read_bytes())
    # The flag stands in the local header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ArchiveError, match="encrypted"):
        unpacked(tmp_path / "a", "x")


@KINDS
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_archive_is_said_and_never_a_traceback(packed, tmp_path, share):
    noise = b"".join(zlib.compress(b"%d" % number) for number in range(3000))
    content = packed(tmp_path / "a", {"x": noise}).read_bytes()
    (tmp_path / "a").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArchiveError, match="damaged"):
        unpacked(tmp_path / "a", "x")


@KINDS
def test_an_archive_with_one_byte_changed_is_said(packed, tmp_path):
    noise = b"".join(zlib.compress(b"%d" % number) for number in range(3000))
    content = bytearray(packed(tmp_path / "a", {"x": noise}).read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ArchiveError, match="damaged"):
        unpacked(tmp_path / "a", "x")


def test_what_is_no_archive_is_said(tmp_path):
    (tmp_path / "a").write_text("<html>log in first</html>")
    with pytest.raises(ArchiveError, match="neither a zip nor a tar"):
        unpacked(tmp_path / "a", "x")
