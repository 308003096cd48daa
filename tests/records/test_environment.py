import platform
import re
import subprocess
import sys

import pytest

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


CORE = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\nflags\t\t: {flags}\n\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CORE.format(model=1, flags="fpu avx avx2"), "family 25, model 1, AVX2"),
        (CORE.format(model=17, flags="fpu avx avx2 avx512f avx512bw"), "family 25, model 17, AVX-512"),
        (CORE.format(model=85, flags="avx2 avx512f avx512_vnni"), "family 25, model 85, AVX-512 with VNNI"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "implementer 0x41, part 0xd0c"),
        # The first core speaks for all.
        (CORE.format(model=1, flags="fpu") + CORE.format(model=17, flags="avx2"), "family 25, model 1"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", None),
        ("", None),
    ],
)
def test_two_processors_of_one_name_are_told_apart(tmp_path, monkeypatch, content, words):
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(environment, "Path", lambda path: tmp_path / path.removeprefix("/proc/"))
    assert environment.processor() == words
    named = environment.cpu_name(environment.describe(1, {}), words)
    assert words is None or named.endswith(f" ({words})")


def test_a_system_without_cpuinfo_tells_no_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "Path", lambda path: tmp_path / "missing")
    assert environment.processor() is None
