import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import legendre as numpy_legendre

from models.ops.build import native
from models.ops.convolution import causal as ops
from models.ops.legendre.taps import ExplicitKernel, LegendreKernel

BACKENDS = ("fft", "tree", "dense")
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
    return ops.causal_convolution(x, LegendreKernel(coefficients, window, decay, skip), **options)


def relative_error(y, expected):
    return np.abs(y.detach().double().numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25)
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


def test_backends_agree_in_gradients():
    results = []
    for backend in BACKENDS:
        inputs = [v.requires_grad_() for v in draw(3, 4, 61, 16, dtype=torch.float32)]
        y = convolve(*inputs, window=61, backend=backend)
        y.square().sum().backward()
        results.append([y, *(v.grad for v in inputs)])
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.detach().abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_kernel_at_every_length(backend):
    x, coefficients, decay, skip = draw(2, 3, 150, 6)
    whole = convolve(x, coefficients, decay, skip, window=164, backend="fft")
    for length in (1, 2, 31, 149):
        part = convolve(x[..., :length], coefficients, decay, skip, window=164, backend=backend)
        torch.testing.assert_close(part, whole[..., :length])


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_layouts_mean_the_same(backend):
    x, coefficients, decay, skip = draw(3, 2, 90, 5)
    expected = convolve(x, coefficients, decay, skip, window=70, backend=backend).permute(1, 2, 0)
    found = convolve(
        x.permute(1, 2, 0), coefficients, decay, skip, window=70, backend=backend, layout="batch_length_channel"
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["fft", "dense", "auto"])
def test_free_taps(backend):
    x, taps, _, skip = draw(2, 3, 40, 9)
    expected = np.stack([np.stack([np.convolve(row, h)[:40] for row in rows]) for rows, h in zip(x, taps, strict=True)])
    expected += skip.numpy()[:, None, None] * x.numpy()
    y = ops.causal_convolution(x, ExplicitKernel(taps, skip), backend=backend)
    assert relative_error(y, expected) < 1e-12


def test_stays_exact_under_autocast():
    inputs = draw(3, 4, 200, 8, dtype=torch.float32)
    for backend in BACKENDS:
        expected = convolve(*inputs, window=200, backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(convolve(*inputs, window=200, backend=backend), expected)


def test_returns_the_type_of_its_input():
    x, *rest = draw(2, 2, 99, 3, dtype=torch.float32)
    for backend in BACKENDS:
        assert convolve(x.bfloat16(), *rest, window=99, backend=backend).dtype == torch.bfloat16


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_fourier_length_holds_the_convolution_and_is_smooth(length, taps):
    n = ops.fourier_length(length, taps)
    assert n >= length + taps - 1
    assert n % 2 == 0
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    assert n == 1


@pytest.mark.parametrize("kind", ["native", "torch"])
def test_auto_follows_length_order_and_kernel(kind, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: object() if kind == "native" else None)
    limit = ops.DENSE_MAX_LENGTH["cpu"]
    assert ops.select_backend("auto", limit, CPU) == "dense"
    assert ops.select_backend("auto", limit + 1, CPU) == "tree"
    for least, most in ops.TREE_MAX_ORDER[kind].items():
        length = max(least, limit + 1)
        assert ops.select_backend("auto", length, CPU, LegendreKernel(torch.zeros(1, most), length)) == "tree"
        assert ops.select_backend("auto", length, CPU, LegendreKernel(torch.zeros(1, most + 1), length)) == "fft"
    assert ops.select_backend("auto", limit + 1, CPU, ExplicitKernel(torch.zeros(1, 9))) == "fft"


def test_auto_asks_for_a_batch_that_pays():
    """A small batch goes through the FFT; sizes as in tests/benchmarks/backends.py, where the two draw level."""

    def chosen(length, order, batch):
        return ops.select_backend("auto", length, CPU, LegendreKernel(torch.zeros(1, order), length), batch)

    assert [chosen(64, 16, batch) for batch in (15, 16)] == ["fft", "dense"]
    assert [chosen(128, 16, batch) for batch in (16, 17)] == ["fft", "tree"]
    assert [chosen(1024, 10, batch) for batch in (3, 4)] == ["fft", "tree"]
    assert [chosen(8192, 32, batch) for batch in (1, 2)] == ["fft", "tree"]
    # 200 events are no whole number of blocks.
    assert [chosen(200, 16, batch) for batch in (20, 21)] == ["fft", "tree"]
    assert ops.select_backend("auto", 128, torch.device("cuda"), batch=1) == "dense"


def test_errors_name_the_value():
    x, coefficients, decay, skip = draw(2, 2, 8, 3)
    with pytest.raises(ValueError, match="'nonsense'; legal: auto, fft, tree, dense"):
        convolve(x, coefficients, decay, skip, window=8, backend="nonsense")
    with pytest.raises(ValueError, match="layout 'blc'"):
        convolve(x, coefficients, decay, skip, window=8, layout="blc")
    with pytest.raises(ValueError, match="decay must be ≥ 0"):
        convolve(x, coefficients, -decay, skip, window=8)
    with pytest.raises(ValueError, match="decay must be"):
        convolve(x, coefficients[:1], decay, skip[:1], window=8)
    with pytest.raises(ValueError, match="2 channels as the kernel"):
        convolve(x[:1], coefficients, decay, skip, window=8)
    with pytest.raises(ValueError, match="skip"):
        convolve(x, coefficients, decay, skip[:1], window=8)
    with pytest.raises(ValueError, match="x must have 3 dimensions"):
        convolve(x[0], coefficients, decay, skip, window=8)
    with pytest.raises(ValueError, match="window 0"):
        convolve(x, coefficients, decay, skip, window=0)
    with pytest.raises(ValueError, match="needs a LegendreKernel, got ExplicitKernel"):
        ops.causal_convolution(x, ExplicitKernel(coefficients), backend="tree")
    with pytest.raises(ValueError, match="9 taps asked for, legal: 1 … 8"):
        LegendreKernel(coefficients, 8).taps(9)


def test_types_that_would_lose_digits_are_refused():
    x, coefficients, decay, _ = draw(2, 2, 8, 3)
    kernel = LegendreKernel(coefficients, 8)
    for wrong in (x.long(), x.to(torch.complex64)):
        with pytest.raises(ValueError, match=r"x is of type torch.*legal: float32"):
            ops.causal_convolution(wrong, kernel)
    with pytest.raises(ValueError, match=r"coefficients is of type torch\.int64"):
        LegendreKernel(coefficients.long(), 8)
    with pytest.raises(ValueError, match=r"taps is of type torch\.int64"):
        ExplicitKernel(coefficients.long())
    with pytest.raises(ValueError, match="decay must be ≥ 0 and finite, got nan"):
        ops.causal_convolution(x, LegendreKernel(coefficients, 8, decay * float("nan")))


@pytest.mark.parametrize("rate", [float("inf"), 1e300])
def test_a_decay_that_is_infinite_in_float32_is_refused(rate):
    x, coefficients, decay, _ = draw(2, 2, 8, 3)
    with pytest.raises(ValueError, match=r"got 0.5 … inf; .* for the tap at lag 0 alone use window=1"):
        ops.causal_convolution(x, LegendreKernel(coefficients, 8, decay.new_tensor([0.5, rate])))
    alone = LegendreKernel(coefficients, 1, decay)
    torch.testing.assert_close(ops.causal_convolution(x, alone), x * alone.taps(1)[:, :, None])
