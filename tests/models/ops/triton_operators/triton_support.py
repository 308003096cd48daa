"""Runs the cases of the Triton kernels in a process of their own, on the GPU or in Triton's interpreter.

Triton decides whether the interpreter runs a kernel when the kernel is defined, so the variable must hold
before anything imports triton; and it must not hold for other tests, whose child processes inherit it.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed; install the extra `kernels`"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def run_cases(name):
    """Run the tests of a file beside this one; without a GPU in the interpreter."""
    environment = dict(os.environ)
    environment.pop("TRITON_INTERPRET", None)
    if DEVICE.type == "cpu":
        environment["TRITON_INTERPRET"] = "1"
    path = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def repair_interpreter():
    """Triton 3.6 turns a loop bound into an int by `int(array of one element)`, which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched
