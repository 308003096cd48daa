"""Peak memory of this process: one way to read it on each kind of device.

CPU: VmHWM after writing 5 to /proc/self/clear_refs, never ru_maxrss, which a child inherits from
its parent. CUDA: the allocator's own peak.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class Peak:
    """Peak bytes above a baseline taken at construction.

    Args:
        device: Where the memory is read.

    Attributes:
        method: How the number is read, for the record; null where it cannot be.
        baseline_bytes: Bytes in use when this object was made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            self.method: str | None = "torch.cuda.max_memory_allocated"
            self.baseline_bytes = torch.cuda.memory_allocated(device)
        elif _resettable():
            self.method = "VmHWM after /proc/self/clear_refs"
            self.baseline_bytes = _field("VmRSS")
        else:
            self.method = None
            self.baseline_bytes = 0

    def reset(self) -> None:
        """Start a new peak from the memory in use now."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.method is not None:
            _CLEAR.write_text("5")

    def read(self) -> int | None:
        """Bytes of the peak since `reset`, above the baseline; None where it cannot be read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return int(torch.cuda.max_memory_allocated(self.device)) - self.baseline_bytes
        if self.method is None:
            return None
        return max(0, _field("VmHWM") - self.baseline_bytes)


def _resettable() -> bool:
    try:
        _CLEAR.write_text("5")
        _field("VmHWM")
    except OSError:
        return False
    return True


def _field(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"no {name} in {_STATUS}")
    return int(match[1]) * 1024
