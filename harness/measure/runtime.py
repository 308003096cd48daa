"""What both kinds of child share: device, threads, precision, seeds, and building a model."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import random
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import numpy as np
import torch
from torch import Tensor

from harness.errors import UserError
from harness.measure.guard import Guard
from harness.records.environment import usable_cores
from harness.records.schema import DeviceState, Environment, ModelFacts
from harness.records.spec import ModelSpec
from models import registry
from models.base import SequenceModel

_ALLOCATOR_VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "LD_PRELOAD",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "GOMP_SPINCOUNT",
)

# What torch and the libraries below it say when an allocation fails; nothing else counts.
_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "std::bad_alloc",
)


def prepare(device_name: str, threads: int | None) -> torch.device:
    """Pin threads and precision and return the device.

    The number of threads is pinned here because workflow engines export OMP_NUM_THREADS of their
    own. TF32 is allowed for float32 matmuls on CUDA and recorded.

    Args:
        device_name: `cpu` or `cuda`.
        threads: CPU threads; None: the cores that the process may use.

    Raises:
        UserError: The cell asks for CUDA and there is none.
    """
    torch.set_num_threads(threads or usable_cores())
    device = torch.device(device_name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"the study asks for device 'cuda', but torch {torch.__version__} sees no GPU; legal: auto, cpu, cuda. "
                "Install a CUDA build of torch, or set `device: cpu` in the study"
            )
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return device


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast where the study asks for it, else nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def is_finite(values: Tensor) -> bool:
    """Whether no number is NaN or infinite, in one pass: the least and the largest are NaN where any is."""
    return bool(torch.isfinite(torch.stack(values.aminmax())).all())


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that a clock read next means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """No pause of Python's inside a timed region."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def build_model(
    model_spec: ModelSpec, *, num_items: int, max_length: int, seed: int, device: torch.device, guard: Guard
) -> SequenceModel:
    """Build a registered model under a seed; its code leaves the process as it was."""
    seed_everything(seed)
    guard.seeded()
    cls = cast("type[SequenceModel]", registry.load(model_spec.name))
    config = cls.CONFIG(num_items=num_items, max_length=max_length, **model_spec.options)
    model = cls(config).to(device)
    guard.check(f"building {model_spec.label}")
    return model


def facts(model_spec: ModelSpec, model: SequenceModel, batch: int, length: int) -> ModelFacts:
    """What the report needs of a built model; call after a forward pass, so that `backends` is known."""
    cost = model.cost(batch, length)
    # From the model: its spec leaves out what was added later and has its default.
    options = dataclasses.asdict(model.config)
    del options["num_items"], options["max_length"]
    return ModelFacts(
        label=model_spec.label,
        name=model_spec.name,
        family=model.FAMILY,
        causal=model.CAUSAL,
        citation=model.CITATION,
        options=options,
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        operations=float(cost.operations),
        bytes_moved=float(cost.bytes_moved),
        state=float(cost.state),
        backends=model.backends(),
    )


def allocator() -> dict[str, str]:
    """The allocator's settings in this process, for the record."""
    return {name: os.environ[name] for name in _ALLOCATOR_VARIABLES if name in os.environ}


def complete(
    environment: Environment,
    device: torch.device,
    before: DeviceState | None = None,
    after: DeviceState | None = None,
) -> Environment:
    """Add to a cell's environment what only torch and the device know."""
    on_gpu = device.type == "cuda"
    if on_gpu and before is None:
        # Training may not import the metering; its records still say which device it was.
        properties = torch.cuda.get_device_properties(device)
        before = DeviceState(
            name=properties.name, uuid=f"GPU-{properties.uuid}", memory_total_bytes=properties.total_memory
        )
    return msgspec.structs.replace(
        environment,
        threads=torch.get_num_threads(),
        allocator=allocator(),
        cuda=torch.version.cuda if on_gpu else None,
        tf32=torch.backends.cuda.matmul.allow_tf32 if on_gpu else None,
        device_before=before,
        device_after=after,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is evidence of memory running out, and of nothing else."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
