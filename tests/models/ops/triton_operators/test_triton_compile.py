import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from triton_support import needs_triton

PROGRAM = Path(__file__).with_name("compile_triton_kernels.py")

# A block's largest shared memory on an H100; a kernel above it compiles, and fails when launched.
SHARED_MEMORY_BYTES = 232_448


@needs_triton
@pytest.mark.parametrize("cases", ["default", pytest.param("all", marks=pytest.mark.slow)])
def test_kernels_compile_and_fit_an_h100(cases, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    process = subprocess.run(
        [sys.executable, PROGRAM, cases], env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    compiled = json.loads(process.stdout)
    assert {name for name, _ in compiled} == {
        "forward_kernel",
        "input_gradients_kernel",
        "tap_gradients_kernel",
        "moments_kernel",
        "tree_kernel",
        "output_kernel",
        "output_gradients_kernel",
        "tree_gradients_kernel",
    }
    assert max(shared for _, shared in compiled) <= SHARED_MEMORY_BYTES
