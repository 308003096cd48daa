import factories
import msgspec
import pytest

from harness import cli
from harness.analysis import stale as module
from harness.analysis.load import load
from harness.records import schema as record
from harness.study.manifest import read_manifest

SMALL = {"lengths": (256, 512), "memory": False, "training": False}


@pytest.fixture
def folder(tmp_path):
    truths = {k: factories.TRUTHS[k] for k in ("hyenarec", "sasrec-sdpa", "gru4rec")}
    truths["elsewhere"] = factories.Truth("not-here", "attention", factories.linear_law(0.1, 0))
    return factories.make_folder(tmp_path / "study", truths=truths, stale={"gru4rec", "elsewhere"}, **SMALL)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_listing_removes_nothing(folder, capsys):
    before = files(folder)
    assert cli.main(["cells", "cpu", "--results", str(folder), "--stale"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("stale   speed/gru4rec/") for line in lines) == 6
    assert sum(line.startswith("unknown speed/elsewhere/") for line in lines) == 6
    assert "6 stale records, none removed; --remove-stale removes them" in lines[-2]
    assert files(folder) == before


def test_removing_takes_the_stale_and_their_series_only(folder, capsys):
    own = [c.path for c in read_manifest(folder).cells if c.label == "gru4rec"]
    (folder / own[0]).with_suffix(".series.json").write_text("[]")
    kept = next(c.path for c in read_manifest(folder).cells if c.label == "hyenarec")
    (folder / kept).with_suffix(".series.json").write_text("[]")
    (folder / "speed/gru4rec/notes.txt").write_text("mine")
    (folder / own[1]).write_text("{")
    before = files(folder)
    assert cli.main(["cells", "cpu", "--results", str(folder), "--remove-stale"]) == 0
    series = (folder / own[0]).with_suffix(".series.json").relative_to(folder).as_posix()
    gone = {path for path in own if path != own[1]}
    assert before - files(folder) == {*gone, series}
    assert files(folder) <= before
    assert "5 stale records removed" in capsys.readouterr().out
    assert cli.main(["cells", "cpu", "--results", str(folder), "--stale"]) == 0
    assert "no stale record" in capsys.readouterr().out


def test_a_record_renewed_meanwhile_stays(folder, monkeypatch):
    cell = next(c for c in read_manifest(folder).cells if c.label == "gru4rec")
    found = load(folder)

    def load_then_renew(path):
        old = record.read(path / cell.path)
        fresh = msgspec.structs.replace(old, provenance=factories.provenance(cell.spec, split_sha256=None))
        record.write(fresh, path / cell.path)
        return found

    monkeypatch.setattr(module, "load", load_then_renew)
    removed = module.remove_stale(folder)
    assert cell.path not in removed
    assert len(removed) == 5
    assert load(folder).counted[[c.path for c in found.counted].index(cell.path)].stale is False
    assert not [name for name in files(folder) if name.endswith(".stale")]


def test_a_still_newer_record_is_not_overwritten(folder):
    cell = next(c for c in read_manifest(folder).cells if c.label == "gru4rec")

    def not_stale(path):
        (folder / cell.path).write_text("newer")
        return False

    assert module._remove(folder / cell.path, not_stale) is False
    assert (folder / cell.path).read_text() == "newer"
    assert not [name for name in files(folder) if name.endswith(".stale")]


def test_a_record_that_is_gone_is_no_error(folder):
    cell = next(c for c in read_manifest(folder).cells if c.label == "gru4rec")
    (folder / cell.path).unlink()
    assert module._remove(folder / cell.path, lambda path: True) is False


def test_both_at_once_is_a_mistake(folder):
    with pytest.raises(SystemExit) as stop:
        cli.main(["cells", "cpu", "--results", str(folder), "--stale", "--remove-stale"])
    assert stop.value.code == 64


def test_no_folder_of_records_is_a_mistake(tmp_path, capsys):
    assert cli.main(["cells", "cpu", "--results", str(tmp_path), "--remove-stale"]) == 64
    assert "study.json" in capsys.readouterr().err
