"""Checkpoints: a cell that was killed goes on where it stood, with the same numbers after."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.errors import UserError
from harness.records import schema as record

FORMAT = 1


def save(path: Path, identity: str, sources: str, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: File.
        identity: What the run is of: the resolved spec and the split.
        sources: Digest of the code that ran.
        state: Tensors, numbers, strings, lists and dicts only.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "identity": identity, "sources": sources, "state": state}, buffer)
    record.write_atomic(path, buffer.getvalue())


def load(path: Path, identity: str, sources: str) -> dict[str, Any] | None:
    """Read a checkpoint of this very run.

    Returns:
        The state; None where there is none, or it is damaged or was written by other code (said on
        stderr): then the run starts from the beginning.

    Raises:
        UserError: It belongs to another run, whose work must not be overwritten.
    """
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version, found, code, state = (content[key] for key in ("format", "identity", "sources", "state"))
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        _start_again(path, f"damaged checkpoint ({next(iter(str(error).splitlines()), type(error).__name__)})")
        return None
    if (version, found) != (FORMAT, identity):
        raise UserError(
            f"{path}: checkpoint of run {found} (format {version}), this run is {identity} (format {FORMAT}); "
            "delete the file, or give this run another output"
        )
    if code != sources:
        _start_again(path, "the code changed since this checkpoint")
        return None
    return dict(state)


def _start_again(path: Path, reason: str) -> None:
    print(f"{path}: {reason}; training starts from the beginning", file=sys.stderr, flush=True)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of torch's generators; batches are drawn from seed and epoch and need none."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Undo what was drawn since `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a model's state on the CPU, which later steps do not touch."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
