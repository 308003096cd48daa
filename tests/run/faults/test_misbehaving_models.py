"""Models that do to their process what none should: a clear record or refusal, and no other cell is touched."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from scene import ROOT, SPEED, Scene

from harness.records.schema import read

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="ends orphans on Linux only")]
HERE = Path(__file__).parent
# What becomes of each, in the record's status and a word of its detail or flags.
ENDS = {
    "loops": ("timeout", "still running after"),
    "ends-with-0": ("error", "left no result"),
    "raises-system-exit": ("error", "left no result"),
    "prints": ("ok", ""),
    "forks": ("ok", "the model left a process running (sleep 4321), which was ended"),
    "segfaults": ("killed", "SIGSEGV"),
    "eats": ("oom", ""),
    "nan": ("ok", "its loss is NaN or infinite"),
    "changes": ("ok", "the number of CPU threads changed from 1 to 2"),
    "patches": ("error", "TypeError"),
    "closes": (None, ""),
}
GOOD = "gru4rec"


def install(folder):
    """The package as pip would leave it in a folder that is searched for packages."""
    info = folder / "misbehaving_models-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(HERE / "misbehaving_models.py", folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving-models\nVersion: 1.0\n")
    (info / "RECORD").write_text("misbehaving_models.py,,\n")
    classes = {name: "".join(part.capitalize() for part in name.split("-")) for name in ENDS}
    lines = "".join(f"{name} = misbehaving_models:{of}\n" for name, of in classes.items())
    (info / "entry_points.txt").write_text(f"[hyenarec_bench.models]\n{lines}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """One sweep over all of them, a good model before and after each."""
    speed = {**SPEED, "models": [*ENDS, GOOD], "timeout_seconds": 45.0}
    speed["sweeps"] = {"constant-tokens": {"lengths": [4, 6, 8], "tokens": 24, "replicates": 1, "models": [GOOD]}}
    speed["sweeps"]["constant-batch"] = {"lengths": [4], "batch": 2, "replicates": 1, "measure": ["time"]}
    own = Scene(tmp_path_factory.mktemp("misbehaving") / "scene", speed=speed)
    study = yaml.safe_load((own.folder / "tiny.yaml").read_text())
    (own.folder / "tiny.yaml").write_text(yaml.safe_dump({**study, "memory_limit_bytes": 1_500_000_000}))
    install(own.folder / "site")
    own.environment["PYTHONPATH"] = f"{ROOT}:{own.folder / 'site'}"
    own.said = own.run("sweep", "tiny.yaml")
    yield own
    own.remove()


def record_of(own, label):
    (path,) = (own.results / "speed" / label).glob("*.json")
    return read(path)


@pytest.mark.parametrize("name", ENDS)
def test_a_clear_record_of(scene, ledger, name):
    with ledger.fault(f"model that misbehaves: {name}"):
        record, (status, words) = record_of(scene, name), ENDS[name]
        assert status in (record.status, None), record.detail
        assert words in " ".join([record.detail or "", *record.flags]), record
        if record.status not in ("ok", "oom", "timeout"):
            assert f"failed: {name}, 4 events" in scene.said[1], scene.said[1][-3000:]
        assert len(record.detail or "") < 20_000


def test_other_cells_are_untouched_and_nothing_runs(scene):
    code, said = scene.said
    assert code == 1, said[-3000:]
    assert scene.gone() == []
    assert not any("4321" in path.read_text() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path))
    good = [read(path) for path in (scene.results / "speed" / GOOD).glob("*.json")]
    assert len(good) == 4
    assert {record.status for record in good} == {"ok"}
    assert {record.environment.threads for record in good} == {1}
    assert not any("changed from" in flag or "left a process" in flag for record in good for flag in record.flags)
    assert scene.temporary() == []


def readable(path):
    try:
        path.read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return True


@pytest.mark.parametrize(("name", "how"), [("ends-with-0", "exit status 0"), ("segfaults", "killed by SIGSEGV")])
def test_check_says_that_a_model_ends_its_process(scene, name, how):
    code, said = scene.run("check", name)
    assert code == 1
    assert f"FAILED  stays{' ' * 24}{name} ended the process of its checks before they were done ({how})" in said


@pytest.mark.parametrize("ending", ["raise SystemExit(0)", "import os; os._exit(0)"])
def test_a_models_file_that_ends_whoever_imports_it_costs_its_own_cells_alone(tmp_path, ending):
    for package in ("harness", "models", "workflow"):
        shutil.copytree(ROOT / package, tmp_path / "checkout" / package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "models" / "gru4rec.py").read_text()
    text = text.replace('"gru4rec"', '"ender"').replace("class GRU4Rec", "class Ender")
    (tmp_path / "checkout" / "models" / "ender.py").write_text(f"{text}\n{ending}\n")
    own = Scene(tmp_path / "scene", speed={**SPEED, "models": [GOOD, "ender"]})
    own.environment["PYTHONPATH"] = str(tmp_path / "checkout")
    code, said = own.run("sweep", "tiny.yaml")
    assert code == 1, said[-3000:]
    assert {read(path).status for path in (own.results / "speed" / GOOD).glob("*.json")} == {"ok"}
    assert {read(path).status for path in (own.results / "speed" / "ender").glob("*.json")} == {"error"}
    own.remove()
