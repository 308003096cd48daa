"""What a record's source digest covers: what the cell executes, in the project and in a plugin, and nothing else."""

import ast
import hashlib
import os
import re
import shutil
import sys
from importlib import metadata

import pytest

from harness.records import source_digest
from harness.records.environment import ROOT
from harness.records.source_digest import Executed, Sources
from harness.study.cells import cells
from harness.study.check import load_study
from models import registry

SPEED = Executed("speed", ("sasrec", "hyenarec"), None, None)
TRAINING = Executed("training", ("sasrec",), "cross-entropy", "leave-one-out")
DECLARED = Executed("training", ("sasrec",), "declared", "leave-one-out")
REFERENCE = Executed("training", ("markov",), None, "leave-one-out")
CELLS = (SPEED, TRAINING, DECLARED, REFERENCE)
CELL = next(cells(load_study("quick")))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for package in source_digest.PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def project(copy):
    """A copy of this project that may be edited; what a test does to it is undone."""
    kept = {path: (path.read_bytes(), path.stat()) for path in copy.rglob("*") if path.is_file()}
    yield copy
    for path in [path for path in copy.rglob("*") if path.is_file() and path not in kept]:
        path.unlink()
    for path, (content, state) in kept.items():
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            # With its time, by which it is known that what was parsed is still what is there.
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def digests(folder):
    sources = Sources(folder)
    return [sources.cell_digest(cell) for cell in CELLS]


@pytest.fixture(scope="module")
def before():
    return digests(ROOT)


def edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
    (folder / name).write_text(text.replace(old, new))


def test_a_copy_has_the_same_digests(before, project):
    assert digests(project) == before
    assert len(set(before)) == len(CELLS)


def test_spelling_does_not_count(before, project):
    for path in project.rglob("*.py"):
        tree = ast.parse(path.read_text())
        tree.body.append(ast.Expr(ast.Constant("Not a docstring.")))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
                node.body[0] = ast.Expr(ast.Constant("Another docstring."))
        # Without comments, and with the format of `unparse`.
        path.write_text(f"# A comment.\n{ast.unparse(tree)}\n")
    assert digests(project) == before


MOVED = {
    "harness.measure.training.checkpoint": "harness.measure.training.kept",
    "harness.measure.speed.layerless": "harness.measure.rest",
    "harness.errors": "harness.mistakes",
    "models.ops.attention.softmax": "models.ops.softmax",
    "models.layers": "models.blocks",
}


def test_the_names_of_modules_do_not_count(before, project):
    for old, new in MOVED.items():
        file = project.joinpath(*old.split("."))
        file.with_suffix(".py").rename(project.joinpath(*new.split(".")).with_suffix(".py"))
        (above, name), (place, other) = old.rsplit(".", 1), new.rsplit(".", 1)
        for path in project.rglob("*.py"):
            text = path.read_text()
            text = re.sub(rf"\b{re.escape(old)}\b", new, text)
            lone = rf"from {re.escape(above)} import ((?:\w+, )*){name}\b"
            text = re.sub(lone, lambda found: _import(found, above, place, other, name), text)  # noqa: B023
            path.write_text(text)
    assert not [p for p in project.rglob("*.py") if "harness.errors" in p.read_text()]
    assert digests(project) == before


def _import(found, above, place, other, name):
    others = found[1].removesuffix(", ")
    return (f"from {above} import {others}\n" if others else "") + f"from {place} import {other} as {name}"


SAME = {
    "another model": ("models/gru4rec.py", "nn.GRU(", "nn.LSTM("),
    "a data set": ("harness/data/remote/registry.yaml", "sentinel_ndcg10: 0.25", "sentinel_ndcg10: 0.5"),
    "a download": ("harness/data/remote/fetching.py", "_TIMEOUT_SECONDS = 60", "_TIMEOUT_SECONDS = 90"),
    "what a study may say": ("harness/study/training.py", "epochs: Count = 100", "epochs: Count = 10"),
    "a claim's statistics": (
        "harness/analysis/estimates/scaling.py",
        "NEGLIGIBLE_RISE = 0.10",
        "NEGLIGIBLE_RISE = 0.11",
    ),
    "how a cell is watched": ("harness/run/watch.py", "_POLL_SECONDS = 0.25", "_POLL_SECONDS = 0.5"),
    "a split": (
        "harness/data/splits.py",
        '"leave-one-out": leave_one_out',
        '"new": ranges, "leave-one-out": leave_one_out',
    ),
    "an error's wording": ("harness/measure/losses.py", "a catalogue of one item has no negatives", "no negatives"),
}


