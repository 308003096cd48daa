"""`harness init`: a folder that a newcomer can measure as it is."""

import os
import subprocess
import sys

import pytest

from harness import cli
from harness.errors import UserError
from harness.study.lay_out import lay_out


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


def test_the_commands_of_its_page_work(tmp_path):
    """Installed without a network, as `pip install -e model` would with one."""
    folder = tmp_path / "mine"
    lay_out(folder)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(tmp_path / "installed"), str(folder / "model")], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}

    def harness(*arguments):
        command = [sys.executable, "-m", "harness", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "FAILED" not in harness("check", "my-model")
    assert harness("cells", "study.yaml").count("missing speed") == 36
    said = harness("plan", "study.yaml", "--no-calibration")
    assert "twice-as-fast" in said
    assert "ranks-better" in said
