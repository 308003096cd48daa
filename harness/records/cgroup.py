"""What the control groups around this process allow: cores, memory, and the kills they counted.

Both hierarchies are read, version 2 and the separate controllers of version 1, each from this
process's own group up to the root it can see: the tightest group decides. See the kernel's
Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

psutil does not do this: it gives the machine's memory and the affinity's cores whatever the group allows, and no
count of out-of-memory kills, which is the only evidence that tells such a kill from any other SIGKILL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest multiple of a page below 2⁶³.
_UNLIMITED = 1 << 60


def cores() -> float | None:
    """Cores' worth of time that the tightest group grants; None where none sets a quota."""
    found = []
    for folder in _folders("cpu"):
        words = (_read(folder / "cpu.max") or "").split()
        if len(words) == 2 and words[0] != "max":
            found.append(int(words[0]) / int(words[1]))
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


def memory_bytes() -> int | None:
    """Memory that the tightest group grants; None where none sets a limit."""
    found = []
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _number(folder / name)
            if limit is not None and 0 < limit < _UNLIMITED:
                found.append(limit)
    return min(found, default=None)


def oom_kills() -> int:
    """Processes of this group and those below it that the kernel killed because memory ran out, so far.

    A group counts the kills of its own members whichever limit was reached, so the innermost group
    is the one to ask; the outer ones also count those of strangers.
    """
    for folder in _folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in (_read(folder / name) or "").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _folders(controller: str) -> Iterator[Path]:
    """Folders that may hold a controller's files, innermost first."""
    for mount, group in _memberships(controller):
        inside = (mount / group.lstrip("/")).resolve()
        # In a container without a namespace of its own, the host's path does not exist: only the root does.
        if not inside.is_dir() or not inside.is_relative_to(mount.resolve()):
            inside = mount.resolve()
        yield inside
        while inside != mount.resolve():
            inside = inside.parent
            yield inside


def _memberships(controller: str) -> Iterator[tuple[Path, str]]:
    """(mount, group) of this process in the hierarchies that may hold a controller."""
    lines = (_read(MEMBERSHIP) or "").splitlines()
    for line in lines:
        number, names, group = line.split(":", 2)
        if number == "0" and not names:
            for mount in (MOUNT, MOUNT / "unified"):
                if (mount / "cgroup.controllers").is_file():
                    yield mount, group
        elif controller in names.split(","):
            for mount in (MOUNT / names, MOUNT / controller):
                if mount.is_dir():
                    yield mount, group
                    break


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None
