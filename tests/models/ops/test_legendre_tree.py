"""The tree against the sum over lags, term by term in float64, in torch and natively."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre as numpy_legendre

from models.ops.build import native
from models.ops.convolution.causal import causal_convolution
from models.ops.legendre import basis as legendre_basis
from models.ops.legendre import geometry as legendre_tree_geometry
from models.ops.legendre import native as legendre_tree_native
from models.ops.legendre import tree as legendre_tree
from models.ops.legendre.geometry import CHUNK, tree_geometry
from models.ops.legendre.maps import chunk_line, fold, tree_constants
from models.ops.legendre.taps import LegendreKernel
from models.ops.legendre.tree import legendre_tree_convolution

IMPLEMENTATIONS = ["torch", "native"]
# A gradient is a sum whose terms may cancel by chance, and of what is left then no float32 method keeps six digits.
# In two channels that happens once in some hundred draws; of 7,000 draws of sixteen the worst error was 1.2e-6.
CHANNELS = 16
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


def polynomials(order, window, length):
    """`[min(W, L), K]`, independent of the kernel's own: NumPy's Legendre series."""
    lags = np.arange(min(window, length))
    return torch.from_numpy(numpy_legendre.legvander(2 * lags / max(window - 1, 1) - 1, order - 1))


def faded(taps, decay):
    return taps if decay is None else taps * torch.exp(-decay[:, None] * torch.arange(taps.shape[1]))


def toeplitz(taps, length):
    """`[D, L, L]`, target by source, one matrix a channel."""
    taps = torch.nn.functional.pad(taps, (0, length - taps.shape[1]))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return taps[:, distance.clamp(min=0)] * (distance >= 0)


def sum_over_lags(x, coefficients, decay, skip, window):
    length = x.shape[2]
    taps = faded(coefficients @ polynomials(coefficients.shape[1], window, length).T, decay)
    return torch.einsum("dts,dbs->dbt", toeplitz(taps, length), x) + skip[:, None, None] * x


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


@settings(max_examples=60)
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
    inputs = draw(CHANNELS, 2, length, order, window, decay, seed)
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


@pytest.mark.parametrize(("length", "window"), [(65, 65), (127, 200), (509, 509), (641, 801), (900, 300)])
@pytest.mark.parametrize("order", [8, 16, 64])
def test_sixty_four_channels(implementation, length, window, order):
    """As many as HyenaRec has by default: chance cancels in one of them or other, never in all."""
    inputs = draw(64, 2, length, order, window, seed=8)

    def fourier(x, coefficients, decay, skip):
        return causal_convolution(x, LegendreKernel(coefficients, window, decay, skip), backend="fft", check=False)

    expected = apply(fourier, inputs, torch.float64)
    assert_within(apply(functools.partial(tree, window=window), inputs, torch.float32), expected, 1e-6, 5e-6)


@pytest.mark.parametrize("backend", ["fft", "tree", "dense"])
def test_a_batch_of_no_sequences(backend):
    _, coefficients, decay, skip, _ = draw(2, 1, 200, 5, 200)
    inputs = [torch.empty(2, 0, 200), coefficients, decay, skip, torch.empty(2, 0, 200)]

    def convolve(x, coefficients, decay, skip):
        return causal_convolution(x, LegendreKernel(coefficients, 200, decay, skip), backend=backend)

    y, *gradients = apply(convolve, inputs, torch.float32)
    assert y.shape == (2, 0, 200)
    assert not any(gradient.any() for gradient in gradients)


def test_no_memory_for_the_states_is_said(monkeypatch):
    if native.build().library is None:
        pytest.skip(native.status())
    script = """
import resource, torch
from models.ops.build import native
from models.ops.legendre.taps import LegendreKernel
from models.ops.legendre.tree import legendre_tree_convolution
kernel = LegendreKernel(torch.ones(1, 16), 4096)
legendre_tree_convolution(torch.ones(1, 1, 4096), kernel)
x = torch.ones(1, 512, 4096)
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + (13 << 20), -1))
try:
    legendre_tree_convolution(x, kernel)
except MemoryError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "no memory for the states of 512 rows" in run.stdout, run


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
    monkeypatch.setattr(legendre_tree_geometry, "CHUNK", 8)
    monkeypatch.setattr(native, "library", lambda: None)
    legendre_tree_geometry.tree_geometry.cache_clear()
    request.addfinalizer(legendre_tree_geometry.tree_geometry.cache_clear)
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
    inputs = draw(64, 1, 8192, 16, 8192)
    inputs[2] = torch.logspace(-0.3, -1.3, 64, dtype=torch.float64)

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


