"""Does `auto` take the fastest convolution, whatever length, K and batch? Run by hand on a quiet machine:

    python -m harness.run.allocator python tests/benchmarks/backends.py

At every point of the grid each backend and `auto` a second time, the control, are timed forward and
backward in shuffled rounds. A line is printed where a backend leads `auto` by more than `--margin`
beyond what the control of that point is off, and a last line counts; `--table` prints all points, as
what sets DENSE_MAX_LENGTH and the tree's limits in models/ops/convolution/causal.py. Exit status 1
where a line was printed. Takes five minutes on two cores.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch

from harness.errors import Parser
from models.ops.convolution.causal import causal_convolution, select_backend
from models.ops.convolution.parameterisations import Parameterisation, build_parameterisation

LENGTHS = (64, 80, 96, 112, 128, 200, 256, 384, 512, 1000, 1024, 2048, 4096, 8192)
ORDERS = (8, 16, 32, 64)
BATCHES = (1, 2, 4, 16, 64, 128)
MAX_POSITIONS, DENSE_LIMIT = 65_536, 512
WIDTH = 64
ROUNDS, BLOCK_SECONDS = 9, 0.006


def _pass(backend: str, length: int, order: int, batch: int) -> Callable[[], None]:
    """Forward and backward of one convolution, its kernel's coefficients included."""
    torch.manual_seed(0)
    kernel = _kernel(length, order)
    x = torch.randn(WIDTH, batch, length, requires_grad=True)
    gradient = torch.randn(WIDTH, batch, length)

    def run() -> None:
        x.grad = None
        causal_convolution(x, kernel(), backend=backend, check=False).backward(gradient)  # type: ignore

    return run


def _seconds(run: Callable[[], None], steps: int) -> float:
    begin = time.perf_counter()
    for _ in range(steps):
        run()
    return (time.perf_counter() - begin) / steps


def point(length: int, order: int, batch: int) -> dict[str, float]:
    """Median over rounds of each candidate's time over that of `auto`; `auto` itself in milliseconds."""
    names = ["auto", "control", "fft", "tree", *(["dense"] if length <= DENSE_LIMIT else [])]
    runs = {name: _pass("auto" if name == "control" else name, length, order, batch) for name in names}
    steps = {
        name: max(1, math.ceil(BLOCK_SECONDS / min(_seconds(run, 1) for _ in range(3)))) for name, run in runs.items()
    }
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        order_of_round = random.sample(names, len(names))
        rounds.append({name: _seconds(runs[name], steps[name]) for name in order_of_round})
    found = {name: statistics.median(r[name] / r["auto"] for r in rounds) for name in names[1:]}
    return {"milliseconds": 1e3 * statistics.median(r["auto"] for r in rounds), **found}


def main() -> None:
    """Measure, print, and say by the exit status whether `auto` is right everywhere."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--margin", type=float, default=0.03, help="lead beyond the control's (default: 0.03)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--table", action="store_true", help="print all points")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    beaten = points = 0
    for length, order, batch in itertools.product(arguments.lengths, ORDERS, BATCHES):
        if batch * length > MAX_POSITIONS:
            continue
        found, points = point(length, order, batch), points + 1
        bound = 1 - arguments.margin - abs(math.log(found["control"]))
        leaders = {name: ratio for name, ratio in found.items() if name in ("fft", "tree", "dense") and ratio < bound}
        beaten += bool(leaders)
        if leaders or arguments.table:
            chosen = select_backend("auto", length, torch.device("cpu"), _kernel(length, order)(), batch)
            ratios = "  ".join(f"{name} {ratio:.2f}" for name, ratio in found.items() if name != "milliseconds")
            mark = "beaten by " + ", ".join(leaders) if leaders else ""
            size = f"L {length:5d}  K {order:2d}  B {batch:3d}"
            print(f"{size}  {chosen:5s} {found['milliseconds']:8.3f} ms  {ratios}  {mark}")
    print(f"{arguments.threads} threads: `auto` was beaten at {beaten} of {points} points")
    sys.exit(1 if beaten else 0)


def _kernel(length: int, order: int) -> Parameterisation:
    return build_parameterisation("legendre", WIDTH, length, order, decay=True, initialisation="open")


if __name__ == "__main__":
    main()
