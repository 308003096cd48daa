"""The tree against the sum over lags, term by term in float64, in torch and natively."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre as numpy_legendre

from models.ops import legendre_basis, legendre_tree, legendre_tree_native, native
from models.ops.causal_convolution import causal_convolution
from models.ops.kernels import LegendreKernel
from models.ops.legendre_tree import CHUNK, legendre_tree_convolution

IMPLEMENTATIONS = ["torch", "native"]
LENGTHS = st.one_of(
    st.integers(1, 2 * CHUNK + 2),
    st.sampled_from([191, 193, 256, 257, 300, 384, 449, 509, 640, 641]),
)


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    calls, forward = [], legendre_tree_native.forward
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.build().library is None:
        pytest.skip(native.status())
    monkeypatch.setattr(legendre_tree_native, "forward", lambda *given: calls.append(1) or forward(*given))
    yield request.param
    assert bool(calls) == (request.param == "native")


def draw(channels, batch, length, order, window, decay=True, seed=0):
    """Inputs as float32 rounds them, in float64."""
    generator = torch.Generator().manual_seed(seed)
    x, gradient = (torch.randn(channels, batch, length, generator=generator) for _ in range(2))
    coefficients, skip = torch.randn(channels, order, generator=generator), torch.randn(channels, generator=generator)
    rates = torch.rand(channels, generator=generator) * 3 / min(length, window) if decay else None
    return [None if v is None else v.double() for v in (x, coefficients, rates, skip, gradient)]


def sum_over_lags(x, coefficients, decay, skip, window):
    """Independent of the kernel's own taps: NumPy's Legendre series, one Toeplitz matrix a channel."""
    length = x.shape[2]
    count = min(window, length)
    lags = np.arange(count)
    table = numpy_legendre.legvander(2 * lags / max(window - 1, 1) - 1, coefficients.shape[1] - 1)
    taps = coefficients @ torch.from_numpy(table.T)
    if decay is not None:
        taps = taps * torch.exp(-decay[:, None] * torch.from_numpy(lags))
    taps = torch.nn.functional.pad(taps, (0, length - count))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    matrix = taps[:, distance.clamp(min=0)] * (distance >= 0)
    return torch.einsum("dts,dbs->dbt", matrix, x) + skip[:, None, None] * x


def apply(function, inputs, dtype):
    """The result and the gradient of every input."""
    *leaves, gradient = [None if v is None else v.detach().to(dtype) for v in inputs]
    used = [v.requires_grad_() for v in leaves if v is not None]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, used, gradient.to(dtype))]


def tree(x, coefficients, decay, skip, *, window):
    return legendre_tree_convolution(x, LegendreKernel(coefficients, window, decay, skip))


def errors(found, expected):
    return [float((a.double() - b).norm() / b.norm().clamp(min=1e-300)) for a, b in zip(found, expected, strict=True)]


def assert_within(found, expected, output, parameters):
    all_errors = errors(found, expected)
    assert max(all_errors[:2]) <= output, all_errors
    assert max(all_errors[2:]) <= parameters, all_errors


@settings(max_examples=60, deadline=None)
@given(
    length=LENGTHS,
    order=st.one_of(st.integers(1, 20), st.sampled_from([31, 32, 33, 48, 64])),
    part=st.one_of(st.none(), st.floats(0.05, 1.5)),
    decay=st.booleans(),
    name=st.sampled_from(["torch", *(["native"] if native.build().library is not None else [])]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_sum_over_lags(length, order, part, decay, name, seed):
    window = length if part is None else max(1, round(part * length))
    inputs = draw(2, 2, length, order, window, decay, seed)
    expected = apply(functools.partial(sum_over_lags, window=window), inputs, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        if name == "torch":
            patch.setattr(native, "library", lambda: None)
            double = apply(functools.partial(tree, window=window), inputs, torch.float64)
            assert_within(double, expected, 1e-11, 1e-11)
        single = apply(functools.partial(tree, window=window), inputs, torch.float32)
        runs = legendre_tree_native.supports(inputs[0].float(), min(length, window), order)
        assert runs == (name == "native" and min(length, window) > CHUNK)
    assert_within(single, expected, 1e-6, 5e-6)


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize(("length", "window"), [(9973, 9973), (8192, 3000), (9000, 4099)])
def test_long_ragged_and_windowed_rows(implementation, length, window, decay):
    """Several rows whose upper levels have short nodes, with and without the segment before."""
    inputs = draw(2, 3, length, 16, window, decay)

    def fourier(x, coefficients, decay, skip):
        return causal_convolution(x, LegendreKernel(coefficients, window, decay, skip), backend="fft", check=False)

    expected = apply(fourier, inputs, torch.float64)
    assert_within(apply(functools.partial(tree, window=window), inputs, torch.float32), expected, 1e-6, 5e-6)


@pytest.mark.parametrize("order", [1, 16, 64])
@pytest.mark.parametrize("length", [4096, 4099, 9973, 65536])
def test_long_sequences_against_the_float64_fourier_transform(implementation, length, order):
    inputs = draw(2, 1, length, order, length)

    def fourier(x, coefficients, decay, skip):
        return causal_convolution(x, LegendreKernel(coefficients, length, decay, skip), backend="fft", check=False)

    expected = apply(fourier, inputs, torch.float64)
    assert_within(apply(functools.partial(tree, window=length), inputs, torch.float32), expected, 1e-6, 5e-6)
    if implementation == "torch":
        assert_within(apply(functools.partial(tree, window=length), inputs, torch.float64), expected, 1e-11, 1e-11)


@pytest.mark.parametrize(("length", "window"), [(1, 1), (70, 70), (150, 150), (150, 131), (200, 90), (140, 3)])
@pytest.mark.parametrize("decay", [True, False])
def test_gradients(length, window, decay, monkeypatch, request):
    # Small chunks, so that few samples have several levels; geometries are kept by length alone.
    monkeypatch.setattr(legendre_tree, "CHUNK", 8)
    monkeypatch.setattr(native, "library", lambda: None)
    legendre_tree._geometry.cache_clear()
    request.addfinalizer(legendre_tree._geometry.cache_clear)
    length, window = -(-length // 8), -(-window // 8)
    *inputs, _ = draw(1, 2, length, 3, window, decay)
    used = [v.requires_grad_() for v in inputs if v is not None]

    def run(x, coefficients, *rest):
        return tree(x, coefficients, *(rest if decay else (None, *rest)), window=window)

    assert torch.autograd.gradcheck(run, used)


def test_far_beyond_the_window_nothing_is_extrapolated(implementation):
    """At K = 64 polynomials a little beyond the window are above 1e6."""
    inputs = draw(2, 1, 2000, 64, 257)
    expected = apply(functools.partial(sum_over_lags, window=257), inputs, torch.float64)
    assert_within(apply(functools.partial(tree, window=257), inputs, torch.float32), expected, 1e-6, 5e-6)


def test_fast_decay_keeps_its_gradient(implementation):
    """Decay over a few events in a long sequence: distances are large, what they carry is tiny."""
    inputs = draw(2, 1, 8192, 16, 8192)
    inputs[2] = torch.tensor([0.5, 0.05], dtype=torch.float64)

    def fourier(x, coefficients, decay, skip):
        return causal_convolution(x, LegendreKernel(coefficients, 8192, decay, skip), backend="fft", check=False)

    expected = apply(fourier, inputs, torch.float64)
    assert_within(apply(functools.partial(tree, window=8192), inputs, torch.float32), expected, 1e-6, 5e-6)


def test_without_skip_and_without_gradients(implementation):
    x, coefficients, decay, skip, _ = draw(2, 2, 300, 5, 300)
    with torch.no_grad():
        found = legendre_tree_convolution(x.float(), LegendreKernel(coefficients.float(), 300, decay.float()))
    expected = sum_over_lags(x, coefficients, decay, torch.zeros_like(skip), 300)
    assert errors([found], [expected])[0] < 1e-6


def test_only_the_input_needs_a_gradient(implementation):
    inputs = draw(2, 2, 300, 5, 300)
    x = inputs[0].float().requires_grad_()
    y = tree(x, *(v.float() for v in inputs[1:4]), window=300)
    (found,) = torch.autograd.grad(y, x, inputs[4].float())
    expected = apply(functools.partial(sum_over_lags, window=300), inputs, torch.float64)[1]
    assert errors([found], [expected])[0] < 1e-6


def test_two_threads_give_the_same_bits(monkeypatch):
    if native.build().library is None:
        pytest.skip(native.status())
    inputs, before = draw(5, 2, 700, 16, 700), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(apply(functools.partial(tree, window=700), inputs, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_runs_compiled(implementation):
    inputs = draw(2, 2, 200, 5, 200)

    def convolve(x, coefficients, decay, skip):
        return causal_convolution(2 * x, LegendreKernel(coefficients, 200, decay, skip), backend="tree") / 2

    compiled = torch.compile(convolve, backend="eager")
    found = apply(compiled, inputs, torch.float32)
    assert_within(found, apply(functools.partial(sum_over_lags, window=200), inputs, torch.float64), 1e-6, 5e-6)


@pytest.mark.parametrize(("samples", "order"), [(1, 1), (5, 8), (64, 64), (65, 64), (70, 64), (300, 33)])
def test_bases_are_orthonormal_and_restrictions_exact(samples, order):
    own, parent = legendre_basis.basis(samples, order), legendre_basis.basis(2 * samples, order)
    np.testing.assert_allclose(own.T @ own, np.eye(own.shape[1]), atol=1e-12)
    half = legendre_basis.restriction(2 * samples, samples, samples, order)
    np.testing.assert_allclose(parent[samples:], own @ half.T, atol=1e-11)
    assert np.linalg.norm(half, 2) <= 1 + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 50), st.integers(0, 30))
def test_coupling_is_the_polynomial_of_the_lag(sources, targets, order, gap, slack):
    window = gap + sources + targets + slack
    found = legendre_basis.coupling(sources, targets, order, window, gap)
    lags = gap + sources + np.arange(targets)[:, None] - np.arange(sources)
    expected = numpy_legendre.legvander(2 * lags / max(window - 1, 1) - 1, order - 1)
    q, r = legendre_basis.basis(targets, order), legendre_basis.basis(sources, order)
    np.testing.assert_allclose(np.einsum("ik,klm,jl->ijm", q, found, r, optimize=True), expected, atol=1e-10)


def test_lags_outside_the_window_are_refused():
    with pytest.raises(ValueError, match="inside the kernel's window of 10 events"):
        legendre_basis.coupling(8, 8, 4, 10)
