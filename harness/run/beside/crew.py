"""Cells measured at several places: who gets the next one, and what becomes of a place that is no good."""

from __future__ import annotations

import os
import queue
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.errors import UserError
from harness.run.beside.lanes import Answer, Errand, Lane, Order, end
from harness.run.beside.places import Place
from harness.run.display import Display, Job
from harness.study.schema import Study

# Failures one after the other from which on a place is given up where others work.
_MOST_FAILURES = 3


class Ledger(Protocol):
    """What a sweep keeps account of; that of `harness.run.sweep` is one."""

    display: Display
    deadline: float | None

    @property
    def hopeless(self) -> bool:
        """Whether the first cells all failed."""

    def begins(self, task: Any) -> bool:
        """Whether a cell begins now."""

    def places_of(self, task: Any) -> tuple[Path, Path]:
        """Where its record goes, and its log."""

    def again(self, task: Any) -> None:
        """It was not begun after all."""

    def given_up(self, task: Any) -> None:
        """It was ended since the time was over."""

    def recorded(self, task: Any) -> bool:
        """It has left a record, or one of a failure; whether it is final."""

    def ended(self, task: Any, result: None) -> None:
        """It has ended without any."""

    def leave(self, tasks: Iterable[Any]) -> None:
        """Cells for which there is no place any more."""


class Crew:
    """Places that measure side by side: one that is idle gets the next cell, one that is no good none."""

    def __init__(
        self, study: Study, ledger: Ledger, workers: Literal["fork", "fresh"] | None, places: Sequence[Place]
    ) -> None:
        self._ledger = ledger
        self._answers = queue.SimpleQueue[tuple[Lane, Answer | None]]()
        self._coming: deque[Job] = deque()
        self._lanes = []
        for place in places:
            order = Order(
                study=study,
                cores=None if place.cores is None else [*place.cores],
                workers=workers,
                deadline=ledger.deadline,
                beside=len(places) - 1,
                parent=os.getpid(),
            )
            self._lanes.append(Lane(place, order, self._answers))

    def measure(self, todo: Sequence[Job]) -> None:
        """Measure these cells, in this order."""
        self._coming.extend(todo)
        try:
            self._feed()
            while any(lane.task is not None for lane in self._lanes):
                self._heard(*self._answers.get())
                self._feed()
        finally:
            end(self._lanes)
        # Of places that are all given up.
        self._ledger.leave(self._coming)

    def _feed(self) -> None:
        for lane in self._lanes:
            busy = any(other.task is not None for other in self._lanes)
            # Whether anything works at all is known when what runs has ended.
            if lane.task is not None or (busy and self._ledger.hopeless):
                continue
            while self._coming and lane.task is None:
                task = self._coming.popleft()
                if self._ledger.begins(task):
                    output, log = self._ledger.places_of(task)
                    lane.give(task, Errand(path=task.path, output=str(output), log=str(log)))

    def _heard(self, lane: Lane, answer: Answer | None) -> None:
        task, display = lane.task, self._ledger.display
        if answer is None:
            self._died(lane)
        elif answer.kind == "note":
            display.note(answer.text)
        elif answer.kind == "refused":
            raise UserError(answer.text)
        # What a cell's process printed may arrive when the next has begun.
        elif task is None or answer.path != task.path:
            return
        elif answer.kind == "begun":
            lane.begun = True
        elif answer.kind == "said":
            display.said(task, answer.text)
        elif answer.kind == "left":
            lane.task = None
            self._ledger.given_up(task)
        else:
            lane.task = None
            if self._ledger.recorded(task):
                lane.measured, lane.failed = lane.measured + 1, 0
            else:
                self._failed(lane)

    def _died(self, lane: Lane) -> None:
        task, lane.task = lane.task, None
        end([lane])
        if task is None:
            return
        if lane.begun:
            self._ledger.ended(task, None)
        else:
            self._ledger.again(task)
            self._coming.appendleft(task)
        self._failed(lane)

    def _failed(self, lane: Lane) -> None:
        """A place that fails is idle soonest and would eat what the others could measure."""
        lane.failed += 1
        others = [other for other in self._lanes if other is not lane]
        works = any(other.measured for other in others)
        if lane.failed >= _MOST_FAILURES and (works or not lane.begun):
            self._lanes = others
            end([lane])
            self._ledger.display.note(
                f"warning: {lane.place.words}: {lane.failed} cells failed one after the other, so it gets no more; "
                "correct what their logs say, and type the same command again"
            )
