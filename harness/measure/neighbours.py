"""Whether other programs took the cores that a measurement wanted."""

from __future__ import annotations

from pathlib import Path

# Share of the time that threads were ready to run and had no core. Alone on two cores it stays below 1 %.
_SHARE = 0.05


class Neighbours:
    """How long this process's threads have waited for a core, from now on.

    Args:
        tasks: Folder of the threads as Linux keeps it; each `schedstat` there begins with the nanoseconds
            that the thread ran and those that it was ready and waited (Documentation/scheduler/sched-stats.rst
            of the kernel). Where there is none, nothing is known and nothing flagged.
    """

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._before = self._read()

    def flags(self) -> list[str]:
        """One flag where the wait since then is more than a machine of one's own shows, with its share."""
        # Threads that have ended took their numbers along.
        ran, waited = (max(0, now - then) for now, then in zip(self._read(), self._before, strict=True))
        share = waited / (ran + waited) if ran + waited else 0.0
        if share <= _SHARE:
            return []
        return [
            f"neighbours: its threads waited {share:.0%} of the time for a core that another program had, or it has "
            "more threads than cores; stop the others or lower threads, delete the record and measure again"
        ]

    def _read(self) -> tuple[int, int]:
        ran = waited = 0
        for path in self._tasks.glob("*/schedstat"):
            try:
                numbers = [int(word) for word in path.read_text(encoding="ascii").split()]
            except (OSError, ValueError):
                # A thread that ended meanwhile, or a kernel that counts otherwise.
                continue
            if len(numbers) >= 2:
                ran, waited = ran + numbers[0], waited + numbers[1]
        return ran, waited
