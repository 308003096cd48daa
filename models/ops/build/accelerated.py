"""Whether Triton kernels, ours or an installed package's, can run here: packages are imported only where they could.

Our kernels are in models/ops/convolution/triton_dense.py (L ≤ 512) and models/ops/legendre/triton.py (Legendre
kernels), each with a `supports` that says which shapes it runs; only who means to use them imports them.
"""

from __future__ import annotations

import functools
import os

import torch

from models.ops.build import optional
from models.ops.build.untraced import constant

# What the kernels were compiled for: Hopper's tensor cores, and its shared memory, which later consumer
# cards do not have.
LEAST_CAPABILITY = (9, 0)
LEAST_SHARED_MEMORY = 228 << 10


@constant
def available(device: torch.device) -> bool:
    """Whether triton is installed and compiles for a device; why a GPU goes without is said once.

    Args:
        device: Where the tensors are: an NVIDIA GPU of compute capability 9.0 or more with 228 KB of shared
            memory a multiprocessor (H100, H200, B200), or any device while Triton's interpreter is on (environment
            variable `TRITON_INTERPRET=1`, for tests: it is slow). `HYENAREC_TRITON=0` turns the kernels off.
    """
    why = _missing(device)
    if why is not None and device.type == "cuda":
        optional.note(
            f"Triton kernels are off: {why}. Long convolutions run in torch instead, in several passes over memory "
            "where a kernel takes one: models with them take longer, and their records name it"
        )
    return why is None


def _missing(device: torch.device) -> str | None:
    """What the kernels lack; None: nothing."""
    if os.environ.get("HYENAREC_TRITON", "1") == "0":
        return "HYENAREC_TRITON=0"
    if os.environ.get("TRITON_INTERPRET", "").lower() not in ("1", "true", "yes", "on", "y"):
        if device.type != "cuda" or torch.version.hip is not None:
            return "they are for NVIDIA GPUs"
        if not _large_enough(device):
            return "they need compute capability 9.0 and 228 KB of shared memory a multiprocessor (H100, H200, B200)"
    # Our kernels read its knobs.
    return None if is_usable("triton.knobs") else "triton cannot be imported; install the extra `kernels`"


@constant
def is_usable(module: str) -> bool:
    """Whether a module of an optional package can be imported; see `models.ops.build.optional.imports`."""
    return optional.imports(module)


@functools.cache
def _large_enough(device: torch.device) -> bool:
    properties = torch.cuda.get_device_properties(device)
    capability = (properties.major, properties.minor)
    return capability >= LEAST_CAPABILITY and properties.shared_memory_per_multiprocessor >= LEAST_SHARED_MEMORY
