"""Operators one by one, at 65,536 positions a batch and 64 channels, one thread.

Not part of the test suite: `make bench` runs them and saves the run under its commit, `make bench-compare
A=COMMIT B=COMMIT` sets two commits side by side. Each runs by itself: to compare backends,
use `python -m harness bench`, which times them alternately. Set the allocator as the harness does
(harness/run/supervisor.py, KEEP_BLOCKS), or page faults are timed.

Beside the times, `extra_info` holds predicted operations and bytes of a call
(models/ops/convolution/cost.py).
"""

import pytest
import torch

from harness.measure.operator.workloads import attention, convolution, inputs
from models.ops.convolution.cost import bytes_moved, operations
from models.ops.scans.complex_diagonal import linear_recurrence

TOKENS, WIDTH, HEADS = 65_536, 64, 2
LENGTHS = [2**n for n in range(6, 17)]
LONGEST = {"fft": 65_536, "tree": 65_536, "dense": 512, "sdpa": 8192}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def note(benchmark, backend, length, order, pass_):
    size = {"batch": TOKENS // length, "length": length, "channels": WIDTH, "order": order}
    size["backward"] = pass_ == "forward_backward"
    benchmark.group = f"{pass_} L={length} K={order}"
    benchmark.extra_info["operations"] = operations(backend, **size)
    benchmark.extra_info["bytes"] = bytes_moved(backend, **size)


def run(benchmark, call):
    """Five calls after three that are not counted: the first ones touch fresh memory."""
    call()
    benchmark.pedantic(call, rounds=5, warmup_rounds=2)


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("order", [8, 16, 32])
@pytest.mark.parametrize("backend", ["fft", "tree", "dense"])
def test_convolution(benchmark, backend, order, length, pass_):
    if length > LONGEST[backend]:
        pytest.skip("the Toeplitz product is O(L²)")
    data = inputs(
        batch=TOKENS // length, length=length, channels=WIDTH, order=order, layout="channel_major", device=CPU
    )
    try:
        data.apply(backend)
    except ValueError as error:
        pytest.skip(str(error))
    note(benchmark, backend, length, order, pass_)
    run(benchmark, convolution(data, backend, pass_))


@pytest.mark.parametrize("pass_", ["forward", "forward_backward"])
@pytest.mark.parametrize("length", LENGTHS)
def test_causal_attention(benchmark, length, pass_):
    if length > LONGEST["sdpa"]:
        pytest.skip("attention is O(L²)")
    note(benchmark, "sdpa", length, 16, pass_)
    run(
        benchmark,
        attention(batch=TOKENS // length, length=length, channels=WIDTH, heads=HEADS, device=CPU, pass_=pass_),
    )


@pytest.mark.parametrize("length", [64, 256, 1024, 4096])
def test_linear_recurrence(benchmark, length):
    benchmark.group = f"recurrence L={length}"
    torch.manual_seed(0)
    b = torch.randn(2 * WIDTH, 2, 8192 // length, length, requires_grad=True)
    log_modulus = (-torch.rand(2 * WIDTH)).requires_grad_()
    angle = torch.rand(2 * WIDTH, requires_grad=True)
    leaves = (b, log_modulus, angle)

    def step():
        for leaf in leaves:
            leaf.grad = None
        linear_recurrence(*leaves).sum().backward()

    run(benchmark, step)
