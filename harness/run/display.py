"""What a person sees while cells run: one calm display on a terminal, short lines elsewhere. Imports no torch.

Cells done of all, the cell in hand with what it last said, the last result, and the time left from what such cells
took; warnings and failures stand above it as they come. All that children print is in their logs.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec

from harness.records.operator import OperatorRecord
from harness.records.outcome import outcome
from harness.records.schema import FAILED_SUFFIX, Record
from harness.records.spec import CellSpec, SpeedSpec, TrainingSpec

if TYPE_CHECKING:
    from rich.console import RenderableType

# Without a terminal: the least time between two lines about progress.
LINE_SECONDS = 10.0
_SAID_SECONDS = 30.0
# What children say that a person should see at once.
_LOUD = ("warning: ", "note: ", "error: ")
_BAR_WIDTH = 30
# Share of the cells left of which it must be known what such take, before a time left is shown.
_KNOWN = 0.5
# A second: drawing takes some milliseconds of a core that a timed cell may be using.
_FRAMES = 1


class Job(Protocol):
    """What a display needs of a cell; the operator bench has no spec."""

    @property
    def kind(self) -> str:
        """`speed` or `training`."""

    @property
    def label(self) -> str:
        """Model as the study names it."""

    @property
    def path(self) -> str:
        """Path of its record below the study's folder."""


def describe(job: Job) -> str:
    """A cell in words: `sasrec-sdpa, 1,024 events, process 2`."""
    spec: CellSpec | None = getattr(job, "spec", None)
    if spec is None:
        return "the convolution by itself"
    if isinstance(spec, SpeedSpec):
        memory = " (memory)" if spec.measure == ["memory"] else ""
        return f"{job.label}, {spec.length:,} events, process {spec.replicate + 1}{memory}"
    if spec.length is None:
        return f"{job.label} on {spec.dataset}"
    return f"{job.label} on {spec.dataset}, {spec.length:,} events, seed {spec.seed}"


def in_words(seconds: float) -> str:
    """`40 s`, `3 min`, `1 h 20 min`: as exact as a person needs."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Pace:
    """Time left, from what cells took.

    Args:
        jobs: Cells that are to run.
        expected: Seconds of some of them by path, from records of a like machine.
        beside: How many run at a time.
        elsewhere: The same from records of other machines: how cells compare, once one of them ended here.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        expected: Mapping[str, float],
        beside: int = 1,
        elsewhere: Mapping[str, float] | None = None,
    ) -> None:
        self._left = {job.path: job for job in jobs}
        self._here, self._elsewhere, self._beside = _Past(expected), _Past(elsewhere or {}), beside
        # From the narrowest likeness to the widest.
        self._took: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def ended(self, job: Job, seconds: float | None) -> None:
        """Learn from a cell that ended; None: it failed, and is left out alone."""
        self._left.pop(job.path, None)
        if seconds is None:
            return
        for like in _likes(job):
            self._took[like].append(seconds)
        self._here.ended(job.path, seconds)
        self._elsewhere.ended(job.path, seconds)

    def left(self, running: Mapping[str, float]) -> tuple[float, float]:
        """Seconds left of the cells that something is known of, and what share of all that is.

        Args:
            running: Seconds that the cells in hand have run, by path.
        """
        total, known = 0.0, 0
        for path, job in self._left.items():
            seconds = self._seconds(job)
            known += seconds is not None
            total += max(0.0, (seconds or 0.0) - running.get(path, 0.0)) / self._places(job)
        return total, known / len(self._left) if self._left else 1.0

    def _places(self, job: Job) -> int:
        """At how many places such cells run; a training whose time counts has the machine for itself."""
        spec: CellSpec | None = getattr(job, "spec", None)
        return 1 if isinstance(spec, TrainingSpec) and spec.timed else self._beside

    def _seconds(self, job: Job) -> float | None:
        narrow, *wider = _likes(job)
        if narrow in self._took:
            return _mean(self._took[narrow])
        here = self._here.scaled(job.path, untold=1.0)
        scaled = self._elsewhere.scaled(job.path) if here is None else here
        return (
            next((_mean(self._took[like]) for like in wider if like in self._took), None) if scaled is None else scaled
        )


