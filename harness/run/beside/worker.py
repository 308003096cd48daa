"""What runs at a place: one cell after the other as they are asked for. `python -m harness.run.beside.worker`.

It sees one GPU alone, or may run on its cores alone, and so may all that it starts. It ends with the sweep, however
that ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.run.beside.lanes import Answer, Errand, Order
from harness.run.process import die_with_parent, exit_code, interrupted_by
from harness.run.sweep import Runner, Task, tasks
from harness.run.workers import ForkServers
from models.registry import RegistryError


def main() -> None:
    """Read an order and errands from stdin, answer on stdout."""
    # What else is printed, by whatever runs here, must not be taken for an answer; nor may it read errands.
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    interrupted_by(signal.SIGTERM)
    lock = threading.Lock()

    def say(answer: Answer) -> None:
        # Lines of a child come from a thread of their own.
        with lock:
            pipe.write(msgspec.json.encode(answer).decode() + "\n")
            pipe.flush()

    try:
        first = requests.readline()
        # The sweep ended while this process began.
        if not first:
            return
        order = msgspec.json.decode(first, type=Order)
        die_with_parent(order.parent)
        if order.cores is not None:
            os.sched_setaffinity(0, order.cores)
        measure(order, (msgspec.json.decode(line, type=Errand) for line in iter(requests.readline, "")), say)
    except KeyboardInterrupt as stop:
        sys.exit(exit_code(stop))


def measure(order: Order, errands: Iterable[Errand], say: Callable[[Answer], None]) -> None:
    """Measure cells at one place as they are asked for.

    Args:
        order: What is measured, and how.
        errands: The cells.
        say: Is given all answers.
    """
    known = {task.path: task for task in tasks(order.study)}
    with ForkServers() as servers:
        runner = Runner(order.study, servers, order.workers, order.deadline, Voice(say), order.beside)
        for errand in errands:
            say(Answer(kind="begun", path=errand.path))
            try:
                result = runner.run(known[errand.path], Path(errand.output), Path(errand.log))
            except (UserError, RegistryError, OSError) as error:
                say(Answer(kind="refused", path=errand.path, text=str(error)))
                continue
            say(Answer(kind="left" if result is None else "ended", path=errand.path))


class Voice:
    """Tells the sweep what happens at a place."""

    def __init__(self, say: Callable[[Answer], None]) -> None:
        self._say = say

    def said(self, job: Task, line: str) -> None:
        """See `harness.run.sweep.Listener`."""
        self._say(Answer(kind="said", path=job.path, text=line))

    def note(self, line: str) -> None:
        """See `harness.run.sweep.Listener`."""
        self._say(Answer(kind="note", text=line))


if __name__ == "__main__":
    main()
