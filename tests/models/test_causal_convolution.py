import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre as numpy_legendre

from models.ops import causal_convolution as ops

BACKENDS = ("fft", "dense")
CPU = torch.device("cpu")


def naive(x, coefficients, decay, skip, window):
    """y_d[t] = Σ_{s≤t} h_d(t−s) x_d[s] + D_d x_d[t], term by term in float64."""
    channels, batch, length = x.shape
    y = np.zeros(x.shape)
    for d in range(channels):
        taps = np.zeros(length)
        for lag in range(min(window, length)):
            point = 2 * lag / (window - 1) - 1 if window > 1 else -1.0
            taps[lag] = np.exp(-decay[d] * lag) * numpy_legendre.legval(point, coefficients[d])
        taps[0] += skip[d]
        for b in range(batch):
            for t in range(length):
                y[d, b, t] = taps[: t + 1] @ x[d, b, t::-1]
    return y


def draw(channels, batch, length, order, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return normal(channels, batch, length), normal(channels, order), normal(channels).abs() * 0.05, normal(channels)


def convolve(x, coefficients, decay, skip, window, **options):
    table = ops.legendre_table(coefficients.shape[1], window)
    return ops.legendre_convolution(x, coefficients, decay, skip, table, **options)


def relative_error(y, expected):
    return np.abs(y.detach().double().numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@given(
    length=st.one_of(st.integers(1, 40), st.sampled_from([64, 97, 128, 211, 293])),
    window=st.integers(1, 300),
    order=st.integers(1, 20),
    decays=st.booleans(),
)
def test_agrees_with_the_definition(backend, length, window, order, decays):
    x, coefficients, decay, skip = draw(2, 2, length, order)
    decay = decay if decays else torch.zeros_like(decay)
    expected = naive(x.numpy(), coefficients.numpy(), decay.numpy(), skip.numpy(), window)
    given_decay = decay if decays else None
    exact = convolve(x, coefficients, given_decay, skip, window=window, backend=backend)
    assert relative_error(exact, expected) < 1e-12
    single = [None if v is None else v.float() for v in (x, coefficients, given_decay, skip)]
    assert relative_error(convolve(*single, window=window, backend=backend), expected) < 2e-6


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("length", "window"), [(1, 1), (1, 5), (7, 7), (13, 5), (5, 13), (17, 17)])
@pytest.mark.parametrize("decays", [True, False])
def test_gradients(backend, length, window, decays):
    x, coefficients, decay, skip = draw(2, 2, length, 4)
    inputs = [v.requires_grad_() for v in (x, coefficients, decay, skip)]

    def run(x, coefficients, decay, skip):
        return convolve(x, coefficients, decay if decays else None, skip, window=window, backend=backend, check=False)

    if not decays:
        inputs[2] = decay.detach()
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("length", [16, 101, 1024, 4099])
def test_float32_fourier_error_stays_at_rounding_level(length):
    x, coefficients, decay, skip = draw(4, 2, length, 64, dtype=torch.float32)
    single = convolve(x, coefficients, decay, skip, window=length, backend="fft")
    double = convolve(x.double(), coefficients.double(), decay.double(), skip.double(), window=length, backend="fft")
    assert relative_error(single, double.numpy()) < 2e-6


def test_backends_agree_in_gradients():
    results = []
    for backend in BACKENDS:
        inputs = [v.requires_grad_() for v in draw(3, 4, 61, 16, dtype=torch.float32)]
        y = convolve(*inputs, window=61, backend=backend)
        y.square().sum().backward()
        results.append([y, *(v.grad for v in inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))


def test_the_same_kernel_at_every_length():
    x, coefficients, decay, skip = draw(2, 3, 50, 6)
    whole = convolve(x, coefficients, decay, skip, window=64, backend="fft")
    for length in (1, 2, 31, 49):
        part = convolve(x[..., :length], coefficients, decay, skip, window=64, backend="fft")
        torch.testing.assert_close(part, whole[..., :length])


def test_stays_exact_under_autocast():
    inputs = draw(3, 4, 200, 8, dtype=torch.float32)
    expected = convolve(*inputs, window=200, backend="fft")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolve(*inputs, window=200, backend="fft"), expected)


def test_returns_the_type_of_its_input():
    x, *rest = draw(2, 2, 9, 3, dtype=torch.float32)
    for backend in BACKENDS:
        assert convolve(x.bfloat16(), *rest, window=9, backend=backend).dtype == torch.bfloat16


def test_legendre_table_stays_within_one():
    table = ops.legendre_table(64, 5000)
    assert float(table.abs().max()) <= 1 + 1e-12
    expected = numpy_legendre.legvander(np.linspace(-1, 1, 5000), 63).T
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-11)


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_fourier_length_holds_the_convolution_and_is_smooth(length, taps):
    n = ops.fourier_length(length, taps)
    assert n >= length + taps - 1
    assert n % 2 == 0
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    assert n == 1


def test_auto_follows_the_length():
    limit = ops.DENSE_MAX_LENGTH["cpu"]
    assert ops.select_backend("auto", limit, CPU) == "dense"
    assert ops.select_backend("auto", limit + 1, CPU) == "fft"


def test_errors_name_the_value():
    x, coefficients, decay, skip = draw(2, 2, 8, 3)
    with pytest.raises(ValueError, match="'tree'"):
        convolve(x, coefficients, decay, skip, window=8, backend="tree")
    with pytest.raises(ValueError, match="decay must be ≥ 0"):
        convolve(x, coefficients, -decay, skip, window=8)
    with pytest.raises(ValueError, match="coefficients"):
        convolve(x, coefficients[:1], decay, skip, window=8)
    with pytest.raises(ValueError, match="skip"):
        convolve(x, coefficients, decay, skip[:1], window=8)
    with pytest.raises(ValueError, match="x must be"):
        convolve(x[0], coefficients, decay, skip, window=8)
    with pytest.raises(ValueError, match="window 0"):
        convolve(x, coefficients, decay, skip, window=0)
    with pytest.raises(ValueError, match="table"):
        ops.legendre_convolution(x, coefficients, decay, skip, ops.legendre_table(4, 8))
    with pytest.raises(ValueError, match="weight"):
        ops.short_convolution(x, coefficients[:1])


@pytest.mark.parametrize(("length", "width"), [(1, 1), (1, 3), (2, 3), (9, 3), (9, 1), (5, 8)])
def test_short_convolution(length, width):
    x, weight, _, _ = draw(3, 2, length, width)
    y = ops.short_convolution(x, weight)
    expected = np.zeros(x.shape)
    for j in range(width):
        for t in range(j, length):
            expected[..., t] += weight[:, None, j].numpy() * x[..., t - j].numpy()
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(ops.short_convolution, (x.requires_grad_(), weight.requires_grad_()))
