"""`harness init`: a folder that a newcomer can measure as it is."""

import re
import subprocess
import sys

import pytest

from harness import cli
from harness.errors import UserError
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.lay_out import lay_out
from models import registry


def test_every_file_carries_the_folders_name(tmp_path):
    paths = lay_out(tmp_path / "deep" / "my-study")
    assert all(path.is_file() for path in paths)
    text = "\n".join(path.read_text() for path in paths)
    assert "name: my-study" in text
    assert "results/my-study" in text
    assert "NAME" not in text
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["my-study"]


def test_an_empty_folder_is_taken_and_a_full_one_left_alone(tmp_path):
    lay_out(tmp_path / "new")
    before = {path: path.read_text() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="not empty; nothing was written"):
        lay_out(tmp_path / "new")
    assert {path: path.read_text() for path in before} == before
    (tmp_path / "empty").mkdir()
    assert lay_out(tmp_path / "empty")[0].is_file()


@pytest.mark.parametrize("name", ["two words", "-dash", "ümlaut"])
def test_a_name_that_no_study_can_have_is_refused(tmp_path, name, capsys):
    assert cli.main(["init", str(tmp_path / name)]) == 64
    assert "becomes the study's" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_commands_of_its_page_work(tmp_path, monkeypatch, capsys, request):
    """Installed without a network, as `pip install -e model` would with one; the commands are typed in this process."""
    folder = tmp_path / "mine"
    lay_out(folder)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(tmp_path / "installed"), str(folder / "model")], check=True)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.chdir(folder)
    request.addfinalizer(registry.entries.cache_clear)
    registry.entries.cache_clear()

    def harness(*arguments):
        code = cli.main(arguments)
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
        return said.out

    assert "FAILED" not in harness("check", "my-model")
    assert harness("cells", "study.yaml").count("missing speed") == 36
    said = harness("plan", "study.yaml", "--no-calibration")
    assert "twice-as-fast" in said
    assert "ranks-better" in said


def write_events(path):
    rows = [f"u{user},i{(7 * user + 3 * step) % 40},{10**9 + step}" for user in range(60) for step in range(12)]
    path.write_text("\n".join(["user,item,timestamp", *rows]) + "\n")


def test_a_study_of_a_file_is_one_that_can_be_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    write_events(tmp_path / "my events.csv")
    assert cli.main(["init", str(tmp_path / "mine"), "--data", str(tmp_path / "my events.csv")]) == 0
    assert f"study={tmp_path}/mine/study.yaml" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["study.yaml"]
    study = load_study(tmp_path / "mine" / "study.yaml")
    assert (study.name, study.training.datasets) == ("mine", ["my-events"])
    source = study.sources()["my-events"]
    assert (source.format, source.file) == ("table", str(tmp_path / "my events.csv"))
    kinds = [cell.kind for cell in cells(study)]
    assert (kinds.count("speed"), kinds.count("training")) == (27, 6)
    text = (tmp_path / "mine" / "study.yaml").read_text()
    assert "the median is 12 and the longest 12" in text
    assert not re.search(r"\b((QUOTED_)?(NAME|DATASET)|FOLDER|LINES|HISTORIES)\b", text)


@pytest.mark.parametrize(("folder", "file"), [("2024", "2019-10-01.csv"), ("true", "null.csv"), ("mine", "2019.csv")])
def test_names_that_yaml_takes_for_something_else_are_quoted(tmp_path, monkeypatch, folder, file):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    write_events(tmp_path / file)
    assert cli.main(["init", str(tmp_path / folder), "--data", str(tmp_path / file)]) == 0
    study = load_study(tmp_path / folder / "study.yaml")
    assert (study.name, study.training.datasets) == (folder, [file.removesuffix(".csv")])


def test_a_file_that_cannot_be_studied_lays_out_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    short = tmp_path / "short.csv"
    short.write_text("user,item,timestamp\na,x,1000000000\nb,y,1000000001\n")
    for file, words in ((short, "no user has 3 events"), (tmp_path / "none.csv", "there is no file")):
        assert cli.main(["init", str(tmp_path / "mine"), "--data", str(file)]) == 64
        assert words in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_file_with_names_of_its_own_is_laid_out_by_the_options_of_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "kauf.csv"
    write_events(file)
    file.write_text(file.read_text().replace("user,item,timestamp", "kunde,artikel,zeit"))
    command = ["init", str(tmp_path / "mine"), "--data", str(file)]
    assert cli.main(command) == 64
    assert "here type  --user NAME --item NAME --time NAME" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "--user", "kunde", "--item", "artikel", "--time", "zeit"]) == 0
    assert f"next: python -m harness sweep {tmp_path}/mine/study.yaml, then" in capsys.readouterr().out
    assert load_study(tmp_path / "mine" / "study.yaml").sources()["kauf"].user == "kunde"
    assert cli.main(["init", str(tmp_path / "other"), "--user", "kunde"]) == 64
    assert "--user is of a file; add `--data FILE`" in capsys.readouterr().err
