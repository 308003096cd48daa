"""Does the paired ratio survive a second process that loads the machine? Run by hand on a quiet machine:

    python tests/benchmarks/disturbance.py

Two fixed workloads are timed twice, paired (block by block, as a speed cell does) and as two series
one after the other; on the quiet machine, beside a process that loads as many threads as the
measurement uses, 20 s on and 20 s off, and on the quiet machine again. Each protocol gets one period
of load and one of rest: pairs have half of theirs under load, and of the two series the first has all,
as when another job ends in between. Prints all ratios; the quiet value is the mean of the two quiet
ones, and how far these differ tells what the machine does by itself. Exit status 0: the paired ratio
stays within 5 % of its quiet value, and the other moves by more than that and more than its quiet
values differ; 1: otherwise, and also where the paired quiet values differ by more than 5 %, for then
nothing is shown. Takes four minutes; `--period 5` a quarter of that.

    python tests/benchmarks/disturbance.py --beside python -m harness sweep disturbed

runs a command beside the same load instead, and ends with its exit status: whether a study's verdicts stand it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

from harness.errors import Parser
from harness.measure.speed import stopwatch
from harness.measure.speed.stopwatch import Clock, Limits, Plan, Side
from harness.records.environment import usable_cores
from harness.records.schema import Block
from harness.run.process import die_with_parent

TOLERANCE = 0.05
BLOCK_SECONDS = 0.1
_READY = "ready"


def workload(width: int, rows: int) -> Callable[[], None]:
    """A product and a nonlinearity, forward and backward: `rows` positions of `width` channels."""
    torch.manual_seed(0)
    x = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(width, width, requires_grad=True)

    def run() -> None:
        x.grad = weight.grad = None
        torch.nn.functional.gelu(x @ weight).sum().backward()  # type: ignore[no-untyped-call]

    return run


def sides(clock: Clock) -> tuple[Side, Side, Plan]:
    """Both workloads, warmed up, and blocks of about a tenth of a second."""
    first = Side("model", {"step": workload(256, 8192)}, 0.0)
    second = Side("partner", {"step": workload(512, 4096)}, 0.0)
    steps = [max(1, math.ceil(BLOCK_SECONDS / stopwatch.warm_up(side, "step", clock)[1])) for side in (first, second)]
    # More pairs than any budget holds: it is the budget that ends a series.
    return first, second, Plan(1 << 30, *steps)


def paired(first: Side, second: Side, plan: Plan, clock: Clock, seconds: float) -> float:
    """Median over neighbouring blocks of the ratio of their step times."""
    blocks = stopwatch.measure_pair(first, second, "step", clock, plan, Limits(0.0, 1, seconds))
    return math.exp(statistics.median(math.log(_step(a) / _step(b)) for a, b in _pairs(blocks)))


def one_after_the_other(first: Side, second: Side, plan: Plan, clock: Clock, seconds: float) -> float:
    """Ratio of the medians of two series, each of half the time."""
    medians = []
    for side, steps in ((first, plan.model_steps), (second, plan.partner_steps)):
        own = Plan(plan.pairs, steps, steps)
        blocks = stopwatch.measure_alone(side, "step", clock, own, Limits(0.0, 1, seconds))
        medians.append(statistics.median(map(_step, blocks)))
    return medians[0] / medians[1]


def _pairs(blocks: list[Block]) -> list[tuple[Block, Block]]:
    found = []
    for one, other in zip(blocks[::2], blocks[1::2], strict=True):
        found.append((one, other) if one.side == "model" else (other, one))
    return found


def _step(block: Block) -> float:
    return block.seconds / block.steps


def disturb(threads: int, period: float, parent: int) -> None:
    """Load `threads` threads for one period, rest for the next, until the parent is gone."""
    die_with_parent(parent)
    torch.set_num_threads(threads)
    run = workload(512, 4096)
    run()
    print(_READY, flush=True)
    while True:
        end = time.monotonic() + period
        while time.monotonic() < end:
            run()
        time.sleep(period)


@contextlib.contextmanager
def loaded_machine(threads: int, period: float) -> Iterator[None]:
    """A second process that loads the machine."""
    command = [sys.executable, __file__, "--period", str(period), "--threads", str(threads)]
    command += ["--disturb", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        try:
            # Importing torch takes seconds, in which the load would not be one yet.
            if load.stdout is None or load.stdout.readline().strip() != _READY:
                raise SystemExit("the process that loads the machine did not start; its message stands above")
            yield
        finally:
            load.kill()


def main() -> None:
    """Measure, print, and say by the exit status whether pairing held."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--period", type=float, default=20.0, help="seconds of load, and of rest (default: 20)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads of the measurement and the load")
    parser.add_argument("--disturb", type=int, metavar="PARENT", help=argparse.SUPPRESS)
    parser.add_argument(
        "--beside",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="COMMAND",
        help="run this beside the load; last option",
    )
    arguments = parser.parse_args()
    if arguments.disturb is not None:
        disturb(arguments.threads, arguments.period, arguments.disturb)
    if arguments.beside:
        with loaded_machine(arguments.threads, arguments.period):
            sys.exit(subprocess.run(arguments.beside).returncode)
    torch.set_num_threads(arguments.threads)
    clock = Clock(torch.device("cpu"))
    first, second, plan = sides(clock)
    # Both protocols get the same time: one whole period of load, and one of rest after it.
    seconds = 2 * arguments.period
    ratios: list[dict[str, float]] = []
    for disturbed in (False, True, False):
        with loaded_machine(arguments.threads, arguments.period) if disturbed else contextlib.nullcontext():
            ratios.append(
                {
                    "paired": paired(first, second, plan, clock, seconds),
                    "one after the other": one_after_the_other(first, second, plan, clock, seconds),
                }
            )
    before, loaded, after = ratios
    print(f"{arguments.threads} threads; load {arguments.period:g} s on, {arguments.period:g} s off")
    moved, apart = {}, {}
    for name, value in loaded.items():
        quiet = math.sqrt(before[name] * after[name])
        moved[name], apart[name] = value / quiet - 1, after[name] / before[name] - 1
        print(
            f"{name:>20}: quiet {before[name]:.4f} and {after[name]:.4f} ({apart[name]:+.1%}), "
            f"disturbed {value:.4f}, moved by {moved[name]:+.1%}"
        )
    if abs(apart["paired"]) > TOLERANCE:
        print(f"the machine was not quiet: paired ratios differ by more than {TOLERANCE:.0%}; run it on one that is")
        sys.exit(1)
    # What two series do by themselves, drift and all, is not counted as the load's doing.
    alone = max(TOLERANCE, abs(apart["one after the other"]))
    holds = abs(moved["paired"]) <= TOLERANCE and abs(moved["one after the other"]) > alone
    print(f"pairing {'holds' if holds else 'does NOT show its worth'} at a tolerance of {TOLERANCE:.0%}")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