@pytest.mark.parametrize("change", SAME)
def test_what_a_cell_does_not_execute_does_not_count(before, project, change):
    edit(project, *SAME[change])
    assert digests(project) == before


def test_a_metric_that_epochs_are_not_chosen_by_does_not_count(before, project):
    with (project / "harness/metrics.py").open("a") as file:
        file.write("\n\ndef mrr(ranks, k):\n    return 0.0\n\n\nMETRICS = {'ndcg': ndcg, 'mrr': mrr}\n")
    assert digests(project) == before


LOSSES = {
    "its options": (
        "harness/study/loss.py",
        '"negatives": 256, "calibration": 0.75',
        '"negatives": 9, "calibration": 1.0',
    ),
    "what it computes": ("harness/measure/losses.py", "rate * (calibration", "2 * rate * (calibration"),
    "a new one": ("harness/measure/losses.py", '"gbce": _binary', '"new": gbce_power,\n    "gbce": _binary'),
}


@pytest.mark.parametrize("change", LOSSES)
def test_a_loss_counts_only_where_it_may_be_used(before, project, change):
    edit(project, *LOSSES[change])
    changed = [a != b for a, b in zip(digests(project), before, strict=True)]
    assert changed == [cell is DECLARED for cell in CELLS]


TRAINED = {TRAINING, DECLARED, REFERENCE}
OTHER = {
    "the model": (
        "models/sasrec.py",
        '* width, "relu")',
        '* width, "gelu")',
        {SPEED, TRAINING, DECLARED},
    ),
    "the partner": ("models/hyenarec.py", "MAX_PREPARED = 4", "MAX_PREPARED = 5", {SPEED}),
    "an operator of the partner": ("models/ops/legendre/taps.py", "return", "return 1 and", {SPEED}),
    "a native source": ("models/ops/legendre/native.cpp", "#include <cstdint>", "#include <cstdint> //", {SPEED}),
    "the metric that chooses": ("harness/metrics.py", "1 / np.log2", "2 / np.log2", TRAINED),
    "the checkpoint": ("harness/measure/training/checkpoint.py", "copy=True", "copy=False", TRAINED),
    "the stopwatch": ("harness/measure/speed/stopwatch.py", "_STABLE = 0.1", "_STABLE = 0.2", {SPEED}),
    "the memory limit": ("harness/run/process.py", "min(limit, hard)", "max(limit, hard)", set(CELLS)),
    "an effect of a package": ("harness/measure/__init__.py", '"""\n', '"""\nprint(1)\n', set(CELLS)),
    "an effect of the catalogue": ("harness/data/catalogue.py", "_REGISTRY =", "print(1)\n_REGISTRY =", set()),
}


@pytest.mark.parametrize("change", OTHER)
def test_what_a_cell_executes_counts_for_it_alone(before, project, change):
    name, old, new, expected = OTHER[change]
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new, 1))
    changed = {cell for cell, a, b in zip(CELLS, digests(project), before, strict=True) if a != b}
    assert changed == expected


def test_functions_that_are_swapped_count(before, project):
    path = project / "harness/measure/training/loop.py"
    text = path.read_text()
    assert "_save(model" in text
    path.write_text(text.replace("checkpoint.save(", "checkpoint.load("))
    assert [a != b for a, b in zip(digests(project), before, strict=True)] == [cell in TRAINED for cell in CELLS]


def test_what_a_cell_reaches():
    speed, training = ({s.module.name for s in Sources(ROOT).reach(cell).written} for cell in (SPEED, TRAINING))
    never = ("harness.analysis", "harness.report", "harness.cli", "harness.data.sources", "harness.data.catalogue")
    assert not [name for name in speed | training if name.startswith(never)]
    assert not [
        name for name in speed if name.startswith(("harness.study", "harness.data", "harness.measure.training"))
    ]
    assert not [name for name in training if name.startswith("harness.measure.speed")]
    assert {name for name in training if name.startswith("harness.study")} == {"harness.study.loss"}


def test_a_package_counts_whole(project):
    def digest():
        return Sources(project).digest(["harness.report"])

    before = digest()
    (project / "harness/report/sections/new.py").write_text("colour = 1\n")
    assert digest() != before


def test_a_model_that_is_not_here_has_no_digest():
    with pytest.raises(KeyError):
        Sources(ROOT).cell_digest(Executed("speed", ("unicorn",), None, None))


