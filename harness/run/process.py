"""No process of the harness outlives the one that asked for it, nor does one that a model started.

psutil and the standard library can only look for orphans afterwards, from a process that itself may be killed; the
kernel's parent-death signal (prctl(2)) needs nobody to be left. Every process sets it for itself: a fork does not
inherit it. A model's processes set nothing, and may leave their session and clear their environment; what they cannot
leave is their ancestors, of whom one may ask to become the parent of orphans.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# Helpers of torch and Python look every second whether their parent lives.
_GRACE_SECONDS = 3.0
_KILL_SECONDS = 5.0


def limit_memory(limit: int) -> None:
    """Bound the private writable memory of this process, in bytes, so that torch reports what it cannot allocate."""
    # RLIMIT_DATA counts what malloc hands out; without it the kernel would kill some process or other.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, so that no orphan disturbs a timing.

    Args:
        parent: Expected parent; if it is gone already, this process ends at once.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class StoppedError(KeyboardInterrupt):
    """This process was told to end by a signal, in the middle of anything, as by Ctrl-C.

    Attributes:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """128 and the number of the signal that ended this process, as shells say it."""
    return 128 + (stop.number if isinstance(stop, StoppedError) else signal.SIGINT)


def signal_name(number: int) -> str:
    """`SIGKILL` and the like; of a signal without a name its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def interrupted_by(*numbers: signal.Signals) -> None:
    """Have signals end this process as Ctrl-C does: with its last words, and nothing left behind.

    Those that whoever started it had it ignore, as `nohup` does with SIGHUP, stay ignored.
    """

    def stop(number: int, _: object) -> None:
        raise StoppedError(number)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


class Orphans:
    """While the context lasts, processes whose parents end become this process's own; at its end they are ended.

    On Linux; elsewhere none is found. This process must start no others meanwhile than those it names.

    Args:
        own: Gives the ids of this process's children that may be there at the end.

    Attributes:
        left: Commands of those that had to be ended.
    """

    def __init__(self, own: Callable[[], Collection[int]]) -> None:
        self._own = own
        self.left: list[str] = []

    def __enter__(self) -> Orphans:
        self._before = _children()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        patience = time.monotonic() + _GRACE_SECONDS
        while (left := self._alive()) and time.monotonic() < patience:
            time.sleep(0.05)
        self.left = [_command(pid) for pid in left]
        # The children of those that end are the next to be found.
        patience = time.monotonic() + _KILL_SECONDS
        while (left := self._alive()) and time.monotonic() < patience:
            for pid in left:
                # Another user's, such as one that a model started by `sudo`, cannot be.
                with contextlib.suppress(PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)

    def _alive(self) -> list[int]:
        """Adopted processes that run; those that have ended are reaped."""
        found = _children() - self._before - {*self._own()}
        return [pid for pid in sorted(found) if os.waitpid(pid, os.WNOHANG) == (0, 0)]


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _children() -> set[int]:
    """This process's children, ended ones that are not reaped among them; none where there is no /proc."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # A command may hold any character, parentheses and bytes that are no text too.
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid():
            found.add(int(stat.parent.name))
    return found


def _command(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return " ".join(words).strip()[:80] or f"process {pid}"
