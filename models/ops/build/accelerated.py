"""Whether Triton kernels, ours or an installed package's, can run here; says so without importing them.

Our kernels are in models/ops/convolution/triton_dense.py (L ≤ 512) and models/ops/legendre/triton.py (Legendre
kernels), each with a `supports` that says which shapes it runs; only who means to use them imports them.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

# What the kernels were compiled for: Hopper's tensor cores, and its shared memory, which later consumer
# cards do not have.
LEAST_CAPABILITY = (9, 0)
LEAST_SHARED_MEMORY = 228 << 10


def available(device: torch.device) -> bool:
    """Whether triton is installed and compiles for a device.

    Args:
        device: Where the tensors are: an NVIDIA GPU of compute capability 9.0 or more with 228 KB of shared
            memory a multiprocessor (H100, H200, B200), or any device while Triton's interpreter is on (environment
            variable `TRITON_INTERPRET=1`, for tests: it is slow). `HYENAREC_TRITON=0` turns the kernels off.
    """
    if not _installed() or os.environ.get("HYENAREC_TRITON", "1") == "0":
        return False
    if os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y"):
        return True
    return device.type == "cuda" and torch.version.hip is None and _large_enough(device)


def package_is_available(package: str, device: torch.device) -> bool:
    """Whether a package of fused kernels is installed, and the device one that such kernels run on.

    Args:
        package: Name to import, such as `mamba_ssm`, or `fla` of flash-linear-attention.
        device: Where the tensors are.
    """
    return device.type == "cuda" and importlib.util.find_spec(package) is not None


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _large_enough(device: torch.device) -> bool:
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    return capability >= LEAST_CAPABILITY and properties.shared_memory_per_multiprocessor >= LEAST_SHARED_MEMORY
