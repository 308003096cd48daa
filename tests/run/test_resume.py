"""Archives that `--resume` unpacks: whole records, and nothing outside their folder."""

import io
import tarfile

import pytest

from harness.errors import UserError
from harness.run.session import Session, resume
from harness.study.schema import Study


def archive(path, members):
    """Members as name → bytes, or a link's target as text."""
    with tarfile.open(path, "w:gz") as bundle:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                bundle.addfile(member)
            else:
                member.size = len(content)
                bundle.addfile(member, io.BytesIO(content))
    return path


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_unpacks_what_is_not_there_yet(tmp_path):
    records = tmp_path / "records"
    records.mkdir()
    (records / "study.json").write_bytes(b"mine")
    members = {"set/study.json": b"theirs", "set/speed/a/x.json": b"{}", "logs/a.log": b"words"}
    assert resume(archive(tmp_path / "a.tar.gz", members), records, "set") == 1
    assert files(records) == {"study.json": b"mine", "speed/a/x.json": b"{}"}


@pytest.mark.parametrize("name", ["set/../../outside.json", "set//tmp/outside-of-the-records.json", "set/a/../../../b"])
def test_an_archive_that_would_leave_its_folder_writes_nothing(tmp_path, name):
    found = archive(tmp_path / "a.tar.gz", {"set/good.json": b"{}", name: b"{}"})
    with pytest.raises(UserError, match="would lie outside"):
        resume(found, tmp_path / "records", "set")
    assert not (tmp_path / "records").exists()
    assert files(tmp_path).keys() == {"a.tar.gz"}


def test_a_name_that_no_file_can_have_writes_nothing(tmp_path):
    found = archive(tmp_path / "a.tar.gz", {"set/good.json": b"{}", f"set/{'y' * 300}": b"{}"})
    with pytest.raises(UserError, match="a name of more than 200 letters"):
        resume(found, tmp_path / "records", "set")
    assert not (tmp_path / "records").exists()


def test_links_are_left_out(tmp_path):
    found = archive(tmp_path / "a.tar.gz", {"set/link.json": "/etc/passwd", "set/good.json": b"{}"})
    assert resume(found, tmp_path / "records", "set") == 1
    assert files(tmp_path / "records") == {"good.json": b"{}"}


@pytest.mark.parametrize("share", [0.002, 0.3, 0.6, 0.9])
def test_a_cut_archive_is_one_line_and_leaves_whole_files(tmp_path, share):
    content = bytes(range(256)) * 400
    whole = archive(tmp_path / "a.tar.gz", {f"set/{n}.json": content + bytes([n]) for n in range(8)}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"is damaged|is not an archive"):
        resume(tmp_path / "a.tar.gz", tmp_path / "records", "set")
    records = tmp_path / "records"
    assert all(found[:-1] == content for found in files(records).values()) if records.exists() else True


def test_records_of_another_study_are_refused(tmp_path):
    found = archive(tmp_path / "a.tar.gz", {"other/speed/a/x.json": b"{}", "logs/machine.txt": b"words"})
    with pytest.raises(UserError, match="holds records of study 'other', not of 'set'"):
        resume(found, tmp_path / "records", "set")
    assert not (tmp_path / "records").exists()


def test_an_archive_holds_neither_itself_nor_a_file_that_happens_to_lie_there(tmp_path):
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "x.json").write_bytes(b"{}")
    for name in ("secret.txt", "machine.txt", "speed.txt"):
        (tmp_path / name).write_text(name)
    session = Session(Study(name="set"), "set", tmp_path, tmp_path / "out.tar.gz", None, None, None)
    for _ in range(2):
        session._write()
        with tarfile.open(session.archive) as bundle:
            names = set(bundle.getnames())
        assert {"logs/machine.txt", "logs/speed.txt", "set/speed/x.json"} <= names
        assert not {"logs/secret.txt", "set/out.tar.gz", "set/out.tar.part"} & names
