"""Native scans, forward and backward, against a python loop over time, and their growth with the length."""

import statistics
import time

import numpy as np
import pytest
import torch

from models.ops import native
from models.ops.diagonal_scan import diagonal_scan
from models.ops.linear_recurrence import linear_recurrence
from models.ops.selective_scan import selective_scan

# Slices of an unbound tensor: indexing step by step would make the loop's backward pass quadratic.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(native.build().library is None, reason=native.status()),
]


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


CASES = [
    (real, diagonal_scan, real_loop),
    (complex_, linear_recurrence, complex_loop),
    (selective, selective_scan, selective_loop),
]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("draw", "scan", "loop"), CASES, ids=["real", "complex", "selective"])
def test_five_times_a_python_loop(draw, scan, loop, batch):
    inputs = draw(batch, 2048)
    seconds(scan, inputs)
    pairs = [(seconds(loop, inputs), seconds(scan, inputs)) for _ in range(3)]
    assert statistics.median(slow / fast for slow, fast in pairs) > 5, pairs


@pytest.mark.parametrize(("draw", "scan", "loop"), CASES, ids=["real", "complex", "selective"])
def test_grows_no_faster_than_the_length(draw, scan, loop):
    """At 8,192 steps in all, so that every length works in the same caches."""
    lengths = [256, 1024, 4096, 8192]
    inputs = [draw(8192 // length, length) for length in lengths]
    rounds = [[seconds(scan, given) for given in inputs] for _ in range(20)]
    # The fastest: one that took a millisecond says little when something else ran beside it.
    per_sequence = np.min(rounds, axis=0) * np.array(lengths)
    assert np.polyfit(np.log(lengths), np.log(per_sequence), 1)[0] < 1.1, rounds
