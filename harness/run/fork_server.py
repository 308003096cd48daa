"""Imports torch once and forks a child for every request: `python -m harness.run.fork_server FD PARENT`.

Started by `harness.run.workers`, which sends requests over the socket FD, one at a time: the path of a request with the
write end of a pipe for the child's output. Answers: `Ready`; then for every request the child's process id, and when it
has ended its exit status, negative for a signal.

Why this is not multiprocessing's forkserver stands in `harness.run.workers`.

A forked child is what `python -m harness.run.child` is after its imports: same environment and allocator settings, its
own limits, seeds and output, and it dies with this process, which dies with the sweep. What differs:

- `import_seconds` is what remains of the imports, near 0; the first child of a server waits for the server's.
- Nothing here may touch CUDA or start a thread of torch's, neither of which survives a fork. `Ready` says whether that
  held, by asking a child.
- Pages are shared with this process until written, so a child's first write to one faults once: in its warm-up.
- A CPU peak is another: what fresh processes import after their baseline (some 135 MiB) is here already, while pages of
  library files come in again as they are used. Less the tiny peak the two agree within 3 %, which is not enough: the
  supervisor takes fresh processes for what reads one (memory passes and training on a CPU).
- Children of one server share its memory layout, which is drawn when a program starts and moves a CPU's times by
  percents: at 2,048 tokens, L = 1,024, five cells of one server gave SASRec over HyenaRec as 1.55, spread 1.6 %, where
  fresh processes gave 1.66, spread 6 %. So a sweep ends its servers between replicates; measured so, six replicates
  gave 1.610 forked and 1.618 fresh, each spread 3 %.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from harness.run import child
from harness.run.process import die_with_parent
from harness.run.workers import Ready

# As `signal.signal` takes and gives it.
Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


def main() -> None:
    """Serve until the other end of the socket closes; in a child, run its request."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    # An interrupt reaches the whole group; the sweep's is enough, and ends this process too. The sweep starts this
    # one with interrupts blocked, so that one that comes while Python starts is forgotten here instead of a traceback.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    begin = time.monotonic()
    imports()
    ready = Ready(seconds=round(time.monotonic() - begin, 3), unfit=_unfit())
    connection.send(msgspec.json.encode(ready))
    request = _serve(connection, interrupt)
    if request is not None:
        child.run(request)
        child.leave()


def imports() -> None:
    """All that a child imports, or nearly: what is missed here, the child imports."""
    child.hide_broken()
    from models import registry

    for module in ("harness.measure.speed.cell", "harness.measure.training.cell"):
        importlib.import_module(module)
    for name, entry in registry.entries().items():
        # A plugin's module may do anything when it is imported; its own cells import it.
        if entry.distribution is None:
            try:
                registry.load(name)
            except (Exception, SystemExit):
                # No reason to lose the other models' cells; this one's will say it again.
                print(f"warning: model '{name}' cannot be imported:", file=sys.stderr)
                traceback.print_exc()
    gc.collect()
    # What is imported stays: a child that looked through it for garbage would copy every page of it, a quarter second.
    gc.freeze()


def _unfit() -> str | None:
    """Why a child of this process could not measure, found out by a child; None if it can."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "something that was imported started CUDA, which a forked process cannot use"
    pid = os.fork()
    if pid == 0:
        # Set by the first call into the driver, also by those that only count devices.
        os._exit(1 if torch.cuda._is_in_bad_fork() else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if code == 0 else "something that was imported called the CUDA driver, which a fork does not survive"


def _serve(connection: socket.socket, interrupt: Handler) -> Path | None:
    """Fork for every request.

    Args:
        connection: Where requests come from.
        interrupt: What a child does on an interrupt; a sweep in the background, and so its cells, ignores it.

    Returns:
        In a child its request; in the server None, when there are no more.
    """
    server, last = os.getpid(), 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
        if last:
            os.waitpid(last, 0)
        if not message:
            return None
        pid = os.fork()
        if pid == 0:
            die_with_parent(server)
            connection.close()
            signal.signal(signal.SIGINT, interrupt)
            for stream in (1, 2):
                os.dup2(descriptors[0], stream)
            os.close(descriptors[0])
            return Path(os.fsdecode(message))
        os.close(descriptors[0])
        connection.send(str(pid).encode())
        # Not reaped before the next request: until then its id cannot become another process's, and the
        # supervisor may kill it at any time.
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        connection.send(str(code).encode())
        last = pid


if __name__ == "__main__":
    main()
