"""The losses that a study may name, and their options. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from harness.errors import UserError, unknown
from harness.records.spec import LossSpec

LossName = Literal["declared", "cross-entropy", "sampled-softmax", "bce", "gbce"]

DEFAULTS: dict[str, dict[str, Any]] = {
    "declared": {},
    "cross-entropy": {"normalise": False, "temperature": None},
    "sampled-softmax": {"normalise": False, "temperature": None, "negatives": 256},
    "bce": {"normalise": False, "temperature": None, "negatives": 1},
    "gbce": {"normalise": False, "temperature": None, "negatives": 256, "calibration": 0.75},
}
LOSSES = tuple(name for name in DEFAULTS if name != "declared")
# Cosines lie in [-1, 1], too flat for a softmax; 0.05 is what HSTU's published training divides by.
_COSINE_TEMPERATURE = 0.05


def loss_spec(name: str, given: dict[str, Any] | None = None) -> LossSpec:
    """A loss with every option filled in; see `TrainingSection` for their meaning.

    Args:
        name: A `LossName`.
        given: Options that differ from the loss's defaults.

    Raises:
        UserError: An unknown loss, an option that it does not take, or one out of its range.
    """
    if name not in DEFAULTS:
        raise unknown("loss", name, DEFAULTS)
    for key in given or {}:
        if key not in DEFAULTS[name]:
            raise _unused(key, name, DEFAULTS[name])
    spec = filled(name, given)
    if spec.temperature is not None and not spec.temperature > 0:
        raise UserError(f"training.temperature is {spec.temperature}; it must be above 0 (1 leaves scores as they are)")
    if spec.negatives is not None and spec.negatives < 1:
        raise UserError(f"training.negatives is {spec.negatives}; it must be at least 1")
    if spec.calibration is not None and not 0 <= spec.calibration <= 1:
        raise UserError(f"training.calibration is {spec.calibration}; it must be from 0 (plain BCE) to 1")
    return spec


def filled(name: str, given: dict[str, Any] | None = None) -> LossSpec:
    """A loss's name and options, those that are not given at their defaults."""
    options = {**DEFAULTS[name], **(given or {})}
    if "temperature" in options and options["temperature"] is None:
        options["temperature"] = _COSINE_TEMPERATURE if options["normalise"] else 1.0
    return LossSpec(name=name, **options)


def _unused(key: str, name: str, legal: Collection[str]) -> UserError:
    takers = [loss for loss, options in DEFAULTS.items() if key in options]
    return UserError(
        f"training.{key} has no effect under loss '{name}', which takes {', '.join(legal) or 'no option'}; "
        f"leave it out, or choose one of: {', '.join(takers)}"
    )
