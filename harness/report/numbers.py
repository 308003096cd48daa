"""Numbers as readers see them, in figures and on the terminal. The document has its own in Typst."""

from __future__ import annotations

from harness.analysis.results import OpenInterval


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without trailing zeros: 0.0123, 1.5, 8,192; `-` for what is not there."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) >= 1e-4 else f"{value:.{digits - 1}e}"


def interval(ends: OpenInterval | None) -> str:
    """`[4.81, 5.46]`, `>= 4.81` or `<= 5.46` where an end is open, `-` for none."""
    if ends is None or ends == (None, None):
        return "-"
    low, high = ends
    if high is None:
        return f">= {number(low)}"
    if low is None:
        return f"<= {number(high)}"
    return f"[{number(low)}, {number(high)}]"


def window(lengths: tuple[int, int] | None) -> str:
    """`128-8,192`: shortest and longest length."""
    if lengths is None:
        return "-"
    return f"{lengths[0]:,}" if lengths[0] == lengths[1] else f"{lengths[0]:,}-{lengths[1]:,}"


def exact(value: float) -> str:
    """A setting as it was given: 0.001, 8, 1.25."""
    return f"{value:.8g}"


def counted(count: int, one: str, many: str) -> str:
    """`1 seed`, `1,024 seeds`."""
    return f"{count:,} {one if count == 1 else many}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: `2 s`, `10 min`, `2 h`."""
    if seconds < 180:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 7200 else f"{number(seconds / 3600)} h"


def storage(size: int) -> str:
    """Bytes in the binary unit that suits them: `512 B`, `31.3 GiB`."""
    rank = sum(size >= 1024**n for n in (1, 2, 3))
    return f"{number(size / 1024**rank) if rank else size} {('B', 'KiB', 'MiB', 'GiB')[rank]}"
