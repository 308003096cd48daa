"""A place's process, as the sweep sees it: requests and answers are lines of JSON on its pipes."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from harness.run.beside.places import Place
from harness.run.workers import command
from harness.study.schema import Study

_END_SECONDS = 10.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a place is told first.

    Attributes:
        study: What is measured.
        cores: Cores it may use; null: those it has.
        workers: As `harness.run.sweep.sweep` has it.
        deadline: Monotonic clock at which a cell is given up; null: never.
        beside: How many other places there are.
        parent: The sweep, with which it ends.
    """

    study: Study
    cores: list[int] | None
    workers: Literal["fork", "fresh"] | None
    deadline: float | None
    beside: int
    parent: int


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One cell that a place is to measure.

    Attributes:
        path: That of the cell.
        output: Where its record goes.
        log: Where what its process prints goes.
    """

    path: str
    output: str
    log: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a place says of the cell in hand.

    Attributes:
        kind: `begun`, `said` (its process printed a line), `note` (for a person to read), `ended` (there is a record,
            or one of a failure), `left` (given up for time) or `refused` (a mistake of the user, which ends the sweep).
        path: That of the cell.
        text: The line.
    """

    kind: Literal["begun", "said", "note", "ended", "left", "refused"]
    path: str = ""
    text: str = ""


class Lane:
    """A place and its process, as the sweep sees it: idle, or with a cell in hand.

    Args:
        place: Where it measures.
        order: What its process is told first.
        answers: Where its answers go, with the lane; None in place of one: its process has died.

    Attributes:
        task: The cell in hand; None: idle.
        begun: Whether its process has said that it began with that.
        measured: Cells that got a record here.
        failed: Cells that got none since the last that did, and starts that came to nothing.
    """

    def __init__(self, place: Place, order: Order, answers: queue.SimpleQueue[tuple[Lane, Answer | None]]) -> None:
        self.place, self._order, self._answers = place, order, answers
        self.task: Any = None
        self.begun = False
        self.measured = self.failed = 0
        self._process: subprocess.Popen[str] | None = None

    def give(self, task: Any, errand: Errand) -> None:
        """Have it measure a cell; its process is started where there is none."""
        self.task, self.begun = task, False
        if self._process is None:
            environment = dict(os.environ) | self.place.environment
            self._process = subprocess.Popen(
                command("harness.run.beside.worker"),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                # What is typed on the terminal is for the sweep, which ends its places in order.
                start_new_session=True,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
            self._send(self._process, self._order)
        self._send(self._process, errand)

    def _send(self, process: subprocess.Popen[str], message: Order | Errand) -> None:
        assert process.stdin is not None
        # That a process has died is found where its answers end.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(msgspec.json.encode(message).decode() + "\n")
            process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                self._answers.put((self, msgspec.json.decode(line, type=Answer)))
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Something else than its own words came out of it: it cannot be trusted to answer.
            process.kill()
        finally:
            self._answers.put((self, None))

    def tell_to_end(self) -> None:
        """Ask its process to end, with the cell in hand."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        # An idle one ends when there is nothing more to read.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self.task is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Until its process, which was told so, has ended; from a moment of the monotonic clock on by force."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end(lanes: Sequence[Lane]) -> None:
    """End the processes of all, which takes no longer than one does; each is told once, so that it can clear up."""
    for lane in lanes:
        lane.tell_to_end()
    deadline = time.monotonic() + _END_SECONDS
    for lane in lanes:
        lane.wait(deadline)
