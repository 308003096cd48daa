"""Shows a workflow engine's jobs: reads its events from a pipe, and meanwhile what the jobs write into their logs."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records import operator
from harness.records.operator import OperatorRecord
from harness.records.schema import FAILED_SUFFIX, Record, read
from harness.run.display import Display, failure_log
from harness.run.sweep import Task

_POLL_SECONDS = 0.25
_STAGES = {"analyse": "analysis: fits, comparisons, verdicts", "report": "the document"}


@dataclass
class _Tail:
    """A log that grows."""

    path: Path
    offset: int
    rest: bytes = b""

    def lines(self) -> list[str]:
        """Whole lines that came since."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return []
        self.offset += len(content)
        *whole, self.rest = (self.rest + content).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


@dataclass
class Follower:
    """Turns events of `snakemake_logger_plugin_harness` into what the display shows.

    Attributes:
        records: The study's folder of records.
        jobs: Cells by the path of their record, as the engine names it.
        told: What the engine said went wrong, besides jobs that failed.
        other: Rules besides cells that failed, with their logs.
        started: Jobs that the engine began.
    """

    records: Path
    jobs: Mapping[str, Task]
    display: Display
    told: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    started: int = 0
    _tails: dict[str, _Tail] = field(default_factory=dict)

    def follow(self, pipe: int) -> None:
        """Read events until the engine closes its end of the pipe."""
        rest = b""
        while True:
            if select.select([pipe], [], [], _POLL_SECONDS)[0]:
                content = os.read(pipe, 1 << 16)
                if not content:
                    return
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    self.event(json.loads(line))
            self._read_logs()

    def event(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        output = next(iter(event.get("output", ())), "")
        job, log = self.jobs.get(output), _first(event.get("log", ()))
        self.started += event["event"] == "begun"
        if event["event"] == "told":
            text = str(event["text"]).strip()
            # That some jobs failed, each of them has said.
            if event["level"] != "warning":
                self.told.append(text)
        elif event["event"] == "begun" and job is not None:
            size = log.stat().st_size if log is not None and log.is_file() else 0
            if log is not None:
                self._tails[output] = _Tail(log, size)
            self.display.begun(job)
        elif event["event"] == "begun":
            if event["rule"] in _STAGES:
                self.display.stage(_STAGES[event["rule"]])
        elif job is not None:
            self._read_logs()
            self._tails.pop(output, None)
            path = self.records / job.path
            self.display.ended(job, _record(path, job), failure_log(path, log))
        elif event["event"] == "failed":
            self.other.append(f"{event.get('rule', 'a rule')} failed; why: {log}")

    def _read_logs(self) -> None:
        for output, tail in self._tails.items():
            for line in tail.lines():
                self.display.said(self.jobs[output], line)


def _first(paths: Sequence[str]) -> Path | None:
    return Path(paths[0]) if paths else None


def _record(path: Path, job: Task) -> Record | OperatorRecord | None:
    """What a cell left: its record, or that of its failure."""
    for place in (path, path.with_suffix(FAILED_SUFFIX)):
        if place.is_file():
            try:
                return operator.read(place) if job.label == "operator" else read(place)
            except UserError:
                # `verify` says what is wrong with it; here it counts as none.
                return None
    return None
