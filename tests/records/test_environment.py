import platform
import re
import subprocess
import sys

from harness.records import environment


def test_no_torch_for_study_records_analysis_and_report():
    code = (
        "import sys, harness.cli, harness.study.check, harness.run.supervisor, harness.run.sweep\n"
        "import harness.analysis.analyse, harness.report.document, harness.report.verdict_table\n"
        "from harness.study.manifest import manifest\nfrom harness.study.check import load_study\n"
        "manifest(load_study('cpu'))\n"
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
