"""Keys outlive what is added: a cell keeps its digest, a committed record is read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from harness.records import schema as records
from harness.records.spec import ModelSpec, SpeedSpec, TrainingSpec
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.find import study_names
from harness.study.manifest import read_manifest
from models import registry

ROOT = Path(__file__).parents[2]
SETS = sorted((ROOT / "results" / "reference").glob("*/study.json"))
# What the cells measured so far say of their models.
SHARED = ["dropout", "hidden_size", "num_layers"]
ENCODED = {
    "bert4rec": ["attention", "num_heads"],
    "fmlp-rec": [],
    "fuxi-linear": ["num_heads", "period_ratio", "position_features", "shortest_period", "time_heads"],
    "gru4rec": ["gru_hidden", "gru_layers"],
    "hstu": ["num_heads", "time_buckets"],
    "hyenarec": [
        "convolution",
        "feed_forward",
        "gates",
        "initialisation",
        "kernel",
        "kernel_decay",
        "kernel_order",
        "order",
        "short_convolution",
    ],
    "linear-attention": ["kernel", "num_heads"],
    "lrurec": ["state_expansion"],
    "mamba4rec": ["convolution_width", "expansion", "scan", "state_size"],
    "mingru": ["scan", "state_expansion"],
    "nextitnet": [],
    "recblr": ["convolution_width", "expansion", "scan"],
    "retnet": ["num_heads", "value_expansion"],
    "sasrec": ["attention", "feed_forward", "num_heads"],
}


@pytest.mark.parametrize("manifest", SETS, ids=lambda path: path.parent.name)
def test_committed_cells_and_records_have_the_digest_of_their_spec(manifest):
    folder = manifest.parent
    kept = {cell.path: cell for cell in read_manifest(folder).cells}
    for cell in kept.values():
        assert cell.spec.digest() == cell.digest
        assert msgspec.json.decode(msgspec.json.encode(cell.spec), type=type(cell.spec)).digest() == cell.digest
    found = [path for kind in ("speed", "training") for path in (folder / kind).rglob("*.json")]
    assert found
    for path in found:
        record = records.read(path)
        assert record.spec.digest() == record.spec_digest == kept[path.relative_to(folder).as_posix()].digest


@pytest.mark.parametrize("name", ENCODED)
def test_an_option_added_to_a_model_is_marked(name):
    options = registry.options(name)
    encoded = sorted(key for key, option in options.items() if not option.added)
    assert encoded == sorted([*SHARED, *ENCODED[name]]), "mark what was added with Added(), or all its cells change"


def test_the_digest_is_that_of_the_keys_in_order():
    cell = next(cells(load_study("cpu")))
    assert cell.path == "speed/hyenarec/constant-tokens-L128-r0-d418c642.json"


def test_a_default_counts_by_value():
    class Later(SpeedSpec, frozen=True, kw_only=True, tag="speed"):
        momentum: float = 0.9

    plain = next(c.spec for c in cells(load_study("cpu")) if isinstance(c.spec, SpeedSpec))
    values = msgspec.to_builtins(plain)
    assert msgspec.convert(values, Later).digest() == plain.digest()
    same = {**values, "momentum": float("0.9")}
    assert msgspec.convert(same, Later).digest() == plain.digest()
    assert msgspec.convert({**values, "momentum": 0.8}, Later).digest() != plain.digest()


def test_the_two_kinds_say_where_and_which():
    for cell in cells(load_study("cpu")):
        expected = cell.spec.dataset if isinstance(cell.spec, TrainingSpec) else cell.spec.sweep
        assert (cell.spec.where, cell.spec.model.label) == (expected, cell.label)
    assert isinstance(cell.spec.model, ModelSpec)


KEYS = """
import json
from harness.study.cells import cells
from harness.study.check import load_study
from harness.study.find import study_names
print(json.dumps({name: [cell.path for cell in cells(load_study(name))] for name in study_names()}))
"""
RECORDS = """
import json
from pathlib import Path
from harness.analysis.load import load
found = {path.parent.name: load(path.parent) for path in Path("results/reference").glob("*/study.json")}
counted = {name: [c.path for c in folder.counted if c.record is not None] for name, folder in found.items()}
refused = [r.message for folder in found.values() for r in folder.refused]
print(json.dumps({"counted": counted, "refused": refused}))
"""
# Where something stands now, and what a stranger writes below it.
ADDED = [
    ("harness/study/training.py", "    compile: bool = False\n", "    warm_up: float = 0.5\n"),
    ("harness/records/spec.py", "    compile: bool | None = None\n", "    warm_up: float = 0.5\n"),
    ("harness/records/schema.py", "    flags: list[str] = []\n", "    humidity: float | None = None\n"),
    (
        "models/hyenarec.py",
        "    order: Annotated[int, Range(2)] = 2\n",
        "    echoes: Annotated[int, Range(0), Added()] = 0\n",
    ),
    ("models/hyenarec.py", "from models.options import Range\n", "from models.options import Added\n"),
]


def test_what_a_stranger_adds_changes_no_key_and_costs_no_record(tmp_path):
    for name in ("harness", "models", "workflow", "results"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def run(script):
        environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    keys, found = run(KEYS), run(RECORDS)
    assert set(keys) == set(study_names())
    assert found["refused"] == []
    for file, above, line in ADDED:
        text = (tmp_path / file).read_text()
        assert text.count(above) == 1
        (tmp_path / file).write_text(text.replace(above, above + line))
    assert (run(KEYS), run(RECORDS)) == (keys, found)
    # What differs from its default is another cell.
    changed = tmp_path / "workflow" / "studies" / "ablation.yaml"
    changed.write_text(
        changed.read_text().replace("{model: hyenarec, kernel_order: 4}", "{model: hyenarec, echoes: 1}")
    )
    after = set(run(KEYS)["ablation"])
    assert {path.split("/")[1] for path in after - set(keys["ablation"])} == {"hyenarec-k4"}
    changed.write_text(changed.read_text().replace("training:\n", "training:\n  warm_up: 0.25\n"))
    kept = set(run(KEYS)["ablation"]) & set(keys["ablation"])
    assert all("/speed/" in path or "-all-" in path for path in kept)


def test_what_is_measured_beside_a_load_is_the_defaults():
    """The study repeats the default's speed section, and tells of it only while both ask for the same cells."""
    default = {cell.digest for cell in cells(load_study("cpu"))}
    assert {cell.digest for cell in cells(load_study("disturbed"))} <= default
