"""A child process of the bench: `python -m harness.run.operator.child REQUEST`.

Timing runs with an allocator that keeps its blocks, the memory pass with one that returns them, so
each has a process of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from harness.records.environment import describe
from harness.records.operator import Measure, Settings
from harness.records.schema import Environment
from harness.run.child import answer
from harness.run.process import die_with_parent


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the bench asks of a child.

    Attributes:
        result: Where to write a `harness.run.child.Result`.
        parent: Process that must stay alive for this one to go on.
        memory_limit_bytes: Private memory this process may allocate; null on a GPU.
    """

    settings: Settings
    measure: Measure
    result: str
    parent: int
    memory_limit_bytes: int | None


def main() -> None:
    """Run the request named on the command line."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Request)
    die_with_parent(request.parent)
    answer(request.result, request.memory_limit_bytes, lambda: _measure(request), lambda: _environment(request))


def _measure(request: Request) -> dict[str, Any]:
    # Imports that load torch come after `die_with_parent`: they take seconds.
    from harness.measure import runtime
    from harness.measure.operator.measures import measure

    settings = request.settings
    device = runtime.prepare(settings.device, settings.threads)
    fields = measure(request.measure, settings, device)
    return {"environment": runtime.complete(_environment(request), device), **fields}


def _environment(request: Request) -> Environment:
    from harness.measure import runtime

    return describe(request.settings.threads, runtime.allocator())


if __name__ == "__main__":
    main()
