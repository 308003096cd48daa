"""One child process, from its request to how it ended: result, time limit, memory limit, signal or traceback.

Final: `ok`; `oom`, only with evidence; `timeout`. Not final: `killed` and `error`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.records import cgroup
from harness.records.schema import Status
from harness.run.allocator import clean_environment, settings
from harness.run.process import Orphans, signal_name
from harness.run.workers import Child, Workers, command

_POLL_SECONDS = 0.25
_DETAIL_LINES = 12
_ROOM = "give this program more memory and run again"
_MEND = "end what it starts in the model, delete the record and measure again"
# What children have noted of this machine, which every cell of a sweep would say again.
_noted: set[str] = set()
# Who is given a child's lines.
Said = Callable[[str], None]


class OutOfTimeError(Exception):
    """A cell was ended because its caller's time was over. It has no record; a checkpoint of it is kept."""


@dataclass(frozen=True)
class Outcome:
    """How one child ended.

    Attributes:
        fields: Fields of a record.
        flags: What a reader must know of how it ran.
    """

    status: Status
    detail: str | None
    fields: dict[str, Any]
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class Bounds:
    """What ends a child before it ends by itself.

    Attributes:
        seconds: Its own time limit; past it the child's status is `timeout`.
        memory_bytes: Resident memory; above it the child's status is `oom`.
        deadline: Monotonic clock at which it is given up, whatever its own limit; None: never.
    """

    seconds: float
    memory_bytes: int
    deadline: float | None


def run_child(
    request: Mapping[str, Any],
    measure: str,
    workers: Workers,
    bounds: Bounds,
    log: Path | None = None,
    said: Said | None = None,
) -> Outcome:
    """Start a child with a request and see it to its end.

    Args:
        request: What the child is asked; where to write its result, its parent's id and the start are added.
        measure: The pass, by which the allocator is set.
        workers: Starts the child.
        bounds: When to end it.
        log: Where to keep everything it prints; None keeps only the last lines.
        said: Is given its lines as they come; None: they go to stderr.

    Raises:
        OutOfTimeError: The deadline passed.
    """
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        result, path = Path(folder) / "result.json", Path(folder) / "request.json"
        added = {"measure": measure, "result": str(result), "parent": os.getpid(), "started": time.monotonic()}
        path.write_bytes(msgspec.json.encode({**request, **added}))
        with Orphans(workers.processes) as orphans:
            child = workers.start(path, {**clean_environment(), **settings(measure)})
            assert child.stdout is not None
            tail: deque[str] = deque(maxlen=_DETAIL_LINES)
            reader = threading.Thread(target=_pump, args=(child.stdout, tail, log, said), daemon=True)
            reader.start()
            kills_before = cgroup.oom_kills()
            try:
                ended = _watch(child, bounds)
            finally:
                child.kill()
                code = child.wait()
        reader.join(timeout=5)
        outcome = ended or _judge(code, result, tail, cgroup.oom_kills() - kills_before)
        if outcome.status == "oom" and code < 0 and ended is None and not _has_room():
            outcome = Outcome(
                "killed", f"{outcome.detail}; they end a process that only imports torch too: {_ROOM}", {}
            )
    flags = [f"the model left a process running ({command}), which was ended; {_MEND}" for command in orphans.left]
    return replace(outcome, flags=flags)


def _watch(child: Child, bounds: Bounds) -> Outcome | None:
    """Wait for the child; end it at its time limit, its memory limit, or its caller's deadline."""
    ends = time.monotonic() + bounds.seconds
    while True:
        try:
            child.wait(timeout=_POLL_SECONDS)
            return None
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        if now > ends:
            return Outcome("timeout", f"still running after {bounds.seconds:g} s", {})
        if bounds.deadline is not None and now > bounds.deadline:
            raise OutOfTimeError
        resident = _resident_bytes(child.pid)
        if resident > bounds.memory_bytes:
            return Outcome("oom", f"resident memory {resident} bytes above the limit of {bounds.memory_bytes}", {})


def _has_room() -> bool:
    """Whether a process that only imports what a cell does lives within this group's memory."""
    code = command("harness.run.fork_server", function="imports")
    return subprocess.run(code, env=clean_environment(), capture_output=True, check=False).returncode >= 0


def _judge(code: int, result: Path, tail: deque[str], oom_kills: int) -> Outcome:
    if code == 0 and result.is_file():
        value = msgspec.json.decode(result.read_bytes())
        return Outcome(value["status"], value["detail"], value["fields"])
    if not result.parent.is_dir():
        why = "was removed while the cell ran, by something that cleans up there, so its result is lost"
        return Outcome("error", f"the temporary folder {result.parent} {why}; name another in TMPDIR and run again", {})
    last = "\n".join(tail).strip()
    if code < 0:
        name = signal_name(-code)
        if oom_kills > 0:
            return Outcome("oom", f"killed by {name}; the cgroup counted {oom_kills} out-of-memory kill(s)", {})
        return Outcome("killed", f"killed by {name}. {last}".strip(), {})
    return Outcome("error", last or f"the child ended with status {code} and left no result", {})


def _pump(stream: IO[str], tail: deque[str], log: Path | None, said: Said | None) -> None:
    """Show the child's lines as they come, keep the last ones, and log all."""
    handle: IO[str] | None = None
    shown = True
    try:
        for line in stream:
            tail.append(line.rstrip("\n"))
            # A closed terminal or a full disk must not stop the child, whose pipe would fill: it would
            # look like a cell that takes too long.
            try:
                if shown and line not in _noted:
                    (said or _to_stderr)(line)
                if line.startswith("note: "):
                    _noted.add(line)
                if log is not None:
                    # Most timed cells print nothing, and leave no empty file.
                    if handle is None:
                        log.parent.mkdir(parents=True, exist_ok=True)
                        handle = log.open("a", encoding="utf-8", buffering=1)
                    handle.write(line)
            except OSError as error:
                tail.append(f"(output no longer shown or logged: {error})")
                shown, log = False, None
    finally:
        stream.close()
        if handle is not None:
            with contextlib.suppress(OSError):
                handle.close()


def _to_stderr(line: str) -> None:
    print(line, end="", file=sys.stderr, flush=True)


def _resident_bytes(pid: int) -> int:
    try:
        resident, shared = map(int, Path(f"/proc/{pid}/statm").read_text().split()[1:3])
    except (OSError, ValueError):
        return 0
    # Without the pages of files, torch's libraries above all: the kernel drops them when it must.
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
