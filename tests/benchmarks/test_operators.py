"""Operators side by side, forward and backward, at 8,192 tokens and 64 channels.

Not part of the test suite: `make bench` runs them, and pytest-benchmark compares two runs
(`--benchmark-autosave`, then `pytest-benchmark compare`). Set the allocator as the harness does
(harness/supervisor.py, KEEP_BLOCKS), or page faults are timed.
"""

import pytest
import torch

from models.ops.attention import causal_attention
from models.ops.causal_convolution import legendre_convolution, legendre_table
from models.ops.linear_recurrence import linear_recurrence

TOKENS, WIDTH, ORDER, HEADS = 8192, 64, 16, 2


def run_backward(function, inputs):
    def step():
        for tensor in inputs:
            tensor.grad = None
        function(*inputs).sum().backward()

    return step


@pytest.mark.parametrize("length", [64, 256, 1024, 4096])
@pytest.mark.parametrize("backend", ["fft", "dense"])
def test_legendre_convolution(benchmark, backend, length):
    if backend == "dense" and length > 1024:
        pytest.skip("the Toeplitz product is O(L²)")
    benchmark.group = f"convolution L={length}"
    torch.manual_seed(0)
    x = torch.randn(WIDTH, TOKENS // length, length, requires_grad=True)
    coefficients = torch.randn(WIDTH, ORDER, requires_grad=True)
    decay = torch.rand(WIDTH, requires_grad=True)
    skip = torch.randn(WIDTH, requires_grad=True)
    table = legendre_table(ORDER, length).float()
    benchmark(
        run_backward(
            lambda x, c, a, d: legendre_convolution(x, c, a, d, table, backend=backend), [x, coefficients, decay, skip]
        )
    )


@pytest.mark.parametrize("length", [64, 256, 1024, 4096])
@pytest.mark.parametrize("kernel", ["math", "sdpa"])
def test_causal_attention(benchmark, kernel, length):
    benchmark.group = f"attention L={length}"
    torch.manual_seed(0)
    shape = (TOKENS // length, HEADS, length, WIDTH // HEADS)
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    benchmark(run_backward(lambda q, k, v: causal_attention(q, k, v, kernel), inputs))


@pytest.mark.parametrize("length", [64, 256, 1024, 4096])
def test_linear_recurrence(benchmark, length):
    benchmark.group = f"recurrence L={length}"
    torch.manual_seed(0)
    b = torch.randn(2 * WIDTH, 2, TOKENS // length, length, requires_grad=True)
    log_modulus = (-torch.rand(2 * WIDTH)).requires_grad_()
    angle = torch.rand(2 * WIDTH, requires_grad=True)
    benchmark(run_backward(linear_recurrence, [b, log_modulus, angle]))
