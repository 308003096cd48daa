"""Packages that are installed and fail to import."""

import functools
import sys

import pytest
import torch

from harness.measure.device import nvml
from models.ops.build import accelerated, optional
from models.ops.scans.selective import fused_is_available


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Installs packages whose import raises, and forgets what was asked before."""

    def install(error, *names):
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'asked')!r}, 'a').write('x')\n{error}")
            for module in [m for m in sys.modules if m.partition(".")[0] == name]:
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path / "asked"

    for cached in (optional.imports, optional.note):
        monkeypatch.setattr(optional, cached.__name__, functools.cache(cached.__wrapped__))
    return install


ERRORS = {
    "RuntimeError('built for torch 2.4')": "RuntimeError: built for torch 2.4",
    "OSError('libcudart.so.11.0: cannot open shared object file')": "OSError: libcudart.so.11.0: cannot open",
    "AttributeError('undefined symbol\\nand more')": "AttributeError: undefined symbol)",
    "ImportError": "(ImportError)",
    "SystemExit(1)": "SystemExit: 1",
}


@pytest.mark.parametrize("error", ERRORS)
def test_any_failure_at_import_means_not_usable_and_is_said_once(broken, capfd, error):
    asked = broken(f"raise {error}", "mamba_ssm")
    cuda = torch.device("cuda")
    assert [fused_is_available(cuda), fused_is_available(cuda)] == [False, False]
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("note: package 'mamba_ssm' is installed but cannot be imported (")
    assert ERRORS[error] in said
    assert asked.read_text() == "x"


def test_what_is_not_installed_is_not_mentioned(broken, capfd):
    assert not accelerated.is_usable("no_such_package.ops")
    assert capfd.readouterr().err == ""


def test_nothing_is_imported_where_it_could_not_be_used(broken, monkeypatch):
    asked = broken("raise RuntimeError", "mamba_ssm", "triton")
    assert not fused_is_available(torch.device("cpu"))
    assert not accelerated.available(torch.device("cpu"))
    assert not asked.exists()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not accelerated.available(torch.device("cpu"))
    assert asked.exists()


def test_torch_compile_does_not_look_into_it(broken):
    broken("raise RuntimeError", "mamba_ssm")

    def step(x):
        return x + (2 if accelerated.is_usable("mamba_ssm") or accelerated.available(x.device) else 1)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == 1


def test_without_a_pynvml_that_imports_nothing_is_read(broken, capfd):
    broken("raise OSError('no such library')", "pynvml")
    with nvml.open_library() as library:
        assert library is None
    assert "package 'pynvml' is installed but cannot be imported (OSError: no such library)" in capfd.readouterr().err


@pytest.mark.parametrize("why", ["HYENAREC_TRITON=0", "compute capability 9.0", "triton cannot be imported"])
def test_a_gpu_without_our_kernels_is_told_why(broken, monkeypatch, capfd, why):
    broken("raise RuntimeError", "triton")
    monkeypatch.setenv("HYENAREC_TRITON", "0" if "=0" in why else "1")
    monkeypatch.setattr(accelerated, "_large_enough", lambda device: "capability" not in why)
    for _ in range(2):
        assert not accelerated.available(torch.device("cuda"))
    said = [line for line in capfd.readouterr().err.splitlines() if "Triton kernels are off" in line]
    assert len(said) == 1
    assert why in said[0]
