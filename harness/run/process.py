"""No process of the harness outlives the one that asked for it.

psutil and the standard library can only look for orphans afterwards, from a process that itself may be killed; the
kernel's parent-death signal (prctl(2)) needs nobody to be left. Every process sets it for itself: a fork does not
inherit it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


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
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
