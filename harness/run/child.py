"""The child process of one cell: `python -m harness.run.child REQUEST`, or forked by `harness.run.fork_server`.

It reads a request, runs one measurement, and writes one result. Out of memory is a result. A user's
mistake ends the process with one line, any other exception with a traceback; the supervisor keeps
either.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from harness.errors import USAGE, UserError
from harness.records.environment import describe, usable_cores
from harness.records.schema import Environment, encode, write_atomic
from harness.records.spec import SpeedSpec, TrainingSpec
from harness.run.process import die_with_parent, limit_memory
from models.ops.build import optional

if TYPE_CHECKING:
    from harness.measure.training.loop import Observer


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor asks of a child.

    Attributes:
        spec: That of the cell; only what measures it knows its type.
        threads: CPU threads; null: the cores that the process may use.
        measure: `time` or `memory` for a speed cell, `training` for a training cell.
        result: Where to write the result.
        arrays: Folder of a training cell's prepared data; null for a speed cell.
        checkpoint: Where a training cell keeps its checkpoint.
        sources: Source digest of the cell.
        parent: The supervisor; a fresh child dies with it.
        started: The supervisor's monotonic clock, which is the machine's, when it asked.
        memory_limit_bytes: Private memory this process may allocate; null on a GPU, whose driver
            maps more than it uses.
    """

    spec: msgspec.Raw
    threads: int | None
    measure: str
    result: str
    arrays: str | None
    checkpoint: str
    sources: str
    parent: int
    started: float
    memory_limit_bytes: int | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a child leaves behind: a final status and the record fields it measured.

    A measurement that ends with another status than `ok` says so in its fields, with the detail.
    """

    status: str
    detail: str | None
    fields: dict[str, Any]


def main() -> None:
    """Run the request named on the command line, for as long as its supervisor lives."""
    path = Path(sys.argv[1])
    die_with_parent(_read(path).parent)
    run(path)
    leave()


def leave() -> NoReturn:
    """End this process now that its result is written: taking Python and torch apart takes up to a second."""
    for stream in (sys.stdout, sys.stderr):
        # A model may have closed it, or put something else there.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(0)


def run(path: Path) -> None:
    """Run a request and write its result.

    Args:
        path: File with a `Request`.
    """
    request = _read(path)
    answer(request.result, request.memory_limit_bytes, lambda: _measure(request), lambda: _environment(request))


def _read(path: Path) -> Request:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Request)
    except FileNotFoundError:
        sys.exit(f"error: the request {path} is gone; something cleans up there while cells run")


def answer(
    result: str, limit: int | None, measure: Callable[[], dict[str, Any]], environment: Callable[[], Environment]
) -> None:
    """Measure and write the result; running out of memory is one, a user's mistake ends the process.

    Args:
        result: Where to write.
        limit: Private memory this process may allocate, in bytes; None: no limit.
        measure: Returns the record's fields; `status` and `detail` among them say how it ended, if not well.
        environment: The machine, for a result without any other field.
    """
    hide_broken()
    # Not at the top: torch takes seconds, in which a supervisor that died must take this process along.
    from harness.measure import runtime

    if limit is not None:
        limit_memory(limit)
    try:
        fields = measure()
        found = Result(status=fields.pop("status", "ok"), detail=fields.pop("detail", None), fields=fields)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    except (RuntimeError, MemoryError) as error:
        if not runtime.is_out_of_memory(error):
            raise
        detail = (str(error) or "MemoryError").splitlines()[0]
        found = Result(status="oom", detail=detail, fields={"environment": environment()})
    write_atomic(Path(result), encode(found))


def hide_broken() -> None:
    """Before torch is imported: it imports these itself, and bears their absence but no other failure."""
    for package in ("pynvml", "triton"):
        if not optional.imports(package):
            sys.modules[package] = None  # type: ignore[assignment]


def _measure(request: Request) -> dict[str, Any]:
    measure = MEASURES[request.measure](request)
    imported = time.monotonic() - request.started
    return {**measure(), "import_seconds": round(imported, 3)}


def _speed(request: Request) -> Measurement:
    from harness.measure.speed import cell

    spec = msgspec.json.decode(request.spec, type=SpeedSpec)
    return lambda: cell.run(spec, request.measure, _environment(request))


def _training(request: Request) -> Measurement:
    from harness.measure.training import cell

    observer = OBSERVERS["lines"]()
    assert request.arrays is not None
    spec = msgspec.json.decode(request.spec, type=TrainingSpec)
    arrays, checkpoint = Path(request.arrays), Path(request.checkpoint)
    return lambda: cell.run(spec, arrays, checkpoint, request.sources, _environment(request), observer)


Measurement = Callable[[], dict[str, Any]]
# Imports what a measurement needs, which is timed apart, and returns it. A cell's source digest covers its own alone.
MEASURES: dict[str, Callable[[Request], Measurement]] = {"time": _speed, "memory": _speed, "training": _training}


def _lines() -> Observer:
    from harness.run.training_lines import Lines

    return Lines()


# Who follows a training: told what happens, none decides a number, so no cell's source digest covers any.
OBSERVERS: dict[str, Callable[[], Observer]] = {"lines": _lines}


def _environment(request: Request) -> Environment:
    from harness.measure import runtime

    return describe(request.threads or usable_cores(), runtime.allocator())


if __name__ == "__main__":
    main()
