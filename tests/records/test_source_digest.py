"""What a record's source digest covers: what the cell executes, in the project and in a plugin, and nothing else."""

import sys
from importlib import metadata

import pytest

from harness.records import source_digest
from models import registry


def make_project(folder):
    for package in ("harness", "models"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    (folder / "harness" / "cell.py").write_text("def run():\n    from models import used\n")
    (folder / "harness" / "report.py").write_text("colour = 1\n")
    (folder / "models" / "used.py").write_text("import torch\n")
    (folder / "models" / "unused.py").write_text("x = 1\n")


def test_source_digest_follows_imports_and_nothing_else(tmp_path, monkeypatch):
    make_project(tmp_path)
    monkeypatch.setattr(source_digest, "ROOT", tmp_path)

    def digest():
        return source_digest.source_digest(["harness.cell"])

    first = digest()
    (tmp_path / "models" / "unused.py").write_text("x = 2\n")
    (tmp_path / "harness" / "report.py").write_text("colour = 2\n")
    assert digest() == first
    (tmp_path / "models" / "used.py").write_text("import torch  # changed\n")
    assert digest() != first


def test_a_speed_cell_does_not_execute_analysis_reporting_or_cli():
    spec = {"kind": "speed", "model": {"name": "sasrec"}, "partner": {"name": "hyenarec"}}
    names = set(source_digest.closure(["harness.measure.speed.cell", "harness.measure.training.cell", "models.sasrec"]))
    assert {"harness", "harness.measure.speed.stopwatch", "models.sasrec"} <= names
    assert not names & {"models.gru4rec", "models.ops.legendre.native.cpp"}
    assert "models.ops.legendre.native.cpp" in source_digest.closure(["models.hyenarec"])
    assert not [n for n in names if n.startswith(("harness.analysis", "harness.reporting", "harness.cli"))]
    assert len(source_digest.cell_digest(spec)) == 64


FILES = {
    "one file and a helper beside it": ("fossil", ["fossil.py", "fossil_helper.py"], "from fossil_helper import width"),
    "a package": (
        "fossils.model",
        ["fossils/__init__.py", "fossils/model.py", "fossils/helper.py"],
        "from . import helper",
    ),
}


@pytest.mark.parametrize("in_place", [False, True], ids=["wheel", "in place"])
@pytest.mark.parametrize("layout", FILES)
def test_a_plugin_counts_with_its_files_and_its_version(tmp_path, monkeypatch, layout, in_place):
    """Its own and what it imports of this project, nothing else that is installed beside it."""
    module, files, line = FILES[layout]
    for name in [*files, "neighbour.py"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import neighbour\nwidth = 4\n" if in_place else "width = 4\n")
    source = tmp_path / f"{module.replace('.', '/')}.py"
    source.write_text(f"import neighbour\nfrom models.ops.build.toeplitz import toeplitz\n{line}\n")
    version = ["1.0"]
    listed = [] if in_place else [metadata.PackagePath(name) for name in files]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source_digest.metadata, "version", lambda name: version[0])
    monkeypatch.setattr(source_digest.metadata, "files", lambda name: listed)
    monkeypatch.setattr(registry, "entries", lambda: {"fossil": registry.Entry("fossil", module, source, False, "dig")})

    def digest():
        source_digest._imports.cache_clear()
        return source_digest.cell_digest({"kind": "training", "model": {"name": "fossil"}})

    seen = [digest()]
    for name in files:
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        seen.append(digest())
    version[0] = "1.1"
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "neighbour.py").write_text("width = 5\n")
    assert (digest() == seen[-1]) == (not in_place)
    assert "models.ops.build.toeplitz" in source_digest.closure([module], {"models", *module.split(".")[:1]})
    assert module not in sys.modules, "found without being imported"
