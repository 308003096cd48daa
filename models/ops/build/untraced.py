"""Functions that torch.compile leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def untraced(operator: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same operator, opaque to torch.compile: one break in the graph instead of what it does inside.

    For operators with hand-written backward passes, constants built in NumPy, or native code.
    """
    opaque: Callable[_P, _T] = torch.compiler.disable(operator)  # type: ignore[no-untyped-call]
    return opaque


def constant(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, which torch.compile calls while it traces, to use what it returns in all later calls."""
    found: Callable[_P, _T] = torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]
    return found