CLASS = """

@register('fossil', family='recurrent', causal=True, citation='none')
class Fossil:
    def f(self):
        return 1
"""
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
        (tmp_path / name).write_text("print(4)\n")
    source = tmp_path / f"{module.replace('.', '/')}.py"
    source.write_text(f"import neighbour\nfrom models.base import register\n{line}\n{CLASS}")
    version = ["1.0"]
    listed = [] if in_place else [metadata.PackagePath(name) for name in files]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source_digest.metadata, "version", lambda name: version[0])
    monkeypatch.setattr(source_digest.metadata, "files", lambda name: listed)
    monkeypatch.setattr(registry, "entries", lambda: {"fossil": registry.Entry("fossil", module, source, False, "dig")})

    def digest():
        return source_digest.Sources(ROOT, [("dig", module.split(".")[0])]).cell_digest(
            Executed("training", ("fossil",), "bce", "leave-one-out")
        )

    seen = [digest()]
    for name in files:
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# A comment.\n")
        assert digest() == seen[-1]
        (tmp_path / name).write_text((tmp_path / name).read_text() + "print(5)\n")
        seen.append(digest())
    source.write_text(source.read_text().replace("return 1", "return 2"))
    seen.append(digest())
    version[0] = "1.1"
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "neighbour.py").write_text("print(6)\n")
    assert (digest() == seen[-1]) == (not in_place)
    assert module not in sys.modules, "found without being imported"


class TestKeptOnDisk:
    """Digests of this project's cells are read from disk while no source changes."""

    @pytest.fixture
    def kept(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
        root = tmp_path / "project"
        for folder in ("harness", "models"):
            (root / folder).mkdir(parents=True)
            (root / folder / "a.py").write_text("x = 1\n")
        (root / "models" / "kernel.cpp").write_text("int x;\n")
        monkeypatch.setattr(source_digest, "ROOT", root)
        monkeypatch.setattr(source_digest, "_LOOK_SECONDS", 0.0)
        monkeypatch.setattr(source_digest, "_last", [])
        counted = []

        class Counting:
            def cell_digest(self, executed):
                counted.append(executed)
                return hashlib.sha256(repr(executed).encode()).hexdigest()

        monkeypatch.setattr(source_digest, "_sources", lambda _: Counting())
        return root, counted

    @pytest.mark.parametrize("file", ["harness/a.py", "models/a.py", "models/kernel.cpp", "models/new.cpp"])
    def test_a_source_that_is_written_to_is_followed_anew(self, kept, file):
        root, counted = kept
        found = [source_digest.cell_digest(CELL.spec) for _ in range(2)]
        source_digest._last.clear()
        found.append(source_digest.cell_digest(CELL.spec))
        assert len(set(found)) == len(counted) == 1
        with (root / file).open("a") as source:
            source.write("y = 2\n")
        source_digest.cell_digest(CELL.spec)
        assert len(counted) == 2

    def test_what_is_written_while_it_is_parsed_is_kept_for_nobody(self, kept, monkeypatch):
        root, counted = kept
        slow = source_digest._sources(frozenset())

        class Written:
            def cell_digest(self, executed):
                (root / "models" / "a.py").write_text(f"x = {len(counted) + 7}\n")
                return slow.cell_digest(executed)

        monkeypatch.setattr(source_digest, "_sources", lambda _: Written())
        source_digest.cell_digest(CELL.spec)
        assert not (source_digest.cache_folder() / "digests").exists()

    def test_an_editors_lock_and_a_linked_folder(self, kept, tmp_path):
        root, counted = kept
        (root / "models" / ".#a.py").symlink_to("nowhere")
        (tmp_path / "ops").mkdir()
        (tmp_path / "ops" / "b.py").write_text("z = 1\n")
        (root / "models" / "ops").symlink_to(tmp_path / "ops")
        source_digest.cell_digest(CELL.spec)
        (tmp_path / "ops" / "b.py").write_text("z = 22\n")
        source_digest.cell_digest(CELL.spec)
        assert len(counted) == 2

    @pytest.mark.parametrize("content", [b"{", b'{"x": 1}', b'["a"]', b""])
    def test_a_damaged_file_is_none(self, kept, content):
        _, counted = kept
        first = source_digest.cell_digest(CELL.spec)
        (file,) = (source_digest.cache_folder() / "digests").iterdir()
        file.write_bytes(content)
        source_digest._last.clear()
        assert source_digest.cell_digest(CELL.spec) == first
        assert len(counted) == 2

    def test_without_room_nothing_is_kept(self, kept, monkeypatch):
        _, counted = kept

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(source_digest, "write_atomic", full)
        assert source_digest.cell_digest(CELL.spec) == source_digest.cell_digest(CELL.spec)
        assert len(counted) == 1
