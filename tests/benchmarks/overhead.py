"""What the harness itself costs. Run by hand on a quiet machine:

    python tests/benchmarks/overhead.py

First, a training step with the device watched against the same step unwatched, block by block in
balanced order; at most 1 % is allowed. With an NVIDIA GPU the driver is read; without one the player
of a synthetic trace answers in its place, after a millisecond a call, which is more than a driver
takes. Second, cells of the study `cpu` (`gpu` with a GPU) through the supervisor, the shortest and the
longest: what their records do not explain by import, build, warm-up, measurement and the one step of each
side before it; at most 5 s are allowed. Exit status 1 if either is exceeded. The change is a median with its
distribution-free interval: on shared machines single blocks are off by a tenth, which a mean would carry. Takes four
minutes; `--pairs 8` one, and decides little.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from harness.errors import Parser
from harness.measure import runtime
from harness.measure.device import nvml
from harness.measure.device.sampler import Sampler
from harness.measure.device.trace import Player
from harness.measure.speed import cell
from harness.measure.speed.stopwatch import Clock
from harness.records.environment import has_gpu
from harness.records.schema import Record, SpeedRecord
from harness.run.supervisor import run_cell
from harness.study.cells import Cell, cells
from harness.study.check import load_study

STEP_ALLOWED, CELL_ALLOWED_SECONDS = 0.01, 5.0
CALL_SECONDS = 0.001
BLOCK_SECONDS, PAIRS, RUNS = 0.5, 160, 3
LENGTH = 1024
# Below, no order statistic bounds a median with 95 %.
LEAST_PAIRS = 6
TRACE = Path(__file__).parent.parent / "measure" / "synthetic_trace.json"


class SlowDriver:
    """A player whose calls take as long as a driver's; sleeping releases the interpreter lock, as they do."""

    def __init__(self, player: Player) -> None:
        self._player = player

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._player, name)
        if not name.startswith("nvml") or not callable(value):
            return value

        def call(*arguments: Any) -> Any:
            time.sleep(CALL_SECONDS)
            return value(*arguments)

        return call


def timed_cells() -> list[Cell]:
    """Cells of the machine's study that time the partner at constant tokens, shortest first."""
    study = load_study("gpu" if has_gpu() else "cpu")
    found = [
        c
        for c in cells(study)
        if c.kind == "speed" and c.label == study.timing_partner and c.spec.constant == "tokens"
        # A record does not say how long a memory pass took.
        if c.spec.measure == ["time"]
    ]
    return sorted(found, key=lambda c: int(c.spec.length))


def watched_over_unwatched(pairs: int) -> np.ndarray[Any, Any]:
    """`[pairs]` log ratios of the step time with the sampler's thread running to that without."""
    gpu = has_gpu()
    spec = next(c.spec for c in timed_cells() if c.spec.length == LENGTH)
    with nvml.open_library(None if gpu else SlowDriver(Player.read(TRACE))) as library:
        assert library is not None
        library.survey()
        # The threads and the precision of a cell: one thread too many would wait for the sampler's.
        device = runtime.prepare(spec.device, spec.threads)
        watched = library.device(cell._uuid(device) if gpu else library.uuids()[1])
        trainee = cell._Trainee(spec, "model", device)
        trainee.bind(cell._Inputs(spec, spec.batch, spec.length, device))
        clock = Clock(device)
        for _ in range(5):
            seconds, _ = clock.time(trainee.step, 5)
        steps = max(1, round(5 * BLOCK_SECONDS / seconds))
        logs = []
        for pair in range(pairs):
            found = {}
            for on in (True, False) if pair % 2 == 0 else (False, True):
                with Sampler(watched if on else None, "time") as sampler:
                    found[on], _ = clock.time(trainee.step, steps)
                if on:
                    # Watched at all: else this would compare a step with itself.
                    assert len(sampler.series()[0].seconds) > 1
            logs.append(np.log(found[True] / found[False]))
    return np.array(logs)


def median_and_interval(logs: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The median, and the order statistics between which the true one lies in at least 95 % of samples."""
    ordered = np.sort(logs)
    outside = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    return float(np.median(ordered)), float(ordered[outside - 1]), float(ordered[len(ordered) - outside])


def explained(record: SpeedRecord) -> dict[str, float]:
    """Seconds of a cell by stage, from its record; `other` is what the harness costs beside them.

    Before the first block of a phase each side of a pair makes one step that no block keeps; it took at least what the
    quickest kept one did. On a slow processor it takes seconds, which are not the harness's.
    """
    assert record.timing is not None
    elapsed = record.provenance.elapsed_seconds or 0.0
    steps: dict[tuple[str, str], list[float]] = {}
    for block in record.timing.blocks if record.timing.paired else []:
        if block.phase != "stream":
            steps.setdefault((block.side, block.phase), []).append(block.seconds / block.steps)
    builds = {w.side: w.build_seconds for w in record.timing.warmups}
    stages = {
        "import": record.provenance.import_seconds or 0.0,
        "build": sum(builds.values()),
        "warm-up": sum(w.seconds for w in record.timing.warmups),
        "not kept": sum(map(min, steps.values())),
        "measurement": sum(b.seconds for b in record.timing.blocks) + (record.energy.seconds if record.energy else 0.0),
    }
    return {**stages, "other": elapsed - sum(stages.values())}


def main() -> None:
    """Measure both, print, and say by the exit status whether they stay within what is allowed."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of half-second blocks (default: {PAIRS})")
    arguments = parser.parse_args()
    if arguments.pairs < LEAST_PAIRS:
        parser.error(f"--pairs {arguments.pairs}: an interval needs {LEAST_PAIRS} or more")
    change, low, high = np.expm1(median_and_interval(watched_over_unwatched(arguments.pairs)))
    print(f"step, watched over unwatched: {change:+.2%} (95 % interval {low:+.2%} to {high:+.2%})")
    study = load_study("gpu" if has_gpu() else "cpu")
    worst = 0.0
    for place in (timed_cells()[0], timed_cells()[-1]):
        with tempfile.TemporaryDirectory() as folder:
            stages = [explained(_timed(run_cell(study, place, Path(folder) / f"{n}.json"))) for n in range(RUNS)]
        middle = {name: statistics.median(s[name] for s in stages) for name in stages[0]}
        print(f"cell {place.key}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in middle.items()))
        worst = max(worst, middle["other"])
    # The whole interval: an estimate below the bound from noise above it would decide nothing.
    small = bool(high < STEP_ALLOWED)
    if not small and change < STEP_ALLOWED:
        print("too noisy to tell: the interval reaches beyond what is allowed; run it on a quieter machine")
    sys.exit(0 if small and worst <= CELL_ALLOWED_SECONDS else 1)


def _timed(record: Record) -> SpeedRecord:
    if not isinstance(record, SpeedRecord) or record.timing is None:
        raise SystemExit(f"the cell ended as {record.status}: {record.detail}")
    return record


if __name__ == "__main__":
    main()