class _Past:
    """What cells took before, at the pace of those of them that ended now.

    Args:
        seconds: By path of the cell.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._seconds = seconds
        self._now = self._then = 0.0

    def ended(self, path: str, seconds: float) -> None:
        """Learn from a cell that ended."""
        if path in self._seconds:
            self._now += seconds
            self._then += self._seconds[path]

    def scaled(self, path: str, untold: float | None = None) -> float | None:
        """Seconds of a cell at today's pace; `untold` is the pace as long as none ended."""
        pace = self._now / self._then if self._then else untold
        return None if pace is None or path not in self._seconds else self._seconds[path] * pace


def _likes(job: Job) -> list[tuple[Any, ...]]:
    spec: CellSpec | None = getattr(job, "spec", None)
    if spec is None:
        return [(job.kind, job.label)]
    reference = spec.length is None
    where = (job.kind, reference, spec.where)
    return [(*where, job.label, spec.length), (*where, job.label), where, (job.kind, reference)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Display:
    """Follows cells from their start to their end.

    Args:
        total: Cells of the study.
        done: Those that have a record already.
        pace: Tells the time left.
        stream: Where to show it; None: stderr.
    """

    def __init__(self, total: int, done: int, pace: Pace, stream: IO[str] | None = None) -> None:
        self.total, self.done = total, done
        self._failed: set[str] = set()
        self._pace = pace
        self._running: dict[str, tuple[Job, float, str]] = {}
        self._last = ""
        self._stage = ""
        self._kinds: set[str] = set()
        self._screen = _screen(sys.stderr if stream is None else stream, self)

    def __enter__(self) -> Display:
        self._screen.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.end()

    def begun(self, job: Job) -> None:
        """A cell has started."""
        self._running[job.path] = (job, time.monotonic(), "")
        self._screen.changed(f"begins: {describe(job)}", once=True)

    def said(self, job: Job, line: str) -> None:
        """A cell's process has printed a line."""
        line = line.rstrip()
        if not line or job.path not in self._running:
            return
        if line.startswith(_LOUD):
            self._screen.tell(f"{line}  [{describe(job)}]" if not line.startswith("note: ") else line)
            return
        self._running[job.path] = (*self._running[job.path][:2], line)
        self._screen.changed(f"{describe(job)}: {line}", least=_SAID_SECONDS)

    def ended(self, job: Job, result: Record | OperatorRecord | None, log: Path | None) -> None:
        """A cell has ended.

        Args:
            job: The cell.
            result: Its record; one without a final status is a failure. None: it left none.
            log: What to read where it failed.
        """
        _, began, _ = self._running.pop(job.path, (job, time.monotonic(), ""))
        flags = [] if result is None or isinstance(result, OperatorRecord) else result.flags
        words = "no record" if result is None else _words(result)
        if result is None or result.status in ("error", "killed"):
            # How soon a cell fails says nothing of the others.
            self._pace.ended(job, None)
            self._failed.add(job.path)
            where = f"; why: {log}" if log is not None else ""
            self._screen.tell(f"failed: {describe(job)}: {words}{where}")
            return
        self._pace.ended(job, time.monotonic() - began)
        self.done += 1
        # Tried again, such as by Snakemake after a sweep.
        self._failed.discard(job.path)
        self._last = f"{describe(job)}: {words}"
        for flag in flags:
            self._flagged(job, flag.partition(";")[0])
        if result.status != "ok":
            # Out of memory or time is a result, and one that a person wants to know of.
            self._screen.tell(f"{describe(job)}: {words}")
        self._screen.changed(self._last, force=self.done == self.total)

    def _flagged(self, job: Job, flag: str) -> None:
        # A disturbed machine flags cell after cell in the same words: once is enough, `verify` counts them all.
        kind = re.sub(r"[0-9.]+", "", flag)
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._screen.tell(f"warning: {describe(job)}: {flag}")

    def given_up(self, job: Job) -> None:
        """A cell was ended without a result because the time was over."""
        self._running.pop(job.path, None)

    def stage(self, words: str) -> None:
        """What runs beside cells: analysis, document."""
        self._stage = words
        self._screen.changed(words, force=True)

    def note(self, line: str) -> None:
        """A line that stays."""
        self._screen.tell(line)

    @property
    def failed(self) -> int:
        """Cells that have ended without a result."""
        return len(self._failed)

    def count(self) -> str:
        """`34/256`."""
        return f"{self.done}/{self.total}"

    def left(self) -> str:
        """The time left in words; "" where it is not known or nothing is left."""
        now = time.monotonic()
        seconds, known = self._pace.left({path: now - began for path, (_, began, _) in self._running.items()})
        # Of a few cells it would be the time of these alone.
        if self.done + self.failed >= self.total or seconds == 0.0 or known < _KNOWN:
            return ""
        return f"{'about' if known == 1 else 'more than'} {in_words(seconds)} left"

    def rows(self) -> list[tuple[str, str]]:
        """What a terminal shows below the bar: a word and a line each."""
        now = time.monotonic()
        rows = [
            ("now", "   ".join(part for part in (describe(job), in_words(now - began), said) if part))
            for job, began, said in self._running.values()
        ]
        if not rows and self._stage:
            rows = [("now", self._stage)]
        return [*rows, *([("last", self._last)] if self._last else [])]


def failure_log(output: Path, log: Path | None) -> Path:
    """What to read of a cell without a result: its log where it printed anything, else its failed record."""
    if log is not None and log.is_file() and log.stat().st_size > 0:
        return log
    return output.with_suffix(FAILED_SUFFIX)


def _words(result: Record | OperatorRecord) -> str:
    """A result's first figures, or why there is none, in one line."""
    if result.status == "error":
        # Its last lines, most often the end of a traceback, whose first line says nothing.
        lines = [line for line in (result.detail or "").splitlines() if line.strip()]
        raised = [line for line in lines if re.match(r"[\w.]+(?:Error|Exception|Interrupt)\b", line)]
        why = [*lines[-1:], *raised][-1] if lines else "no reason was kept"
        return f"error: {why.removeprefix('error: ')}"[:200]
    plain = result if isinstance(result, OperatorRecord) else msgspec.structs.replace(result, flags=[])
    return outcome(plain).partition("\n")[0].removeprefix("ok, ")[:200]


class _Screen(Protocol):
    def begin(self) -> None: ...

    def end(self) -> None: ...

    def changed(self, line: str, *, least: float = LINE_SECONDS, force: bool = False, once: bool = False) -> None: ...

    def tell(self, line: str) -> None: ...


class _Lines:
    """Plain lines, so few that a log of a long run can be read."""

    def __init__(self, stream: IO[str], display: Display) -> None:
        self._stream, self._display = stream, display
        self._told: float | None = None

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def changed(self, line: str, *, least: float = LINE_SECONDS, force: bool = False, once: bool = False) -> None:
        """Print what changed, if enough time has passed; `once`: only as the very first line."""
        now = time.monotonic()
        first = self._told is None
        if force or first or (not once and self._told is not None and now - self._told >= least):
            self._told = now
            left = self._display.left()
            self._print(f"[{self._display.count()}] {line}{f'; {left}' if left else ''}")

    def tell(self, line: str) -> None:
        self._print(line)

    def _print(self, line: str) -> None:
        # A closed terminal or a full disk must not end a run of hours.
        with contextlib.suppress(OSError):
            print(line, file=self._stream, flush=True)


class _Live:
    """A bar and a few rows that are drawn anew, and what is told above them."""

    def __init__(self, stream: IO[str], display: Display) -> None:
        from rich.console import Console
        from rich.live import Live

        self._display = display
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=_FRAMES, transient=True
        )

    def begin(self) -> None:
        self._live.start()

    def end(self) -> None:
        self._live.stop()

    def changed(self, line: str, *, least: float = LINE_SECONDS, force: bool = False, once: bool = False) -> None:
        """The thread that draws looks at the display itself."""

    def tell(self, line: str) -> None:
        self._console.print(line, style="yellow" if line.startswith(("warning", "failed", "error")) else None)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        display = self._display
        words = f"{display.count()} cells" + (f", {display.failed} failed" if display.failed else "")
        top = Table.grid(padding=(0, 2))
        top.add_row(
            ProgressBar(max(1, display.total), display.done, width=_BAR_WIDTH), Text(words), Text(display.left())
        )
        below = Table.grid(padding=(0, 2))
        below.add_column(style="dim")
        below.add_column(no_wrap=True, overflow="ellipsis")
        for word, line in display.rows():
            below.add_row(word, Text(line))
        return Group(top, below)


def _screen(stream: IO[str], display: Display) -> _Screen:
    if isinstance(stream, io.TextIOWrapper):
        # A model's name or a message may hold what an ASCII terminal cannot show.
        stream.reconfigure(errors="replace")
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        # A machine that is lent for half an hour has no more packages than measuring needs.
        with contextlib.suppress(ImportError):
            return _Live(stream, display)
    return _Lines(stream, display)
