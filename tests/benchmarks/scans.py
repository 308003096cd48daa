"""The scans of the baselines against a Python loop over time, and how they grow with the length. On a quiet machine:

    python tests/benchmarks/scans.py              # some seconds; `HYENAREC_NATIVE=0` for the scans in torch

Forward and backward of the real scan of minGRU, the complex one of LRURec and the selective one of
Mamba4Rec, at their models' default sizes, one thread, alternately with the loop. The loop takes slices of
unbound tensors: indexing step by step would make its backward pass quadratic. Exit status 0: LRURec's
and Mamba4Rec's are at least five times as fast as the loop at 2,048 steps, and the slope of their time per
sequence in the length, from 256 to 8,192 at 8,192 steps in all, is at most 1.1; 1: otherwise. Pages are
kept as the harness keeps them only with its allocator settings (harness/run/supervisor.py, KEEP_BLOCKS).
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from harness.errors import Parser
from models.ops.build import native
from models.ops.scans.complex_diagonal import linear_recurrence
from models.ops.scans.diagonal import diagonal_scan
from models.ops.scans.selective import selective_scan

LEAST_RATIO, MOST_SLOPE = 5.0, 1.1
BATCHES, STEPS, ROUNDS = (1, 4), 2048, 3
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)


def real(batch, length):
    return torch.rand(batch, length, 128), torch.randn(batch, length, 128)


def real_loop(a, b):
    h, states = torch.zeros_like(b[:, 0]), []
    for factor, x in zip(a.unbind(1), b.unbind(1), strict=True):
        h = factor * h + x
        states.append(h)
    return torch.stack(states, 1)


def complex_(batch, length):
    return torch.randn(128, 2, batch, length), -0.1 * torch.rand(128), 6 * torch.rand(128)


def complex_loop(b, log_modulus, angle):
    factor = torch.polar(log_modulus.exp(), angle)[:, None]
    driven = torch.complex(b[:, 0], b[:, 1])
    h, states = torch.zeros_like(driven[..., 0]), []
    for x in driven.unbind(2):
        h = factor * h + x
        states.append(h)
    return torch.view_as_real(torch.stack(states, 2)).permute(0, 3, 1, 2)


def selective(batch, length):
    x, delta = torch.randn(batch, length, 128), 0.1 * torch.rand(batch, length, 128)
    write, read = torch.randn(2, batch, length, 32).unbind(0)
    return x, delta, -torch.arange(1.0, 33.0).repeat(128, 1), write, read, torch.ones(128)


def selective_loop(x, delta, rates, write, read, skip):
    h, outputs = x.new_zeros(x.shape[0], *rates.shape), []
    for d, u, b, c in zip(*(v.unbind(1) for v in (delta, delta * x, write, read)), strict=True):
        h = torch.exp(d[..., None] * rates) * h + u[..., None] * b[:, None]
        outputs.append((h @ c[..., None])[..., 0])
    return torch.stack(outputs, 1) + skip * x


def seconds(scan, inputs):
    inputs = [v.requires_grad_() for v in inputs]
    start = time.perf_counter()
    y = scan(*inputs)
    torch.autograd.grad(y, inputs, torch.ones_like(y))
    return time.perf_counter() - start


def ratio(draw, scan, loop, batch):
    """The loop's time over the scan's, median of alternating rounds."""
    inputs = draw(batch, STEPS)
    seconds(scan, inputs)
    return statistics.median(seconds(loop, inputs) / seconds(scan, inputs) for _ in range(ROUNDS))


def slope(draw, scan):
    """Of log seconds per sequence in log length: the fastest of some rounds, since each takes milliseconds."""
    inputs = [draw(LENGTHS[-1] // length, length) for length in LENGTHS]
    rounds = [[seconds(scan, given) for given in inputs] for _ in range(10)]
    per_sequence = np.min(rounds, axis=0) * np.array(LENGTHS)
    return float(np.polyfit(np.log(LENGTHS), np.log(per_sequence), 1)[0])


def main() -> None:
    """Measure, print, and say by the exit status whether both bounds hold for LRURec and Mamba4Rec."""
    Parser(description=(__doc__ or "").split("\n")[0]).parse_args()
    torch.set_num_threads(1)
    holds = True
    print(f"native operators: {native.status()}")
    for name, draw, scan, loop in (
        ("minGRU", real, diagonal_scan, real_loop),
        ("LRURec", complex_, linear_recurrence, complex_loop),
        ("Mamba4Rec", selective, selective_scan, selective_loop),
    ):
        ratios, growth = {batch: ratio(draw, scan, loop, batch) for batch in BATCHES}, slope(draw, scan)
        words = ", ".join(f"{value:.1f} at batch {batch}" for batch, value in ratios.items())
        print(f"{name:>10}: loop / scan {words}; slope {growth:.2f}", flush=True)
        if name != "minGRU":
            holds = holds and min(ratios.values()) >= LEAST_RATIO and growth <= MOST_SLOPE
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
