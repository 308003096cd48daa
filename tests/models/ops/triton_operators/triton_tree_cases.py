"""Cases of models/ops/legendre/triton.py, run by test_triton_tree.py in a process of their own."""

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from triton_support import DEVICE, repair_interpreter

from models.ops.legendre import triton as triton_tree
from models.ops.legendre.taps import ExplicitKernel, LegendreKernel

if DEVICE.type == "cpu":
    repair_interpreter()


def naive(x, coefficients, window, decay, skip):
    """By float64 FFT, with taps evaluated by numpy."""
    length = x.shape[2]
    lags = np.arange(length)
    table = legendre.legvander(2 * lags / max(window - 1, 1) - 1, coefficients.shape[1] - 1)
    taps = coefficients @ torch.from_numpy(table.T.copy()).to(x.device)
    if decay is not None:
        taps = taps * torch.exp(-decay[:, None] * torch.from_numpy(lags).to(x.device))
    n = 2 * length
    y = torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(taps, n)[:, None], n)[..., :length]
    return y if skip is None else y + skip[:, None, None] * x


def tree(x, coefficients, window, decay, skip):
    return triton_tree.triton_tree_convolution(x, LegendreKernel(coefficients, window, decay, skip))


def draw(channels, batch, length, order, *, decays=True, skip=True):
    generator = torch.Generator().manual_seed(length + order)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(channels, batch, length),
        normal(channels, order),
        normal(channels).abs() * (4 / length) if decays else None,
        normal(channels) if skip else None,
    )


def results(function, inputs, window, device, dtype, x_dtype):
    """The output and all gradients for a random outer gradient."""
    leaves = [None if tensor is None else tensor.to(device, dtype, copy=True).requires_grad_() for tensor in inputs]
    leaves[0] = inputs[0].to(device, x_dtype, copy=True).requires_grad_()
    y = function(leaves[0], leaves[1], window, leaves[2], leaves[3])
    outer = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(outer.to(torch.bfloat16).to(device, y.dtype))
    return [y.detach().double()] + [leaf.grad.double() for leaf in leaves if leaf is not None]


def errors(inputs, window, x_dtype=torch.float32):
    got = results(tree, inputs, window, DEVICE, torch.float32, x_dtype)
    expected = results(naive, inputs, window, DEVICE, torch.float64, torch.float64)
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]


@pytest.mark.parametrize("order", [4, 16])
@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize(("batch", "length", "window"), [(3, 32, 32), (3, 128, 1000), (5, 400, 400), (2, 1024, 1024)])
def test_agrees_with_the_definition(batch, length, window, order, decays):
    assert max(errors(draw(2, batch, length, order, decays=decays), window)) <= 1e-5


@pytest.mark.parametrize(
    ("batch", "length", "order"),
    [
        (70, 64, 4),  # Several rows a program, and programs that are not full.
        (9, 96, 1),
        (2, 600, 33),  # C = 75: tiles are padded in time, moments to 64.
        (1, 32, 40),  # More polynomials than events in a chunk.
        (2, 1016, 64),
    ],
)
def test_odd_shapes(batch, length, order):
    assert max(errors(draw(2, batch, length, order), length)) <= 1e-5


def test_long_sequences():
    assert max(errors(draw(1, 2, 8192, 16), 8192)) <= 1e-5


def test_no_extrapolation_at_full_order():
    # A kernel evaluated outside its window would lose every digit at K = 64.
    assert max(errors(draw(1, 1, 4096, 64, decays=False, skip=False), 4096)) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    inputs = draw(2, 3, 256, 8)
    inputs = (inputs[0].to(dtype).double(), *inputs[1:])
    y, x, *parameters = errors(inputs, 256, dtype)
    assert max(y, x) <= torch.finfo(dtype).eps / 2
    assert max(parameters) <= 1e-5


def test_chunks():
    assert [triton_tree.chunk_size(length) for length in (32, 64, 128, 600, 1024, 65536, 96)] == [
        16, 32, 64, 75, 64, 64, 48,
    ]  # fmt: skip
    assert [triton_tree.chunk_size(length) for length in (1, 31, 63, 4099, 65, 262)] == [None] * 6


def test_supports():
    kernel = LegendreKernel(torch.zeros(2, 16), 1024)
    assert triton_tree.supports(1024, kernel)
    assert triton_tree.supports(96, kernel, torch.bfloat16)
    assert not triton_tree.supports(2048, kernel)
    assert not triton_tree.supports(1023, kernel)
    assert not triton_tree.supports(1024, kernel, torch.float64)
    assert not triton_tree.supports(1024, LegendreKernel(torch.zeros(2, 65), 1024))
    assert not triton_tree.supports(1024, ExplicitKernel(torch.zeros(2, 1024)))


@pytest.mark.parametrize("shape", [(2, 3, 1023), (2, 3, 2048), (3, 3, 1024), (2, 1024)])
def test_rejects(shape):
    with pytest.raises(ValueError, match="is not supported; legal"):
        triton_tree.triton_tree_convolution(torch.zeros(shape), LegendreKernel(torch.zeros(2, 16), 1024))


def test_empty_batch():
    got = results(tree, draw(2, 0, 64, 4), 64, DEVICE, torch.float32, torch.float32)
    assert [tuple(tensor.shape) for tensor in got] == [(2, 0, 64), (2, 0, 64), (2, 4), (2,), (2,)]
    assert not any(tensor.any() for tensor in got)
