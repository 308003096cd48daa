"""What a model's code changes of the process that it shares with the harness and a partner: put back, and told.

Python's and NumPy's global generators are not looked at: models draw from them, and the harness never does.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import torch

_CUDNN: Any = torch.backends.cudnn
_MKLDNN: Any = torch.backends.mkldnn
_PRODUCTS: tuple[Any, ...] = (torch.backends.cuda.matmul, _CUDNN.conv, _CUDNN.rnn, _MKLDNN.matmul)
_ATTENTION = ("flash", "mem_efficient", "math", "cudnn")
_MEND = "take that out of the model, delete the record and measure again"
_SEED = "the seed of torch's generator"


def _precisions() -> tuple[str, ...]:
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Torch has an older and a newer way to set it, and refuses to read the older one after the newer was used.
        overall = "by product"
    return overall, *(product.fp32_precision for product in _PRODUCTS)


def _set_precisions(values: tuple[str, ...]) -> None:
    torch.set_float32_matmul_precision(values[0])
    for product, value in zip(_PRODUCTS, values[1:], strict=True):
        product.fp32_precision = value


def _deterministic() -> tuple[int, bool, bool]:
    return torch.get_deterministic_debug_mode(), _CUDNN.deterministic, _CUDNN.benchmark


def _set_deterministic(values: tuple[int, bool, bool]) -> None:
    mode, _CUDNN.deterministic, _CUDNN.benchmark = values
    torch.set_deterministic_debug_mode(mode)


def _attention() -> tuple[bool, ...]:
    return tuple(getattr(torch.backends.cuda, f"{kernel}_sdp_enabled")() for kernel in _ATTENTION)


def _set_attention(values: tuple[bool, ...]) -> None:
    for kernel, value in zip(_ATTENTION, values, strict=True):
        getattr(torch.backends.cuda, f"enable_{kernel}_sdp")(value)


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def _set_autocast(values: tuple[bool, ...]) -> None:
    for device, value in zip(("cpu", "cuda"), values, strict=True):
        torch.set_autocast_enabled(device, value)


def _flushes_denormals() -> bool:
    return not np.float32(1e-40) * np.float32(1)


def _set_anomalies(value: bool) -> None:
    with warnings.catch_warnings():
        # That it is slow is what is being undone.
        warnings.simplefilter("ignore")
        torch.autograd.set_detect_anomaly(value)


# What it is → what reads it, and what sets it.
_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the number of CPU threads": (torch.get_num_threads, torch.set_num_threads),
    "the default type": (torch.get_default_dtype, torch.set_default_dtype),
    # Setting the device that it has unset would slow every tensor that is made.
    "the default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "whether gradients are computed": (torch.is_grad_enabled, torch.set_grad_enabled),
    _SEED: (torch.initial_seed, torch.manual_seed),
    "deterministic algorithms": (_deterministic, _set_deterministic),
    "the precision of float32 products": (_precisions, _set_precisions),
    "the kernels of attention": (_attention, _set_attention),
    "autocast": (_autocast, _set_autocast),
    "the flushing of denormal numbers": (_flushes_denormals, torch.set_flush_denormal),
    "the detection of anomalies": (torch.is_anomaly_enabled, _set_anomalies),
    "garbage collection": (gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "the working folder": (os.getcwd, os.chdir),
}


class Guard:
    """Keeps the state of the process as it is now, or as it was last meant to be.

    As a context it adds what a model changed to an exception, which may come of it.

    Attributes:
        flags: What was changed and put back, for the record.
    """

    def __init__(self) -> None:
        self._meant = {name: read() for name, (read, _) in _STATE.items()}
        self.flags: list[str] = []

    def seeded(self) -> None:
        """Take the seed that torch's generator has now for the one that it should have."""
        self._meant[_SEED] = torch.initial_seed()

    def check(self, where: str) -> None:
        """Put back what was changed, and flag it. Not inside a timed region: it takes some microseconds.

        Args:
            where: What ran since the last check.
        """
        for name, (read, write) in _STATE.items():
            meant, found = self._meant[name], read()
            if found != meant:
                write(meant)
                flag = f"{where}: {name} changed from {meant} to {found} and was put back; {_MEND}"
                if flag not in self.flags:
                    self.flags.append(flag)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.check("before this error")
            for flag in self.flags:
                error.add_note(flag)
