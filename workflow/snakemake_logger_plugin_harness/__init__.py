"""Snakemake's events as lines of JSON, for `workflow/run.py` to show: `snakemake --logger harness`.

Snakemake finds it by its name where this folder's parent is in PYTHONPATH. Its own log is printed as always.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

# Names the open pipe that the lines go to.
VARIABLE = "HYENAREC_EVENTS"


class LogHandler(LogHandlerBase):
    """A line for every job that begins, ends or fails, and for every warning and error."""

    def __post_init__(self) -> None:
        """Open the pipe."""
        self._pipe = os.fdopen(int(os.environ[VARIABLE]), "w", encoding="utf-8", buffering=1)
        self._jobs: dict[int, dict[str, object]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write what a person may want to know of an event."""
        event, fields = getattr(record, "event", None), vars(record)
        if event == LogEvent.JOB_INFO:
            job = {
                "rule": fields["rule_name"],
                "output": list(map(str, fields["output"])),
                "log": list(map(str, fields["log"])),
            }
            self._jobs[fields["jobid"]] = job
            self._write(event="begun", **job)
        elif event == LogEvent.JOB_FINISHED:
            self._write(event="ended", **self._jobs.pop(fields["job_id"], {}))
        elif event == LogEvent.JOB_ERROR:
            self._write(event="failed", **self._jobs.pop(fields["jobid"], {}))
        elif record.levelno >= logging.WARNING:
            self._write(event="told", level=record.levelname.lower(), text=str(record.getMessage()))

    def _write(self, **fields: object) -> None:
        # Whoever read may have been killed; the workflow goes on.
        with contextlib.suppress(OSError):
            self._pipe.write(json.dumps(fields) + "\n")

    @property
    def writes_to_stream(self) -> bool:
        """No: Snakemake's own handler stays."""
        return False

    @property
    def writes_to_file(self) -> bool:
        """No."""
        return False

    @property
    def has_filter(self) -> bool:
        """Its own: every event."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Its own: JSON."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """No."""
        return False
