"""Interactions in memory-mapped arrays: a billion events cost address space, not memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

Items = NDArray[np.int32]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_META = "meta.json"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class StoredInteractions:
    """Events of all users, users one after the other, oldest first.

    Implements `models.base.Interactions`.

    Attributes:
        items: `[N]` int32, items 1 … V.
        offsets: `[U + 1]` int64: user u owns `items[offsets[u]:offsets[u + 1]]`.
        num_items: Catalogue size V.
        timestamps: `[N]` int64 seconds, where the data has them.
    """

    items: Items
    offsets: Integers
    num_items: int
    timestamps: Integers | None = None

    @property
    def num_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        """Number of events N."""
        return len(self.items)

    @property
    def lengths(self) -> Integers:
        """`[U]` events per user."""
        return np.diff(self.offsets)


class ArrayWriter:
    """Appends to a one-dimensional .npy file whose length is known only at the end.

    Args:
        path: File to write.
        dtype: Type of the elements.
    """

    def __init__(self, path: Path, dtype: type[np.integer[Any]]) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._length = 0

    def __enter__(self) -> ArrayWriter:
        self._file: BinaryIO = self._path.open("wb")
        self._write_header()
        return self

    def append(self, values: Iterable[int]) -> None:
        """Write some more elements."""
        block = np.fromiter(values, dtype=self._dtype)
        self._file.write(block.tobytes())
        self._length += len(block)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # numpy pads a header so that a longer shape fits in the same bytes.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def store(
    folder: Path, histories: Iterable[list[int]], meta: dict[str, Any], times: Iterable[list[int]] | None = None
) -> None:
    """Write histories, as a stream, into an existing folder.

    Args:
        folder: Where items.npy, offsets.npy, meta.json and, with `times`, timestamps.npy go.
        histories: Item ids, user by user, oldest first.
        meta: Further entries of meta.json, besides the arrays' checksum; `num_items` is the highest item
            unless given.
        times: Unix seconds of the same events, user by user.
    """
    end = highest = 0
    with ArrayWriter(folder / "items.npy", np.int32) as items, ArrayWriter(folder / "offsets.npy", np.int64) as offsets:
        offsets.append([0])
        for history in histories:
            items.append(history)
            end += len(history)
            highest = max(highest, *history)
            offsets.append([end])
    if times is not None:
        with ArrayWriter(folder / "timestamps.npy", np.int64) as seconds:
            for history in times:
                seconds.append(history)
    meta = {"num_items": highest, **meta, "arrays_sha256": checksum(folder)}
    (folder / _META).write_text(json.dumps(meta, indent=1), encoding="utf-8")


def checksum(folder: Path) -> str:
    """sha256 over the arrays of a folder written by `store`, element by element."""
    digest = hashlib.sha256()
    for path in (folder / f"{name}.npy" for name in ("items", "offsets", "timestamps")):
        if path.is_file():
            values = np.load(path, mmap_mode="r")
            digest.update(f"|{path.stem} {values.dtype.str} {len(values)}|".encode())
            for start in range(0, len(values), _CHUNK):
                digest.update(np.ascontiguousarray(values[start : start + _CHUNK]).data)
    return digest.hexdigest()


def load(folder: Path) -> tuple[StoredInteractions, dict[str, Any]]:
    """Map the arrays of a folder written by `store`, and read its meta.json."""
    meta: dict[str, Any] = json.loads((folder / _META).read_text(encoding="utf-8"))
    times = folder / "timestamps.npy"
    interactions = StoredInteractions(
        items=np.load(folder / "items.npy", mmap_mode="r"),
        offsets=np.load(folder / "offsets.npy", mmap_mode="r"),
        num_items=meta["num_items"],
        timestamps=np.load(times, mmap_mode="r") if times.is_file() else None,
    )
    return interactions, meta
