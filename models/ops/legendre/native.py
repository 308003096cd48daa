"""The Legendre tree of models/ops/legendre/tree.py through models/ops/legendre/native.cpp.

Every channel is done in one piece while it is in the cache, forward in one pass over x and y, and
nothing is kept for backward but x: moments and expansions are computed again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.ops.build import native
from models.ops.legendre.geometry import CHUNK, Geometry

# Legal orders and ranks are multiples of it.
LANES = 16
ORDERS = tuple(range(LANES, 65, LANES))
MAPS = 5
_NO_MEMORY = 2


def supports(x: Tensor, length: int, order: int) -> bool:
    """Whether the native tree takes `x`: float32 on a CPU, more than a chunk of events, K ≤ 64, and built."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and length > CHUNK
        and order <= ORDERS[-1]
        and native.library() is not None
    )


class _Level(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("nodes", "pairs", "short_index", "rank"))


class _MapArrays(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("into", "out", "up", "down", "couple")),
        *((name, ctypes.c_int64) for name in ("up_level", "down_level", "couple_level")),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("channels", "rows", "chunks", "order", "depth", "source", "ragged", "threads")
        ),
        ("levels", ctypes.POINTER(_Level)),
    )


@dataclass(frozen=True)
class Gradients:
    """Of `x`, of the taps inside a chunk, and of the maps in their order."""

    x: Tensor
    line: Tensor
    maps: list[Tensor]


def forward(chunks: Tensor, line: Tensor, geometry: Geometry, source: int, maps: Sequence[Tensor]) -> Tensor:
    """`[D, R, N, 64]` to the same; `maps` contiguous, of whole nodes and in a ragged tree of short ones."""
    y = torch.empty_like(chunks)
    problem = _problem(chunks, geometry, source, len(maps) > MAPS)
    whole, cut = _arrays(maps)
    _call("tree_forward", problem, native.pointer(chunks), native.pointer(line), whole, cut, native.pointer(y))
    return y


def backward(
    chunks: Tensor,
    gradient: Tensor,
    line: Tensor,
    geometry: Geometry,
    source: int,
    maps: Sequence[Tensor],
    decay: bool,
) -> Gradients:
    """Gradients of `forward`; without `decay` those of all maps but the couplings are left at zero."""
    found = Gradients(torch.empty_like(chunks), torch.empty_like(line), [torch.zeros_like(m) for m in maps])
    problem = _problem(chunks, geometry, source, len(maps) > MAPS)
    pointers = [native.pointer(t) for t in (chunks, gradient, line)]
    into = [native.pointer(t) for t in (found.x, found.line)]
    _call("tree_backward", problem, *pointers, *_arrays(maps), *into, *_arrays(found.maps), int(decay))
    return found


def _call(name: str, problem: _Problem, *arguments: object) -> None:
    code = native.function(name)(ctypes.byref(problem), *arguments)
    if code == _NO_MEMORY:
        raise MemoryError(
            f"{name}: no memory for the states of {problem.rows} rows of {problem.chunks} chunks in "
            f"{problem.threads} threads; use a smaller batch or fewer threads"
        )
    if code != 0:
        raise RuntimeError(f"{name} does not take order {problem.order}; legal: {ORDERS} ({native.status()})")


def _problem(chunks: Tensor, geometry: Geometry, source: int, ragged: bool) -> _Problem:
    levels = [
        _Level(level.nodes, level.pairs, geometry.short_index(number) if level.short else -1, level.rank)
        for number, level in enumerate(geometry.levels)
    ]
    channels, rows, count, _ = chunks.shape
    return _Problem(
        channels,
        rows,
        count,
        geometry.order,
        len(levels),
        source,
        int(ragged),
        torch.get_num_threads(),
        (_Level * len(levels))(*levels),
    )


def _arrays(maps: Sequence[Tensor]) -> tuple[object, object]:
    found = []
    for start in (0, MAPS):
        part = maps[start : start + MAPS]
        strides = [m.stride(0) for m in part[2:]]
        found.append(ctypes.byref(_MapArrays(*(m.data_ptr() for m in part), *strides) if part else _MapArrays()))
    return found[0], found[1]
