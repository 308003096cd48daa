"""What runs at a place: one cell after the other as they are asked for. `python -m harness.run.beside.worker`.

It sees one GPU alone, or may run on its cores alone, and so may all that it starts. It ends with the sweep, however
that ends.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.run.beside.lanes import Answer, Errand, Order
from harness.run.process import die_with_parent, exit_code, interrupted_by
from harness.run.sweep import Runner, Task, tasks
from harness.run.workers import ForkServers


def main() -> None:
    """Read an order and errands from stdin, answer on stdout."""
    requests = sys.stdin
    # What else is printed must not be taken for an answer.
    pipe, sys.stdout = sys.stdout, sys.stderr
    interrupted_by(signal.SIGTERM)

    def say(answer: Answer) -> None:
        print(msgspec.json.encode(answer).decode(), file=pipe, flush=True)

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
            try:
                result = runner.run(known[errand.path], Path(errand.output), Path(errand.log))
            except UserError as error:
                say(Answer(kind="refused", text=str(error)))
                continue
            say(Answer(kind="left" if result is None else "ended"))


class Voice:
    """Tells the sweep what happens at a place."""

    def __init__(self, say: Callable[[Answer], None]) -> None:
        self._say = say

    def said(self, job: Task, line: str) -> None:
        """See `harness.run.sweep.Listener`."""
        self._say(Answer(kind="said", text=line))

    def note(self, line: str) -> None:
        """See `harness.run.sweep.Listener`."""
        self._say(Answer(kind="note", text=line))


if __name__ == "__main__":
    main()
