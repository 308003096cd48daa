"""A format as a stranger adds it: one file in the folder, or an entry point of a package."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from harness import cli, doors
from harness.data import formats
from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "harness" / "data" / "formats" / "_template.py"


def study(folder, form):
    data = folder / "data"
    data.mkdir(exist_ok=True)
    lines = [f"{item} u{user}" for item in ("a", "b", "c", "d") for user in range(3)]
    (data / "mine.txt").write_text("\n".join(lines))
    content = {
        "name": "mine",
        "device": "cpu",
        "data": {"own": {"format": form, "file": "mine.txt"}},
        "data_folder": str(data),
        "training": {"models": ["gru4rec"], "datasets": ["own"], "lengths": [8]},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "mine.yaml")


def test_a_file_in_the_folder_is_a_format(tmp_path):
    for name in ("harness", "models", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TEMPLATE, tmp_path / "harness" / "data" / "formats" / "item_first.py")
    command = [sys.executable, "-m", "harness", "data", "own", "--study", study(tmp_path, "item-first")]
    environment = {"PYTHONPATH": str(tmp_path), "HYENAREC_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "3 users" in done.stdout
    assert "4 items" in done.stdout


def test_a_package_brings_a_format_by_an_entry_point(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_formats.py").write_text(TEMPLATE.read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYENAREC_DATA", raising=False)
    point = metadata.EntryPoint("from-a-package", "my_formats", formats.FORMATS.group)
    monkeypatch.setattr(doors, "entry_points", lambda group: [point] if "formats" in group else [])
    assert cli.main(["data", "own", "--study", study(tmp_path, "from-a-package")]) == 0
    assert "12 events" in capsys.readouterr().out


def test_an_unknown_format_is_refused_when_the_study_is_read(tmp_path, capsys):
    assert cli.main(["cells", study(tmp_path, "parirs")]) == 64
    error = capsys.readouterr().err
    legal = ", ".join(sorted({*formats.names(), "synthetic"}))
    assert f"unknown format of data set 'own' 'parirs'. Did you mean 'pairs'? Legal: {legal}." in error
    assert len(error.splitlines()) == 1


def test_a_module_without_a_format_says_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "empty_format.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("empty", "empty_format", formats.FORMATS.group)
    monkeypatch.setattr(doors, "entry_points", lambda group: [point])
    with pytest.raises(UserError, match="format 'empty': module 'empty_format' defines no FORMAT; see"):
        formats.find_format("empty")
