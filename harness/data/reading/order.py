"""Collecting and sorting hundreds of millions of rows in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.data.interactions import Integers

_PIECE = 1 << 22
# Of a signed 64-bit integer without its sign.
_BITS = 63
# Elements of a chunk: more than 32 MiB, from where on an array's memory goes back to the system when it is freed, which
# small ones leave scattered.
_CHUNK = 1 << 24


class Growing:
    """An array to which others are appended.

    Args:
        dtype: Type of the elements.
    """

    def __init__(self, dtype: type[np.integer[Any]]) -> None:
        self._dtype, self._chunks, self._used = dtype, list[Any](), _CHUNK

    def append(self, values: Any) -> None:
        """Copy some more elements behind the others."""
        start = 0
        while start < len(values):
            if self._used == _CHUNK:
                # Memory that is not written to is not taken.
                self._chunks.append(np.empty(_CHUNK, self._dtype))
                self._used = 0
            count = min(_CHUNK - self._used, len(values) - start)
            self._chunks[-1][self._used : self._used + count] = values[start : start + count]
            self._used, start = self._used + count, start + count

    def joined(self) -> Any:
        """`[N]` all of them; afterwards there are none here."""
        last = [self._chunks.pop()[: self._used]] if self._chunks else []
        whole = np.concatenate([*self._chunks, *last]) if last else np.empty(0, self._dtype)
        self._chunks.clear()
        self._used = _CHUNK
        return whole


def by_first(codes: Any, count: int) -> Integers:
    """Codes in the order in which they come first.

    Args:
        codes: `[N]` from 0 to `count`.
        count: The largest that there may be.

    Returns:
        Each that is there, once.
    """
    # Of a place that is written several times numpy keeps the last: here the first of every code.
    firsts = np.full(count + 1, len(codes))
    for end in range(len(codes), 0, -_PIECE):
        start = max(end - _PIECE, 0)
        firsts[codes[start:end][::-1]] = np.arange(start, end)[::-1]
    order = np.argsort(firsts, kind="stable")
    there: Integers = order[firsts[order] < len(codes)]
    return there


def sorted_by(keys: list[Any], values: Any) -> tuple[list[Any], Any]:
    """Values in the order of keys, the most significant first; equal rows stay as they are.

    Keys whose ranges fit into one 64-bit integer are packed into one, and sorted at once.

    Args:
        keys: `[N]` integers each, N > 0. The list is emptied, so that they need no memory beside what is sorted.
        values: `[N]`.

    Returns:
        The sorted keys, and the values in their order.
    """
    lows = [int(key.min()) for key in keys]
    widths = [(int(key.max()) - low).bit_length() for key, low in zip(keys, lows, strict=True)]
    if sum(widths) > _BITS:
        order = np.lexsort(keys[::-1])
        return [keys.pop(0)[order] for _ in range(len(keys))], values[order]
    packed = _packed(keys, lows, widths)
    order = np.argsort(packed, kind="stable")
    # Sorted in place once more, not gathered into one more array of this size.
    packed.sort()
    values = values[order]
    del order
    found = []
    for place, (low, width) in enumerate(zip(lows, widths, strict=True)):
        behind = sum(widths[place + 1 :])
        if place < len(lows) - 1:
            found.append(_unpacked(packed, behind, width, low))
    # The last key stays where it is.
    packed &= (1 << widths[-1]) - 1
    packed += lows[-1]
    return [*found, packed], values


def _packed(keys: list[Any], lows: list[int], widths: list[int]) -> Integers:
    packed = np.zeros(len(keys[0]), np.int64)
    for low, width in zip(lows, widths, strict=True):
        key = keys.pop(0)
        # In pieces: a difference of whole arrays would be one more of them.
        for start in range(0, len(packed), _PIECE):
            piece = slice(start, start + _PIECE)
            packed[piece] = (packed[piece] << width) | (key[piece].astype(np.int64) - low)
    return packed


def _unpacked(packed: Integers, behind: int, width: int, low: int) -> Any:
    small = low >= -(2**31) and low + (1 << width) < 2**31
    key = np.empty(len(packed), np.int32 if small else np.int64)
    for start in range(0, len(packed), _PIECE):
        piece = slice(start, start + _PIECE)
        key[piece] = ((packed[piece] >> behind) & ((1 << width) - 1)) + low
    return key
