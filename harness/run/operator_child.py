"""A child process of the bench: `python -m harness.run.operator_child REQUEST`.

Timing runs with an allocator that keeps its blocks, the memory pass with one that returns them, so
each has a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import USAGE, UserError
from harness.records.environment import describe
from harness.records.operator import Error, Omission, PeakMemory, Row, Settings
from harness.records.schema import Environment, encode, write_atomic
from harness.run.process import die_with_parent

Measure = Literal["time", "memory", "errors"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the bench asks of a child.

    Attributes:
        result: Where to write the result.
        parent: Process that must stay alive for this one to go on.
    """

    settings: Settings
    measure: Measure
    result: str
    parent: int


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one child measured; the lists of the other measures stay empty."""

    environment: Environment
    rows: list[Row] = []
    peak_memory: list[PeakMemory] = []
    errors: list[Error] = []
    omitted: list[Omission] = []


def main() -> None:
    """Run the request named on the command line."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    die_with_parent(request.parent)
    # Imports that load torch come after the line above: they take seconds.
    from harness.measure import runtime
    from harness.measure.operator.measures import measure

    settings = request.settings
    try:
        device = runtime.prepare({"threads": settings.threads, "device": settings.device})
        environment = runtime.complete(describe(settings.threads, runtime.allocator()), device)
        result = Result(environment=environment, **measure(request.measure, settings, device))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)
    write_atomic(Path(request.result), encode(result))


if __name__ == "__main__":
    main()
