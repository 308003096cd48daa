import platform
import re
import subprocess
import sys

from harness import environment


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
    monkeypatch.setattr(environment, "ROOT", tmp_path)

    def digest():
        return environment.source_digest(["harness.cell"])

    first = digest()
    (tmp_path / "models" / "unused.py").write_text("x = 2\n")
    (tmp_path / "harness" / "report.py").write_text("colour = 2\n")
    assert digest() == first
    (tmp_path / "models" / "used.py").write_text("import torch  # changed\n")
    assert digest() != first


def test_a_speed_cell_does_not_execute_analysis_reporting_or_cli():
    spec = {"kind": "speed", "model": {"name": "sasrec"}, "partner": {"name": "hyenarec"}}
    closure = environment._closure(["harness.metering.cell", "harness.training.cell", "models.sasrec"])
    names = {p.relative_to(environment.ROOT).as_posix() for p in closure}
    assert "models/sasrec.py" in names
    assert "models/gru4rec.py" not in names
    assert not [n for n in names if n.startswith(("harness/analysis", "harness/reporting", "harness/cli"))]
    assert len(environment.cell_digest(spec)) == 64


def test_no_torch_for_study_records_analysis_and_report():
    code = (
        "import sys, harness.cli, harness.study, harness.supervisor, harness.sweep, harness.analysis.analyse, "
        "harness.reporting.document, harness.reporting.tables\n"
        "from harness.manifest import manifest\nfrom harness.study import load_study\nmanifest(load_study('cpu'))\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_has_gpu_obeys_cuda_visible_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not environment.has_gpu()


def test_the_c_library_is_named_since_its_allocator_is_part_of_the_experiment():
    if platform.libc_ver()[0] == "glibc":
        assert re.fullmatch(r"glibc \d+\.\d+", environment.describe(1, {}).libc)


def test_a_copy_without_its_git_folder_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.git_state() == (None, None)
    monkeypatch.setenv("HYENAREC_COMMIT", "1a2b3c4")
    # Whether the copy is still that commit's files is not known.
    assert environment.git_state() == ("1a2b3c4", None)