@pytest.mark.parametrize("length", [700, 704])
def test_two_threads_give_the_same_bits(length):
    """Of the native operator itself: torch's small products before it may differ by the number of threads."""
    if native.build().library is None:
        pytest.skip(native.status())
    x, coefficients, decay, _, gradient = (v.float() for v in draw(5, 2, length, 16, length))
    kernel, geometry = LegendreKernel(coefficients, length, decay), tree_geometry(length, 16, length)
    constants = tree_constants(geometry, False, torch.float32, x.device)
    parts = (constants.whole, constants.short) if geometry.ragged else (constants.whole,)
    maps = [m.contiguous() for part in parts for m in fold(kernel, part, constants.events)]
    line = chunk_line(kernel, geometry, constants, False)
    missing = geometry.chunks * geometry.chunk - length
    chunks, outer = (torch.nn.functional.pad(v, (0, missing)).view(5, 2, geometry.chunks, -1) for v in (x, gradient))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            y = legendre_tree_native.forward(chunks, line, geometry, 0, maps)
            found = legendre_tree_native.backward(chunks, outer, line, geometry, 0, maps, True)
            results.append([y, found.x, found.line, *found.maps])
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


def matrix(coefficients, window, length, tolerance):
    """The operator's matrix, in float64: its answer to an impulse at every place."""
    with torch.no_grad():
        kernel = LegendreKernel(coefficients, window)
        impulses = torch.eye(length, dtype=torch.float64)[None]
        return causal_convolution(impulses, kernel, backend="tree", tolerance=tolerance)[0]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize(("order", "window", "length"), [(16, 1024, 1024), (64, 1024, 1000), (32, 512, 1100)])
def test_what_the_ranks_leave_out_is_below_the_tolerance(order, window, length, tolerance):
    coefficients = torch.randn(1, order, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, found = (matrix(coefficients, window, length, t) for t in (0.0, tolerance))
    below = (found - exact)[torch.ones(length, length, dtype=torch.bool).triu()]
    assert 0 < float(below.square().mean().sqrt()) <= tolerance * float(coefficients.abs().sum())
    ranks = [level.rank for level in tree_geometry(min(window, length), order, window, tolerance).levels]
    assert ranks[0] < ranks[-1] <= order
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(("length", "window"), [(4096, 4096), (4099, 4099), (3000, 1100)])
@pytest.mark.parametrize("order", [16, 48, 64])
def test_ranks_cost_no_more_than_rounding_at_the_tolerance_of_float32(implementation, length, window, order):
    inputs = draw(64, 1, length, order, window)

    def convolve(x, coefficients, decay, skip, **options):
        return causal_convolution(x, LegendreKernel(coefficients, window, decay, skip), check=False, **options)

    expected = apply(functools.partial(convolve, backend="fft"), inputs, torch.float64)
    found = apply(functools.partial(convolve, backend="tree", tolerance=1e-7), inputs, torch.float32)
    assert_within(found, expected, 1e-6, 5e-6)


def test_ranks_are_cut_in_torch_and_natively(implementation, monkeypatch):
    seen = []
    module = legendre_tree_native if implementation == "native" else legendre_tree
    name = "_problem" if implementation == "native" else "_sweep"
    original = getattr(module, name)

    def spy(*given):
        seen.append(next(a for a in given if isinstance(a, legendre_tree_geometry.Geometry)))
        return original(*given)

    monkeypatch.setattr(module, name, spy)
    x = torch.randn(1, 1, 4096)
    causal_convolution(x, LegendreKernel(torch.randn(1, 64), 4096), backend="tree", tolerance=1e-7)
    ranks = [level.rank for level in seen[0].levels]
    assert (ranks[0], ranks[-1]) == ((16, 64) if implementation == "native" else (15, 53))


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance must be ≥ 0, got -1"):
        causal_convolution(torch.ones(1, 1, 4), LegendreKernel(torch.ones(1, 2), 4), tolerance=-1)


@pytest.mark.parametrize(("samples", "order"), [(1, 1), (5, 8), (64, 64), (65, 64), (70, 64), (300, 33)])
def test_bases_are_orthonormal_and_restrictions_exact(samples, order):
    own, parent = legendre_basis.basis(samples, order), legendre_basis.basis(2 * samples, order)
    np.testing.assert_allclose(own.T @ own, np.eye(own.shape[1]), atol=1e-12)
    half = legendre_basis.restriction(2 * samples, samples, samples, order)
    np.testing.assert_allclose(parent[samples:], own @ half.T, atol=1e-11)
    assert np.linalg.norm(half, 2) <= 1 + 1e-12


@settings(max_examples=30)
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
