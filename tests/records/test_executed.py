"""Every line that a cell executes is in its source digest, and a change of any of them changes it."""

import ast
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import msgspec
import pytest

from harness.data.catalogue import DataSource
from harness.data.sources import prepare
from harness.records.environment import ROOT
from harness.records.source_digest import Executed, Sources
from harness.run.child import OBSERVERS, Request
from harness.study.cells import cells
from harness.study.schema import Study
from models import registry

TRACED = Path(__file__).parent / "traced.py"
ALL = [pytest.param(name, marks=() if name == "hyenarec" else pytest.mark.slow) for name in registry.names()]
TRAINED = [pytest.param(name, marks=() if name == "sasrec" else pytest.mark.slow) for name in registry.names()]
TIMED = [p for p in ALL if not registry.entries()[p.values[0]].reference]


def cell_of(kind, name):
    reference = registry.entries()[name].reference
    speed = {
        "models": [name],
        "phases": ["step", "forward", "rest", "stream"],
        "budget_seconds": 0.5,
        "minimum_seconds": 0.01,
        "minimum_steps": 2,
        "catalogue_items": 50,
        "negatives": 8,
        "sweeps": {"constant-tokens": {"lengths": [256], "tokens": 512, "replicates": 1}},
    }
    training = {
        "models": ["gru4rec" if reference else name],
        "references": [name] if reference else [],
        "datasets": ["toy"],
        "lengths": [8],
        "epochs": 2,
    }
    study = {
        "name": "tiny",
        "device": "cpu",
        "threads": 1,
        "timing_partner": "hyenarec",
        "data": {"toy": {"format": "pairs", "file": "toy.txt"}},
        **({"speed": speed} if kind == "speed" else {"training": training}),
    }
    return next(cell for cell in cells(msgspec.convert(study, Study)) if cell.label == name)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Runs a cell once, as its children do; gives what counts of its spec, and the lines that ran."""

    @cache
    def run(kind, name):
        cell = cell_of(kind, name)
        tmp_path = tmp_path_factory.mktemp("cell")
        (tmp_path / "toy.txt").write_text("".join(f"{u} {i}\n" for u in range(6) for i in range(u, u + 12)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
            patch.delenv("HYENAREC_DATA", raising=False)
            arrays = prepare("toy", DataSource(format="pairs", file="toy.txt"), tmp_path).folder
        lines = {"inside": set(), "outside": set()}
        for measure in cell.spec.measure if kind == "speed" else ["training"]:
            request = Request(
                spec=msgspec.Raw(msgspec.json.encode(cell.spec)),
                threads=cell.spec.threads,
                measure=measure,
                result=str(tmp_path / "result.json"),
                arrays=str(arrays),
                checkpoint=str(tmp_path / "checkpoint"),
                sources="",
                parent=os.getpid(),
                started=time.monotonic(),
                memory_limit_bytes=1 << 36,
            )
            (tmp_path / "request.json").write_bytes(msgspec.json.encode(request))
            command = [sys.executable, TRACED, tmp_path / "request.json", tmp_path / "lines.json"]
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
            assert json.loads((tmp_path / "result.json").read_bytes())["status"] == "ok"
            for place, found in json.loads((tmp_path / "lines.json").read_text()).items():
                lines[place] |= {(str(Path(file).relative_to(ROOT)), line) for file, line in found}
        return Executed.of(cell.spec), lines

    return run


def holds(statement, line):
    decorators = getattr(statement.node, "decorator_list", [])
    return min(n.lineno for n in [statement.node, *decorators]) <= line <= statement.node.end_lineno


def uncovered(what, lines):
    """The lines that ran and are in no statement of the digest."""
    sources = Sources(ROOT)
    reached = sources.reach(what)
    missed = []
    for place, found in lines.items():
        for file, line in sorted(found):
            name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            module = sources.program.modules.get(name)
            statements = [s for s in module.statements if holds(s, line)]
            # At a module's own level what is left out only binds names. All of it is looked at when its module is
            # loaded, so that alone is to be asked for.
            if place == "outside" or not any(isinstance(s.node, DEFINITIONS) for s in statements):
                hashed = name in reached.modules
            else:
                hashed = all(s in reached.written for s in statements)
            if not hashed:
                missed.append(f"{file}:{line}")
    return missed


DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def observes(place):
    """Whether a line is of what is told how a training goes, which decides no number."""
    file, line = place.split(":")
    return file == "harness/run/training_lines.py" or (
        file == "harness/run/child.py" and int(line) in range(*_extent(OBSERVERS["lines"]))
    )


def _extent(function):
    lines, first = inspect.getsourcelines(function)
    return first, first + len(lines)


@pytest.mark.parametrize("name", TIMED)
def test_all_that_a_speed_cell_executes_is_in_its_digest(executed, name):
    what, lines = executed("speed", name)
    assert len(lines["inside"]) > 300
    assert uncovered(what, lines) == []


@pytest.mark.parametrize("name", TRAINED)
def test_all_that_a_training_cell_executes_is_in_its_digest(executed, name):
    what, lines = executed("training", name)
    assert len(lines["inside"]) > 200
    assert [place for place in uncovered(what, lines) if not observes(place)] == []


OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod}
COMPARISONS = {ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}


def mutate(node):
    """Change a node in place; False where there is nothing to change."""
    match node:
        case ast.BinOp() | ast.AugAssign() if type(node.op) in OPERATORS:
            node.op = OPERATORS[type(node.op)]()
        case ast.Compare() if type(node.ops[0]) in COMPARISONS:
            node.ops[0] = COMPARISONS[type(node.ops[0])]()
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=int() | float() as value):
            node.value = value + 1
        case ast.Constant(value=str() as value):
            node.value = f"{value}x"
        case ast.Call(func=ast.Name() as function):
            function.id = "min" if function.id != "min" else "max"
        case ast.Call(func=ast.Attribute() as function):
            function.attr += "_x"
        case ast.BoolOp():
            node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
        case ast.UnaryOp(op=ast.Not()):
            node.op = ast.UAdd()
        case _:
            return False
    return True


def nodes(tree, lines):
    """Nodes inside functions on lines that ran; not docstrings, annotations or the wording of errors."""

    def below(node, in_function, in_error):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return
        if in_error and isinstance(node, ast.Constant) and isinstance(node.value, str):
            return
        if in_function and node.lineno in lines and not isinstance(node, ast.JoinedStr):
            yield node
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            inner = in_function or (name == "body" and isinstance(node, (ast.FunctionDef, ast.Lambda)))
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.arguments) or not isinstance(child, ast.AST):
                    continue
                if hasattr(child, "lineno"):
                    yield from below(child, inner, in_error or isinstance(node, ast.Raise))
                else:
                    for grandchild in ast.iter_child_nodes(child):
                        if hasattr(grandchild, "lineno"):
                            yield from below(grandchild, inner, in_error)

    return [node for statement in tree.body for node in below(statement, False, False)]


def mutants(lines, count, seed):
    """Files with one mutated node each, drawn from all lines that ran but those of who only observes."""
    counted = [(file, line) for file, line in lines["inside"] if not observes(f"{file}:{line}")]
    ran = {file: {line for other, line in counted if other == file} for file, _ in counted}
    trees = {file: ast.parse((ROOT / file).read_text()) for file in sorted(ran)}
    places = [
        (file, n) for file, tree in trees.items() for n, node in enumerate(nodes(tree, ran[file])) if mutate(node)
    ]
    for file, number in random.Random(seed).sample(places, count):
        tree = ast.parse((ROOT / file).read_text())
        node = nodes(tree, ran[file])[number]
        before = ast.unparse(node)
        mutate(node)
        yield file, f"{file}:{node.lineno}: {before} → {ast.unparse(node)}", ast.unparse(tree)


MUTATED = [("speed", "hyenarec", 20), ("training", "sasrec", 20)]
MUTATED += [pytest.param(kind, name, 200, marks=pytest.mark.slow) for kind, name, _ in MUTATED]


@pytest.mark.parametrize(("kind", "name", "count"), MUTATED)
def test_every_mutation_of_what_is_executed_changes_the_digest(executed, tmp_path, kind, name, count):
    what, lines = executed(kind, name)
    copy = tmp_path / "copy"
    for package in ("harness", "models"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    whole = Sources(copy).cell_digest(what)
    unseen = []
    for file, told, content in mutants(lines, count, seed=count):
        original = (copy / file).read_text()
        (copy / file).write_text(content)
        if Sources(copy).cell_digest(what) == whole:
            unseen.append(told)
        (copy / file).write_text(original)
    assert unseen == []
