import io
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.convolution.streams.legendre import LegendreStream, convolution_stream
from models.ops.convolution.streams.ring import RingStream
from models.ops.legendre.taps import ExplicitKernel, LegendreKernel
from models.streaming import clone, numbers, select, stack


def kernel(window, order=4, channels=3, dtype=torch.float64, decay=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(channels, order, generator=generator, dtype=torch.float64)
    skip = torch.randn(channels, generator=generator, dtype=torch.float64)
    rates = torch.logspace(-1, -math.log10(window) - 1, channels, dtype=torch.float64) if decay else None
    return LegendreKernel(coefficients.to(dtype), window, None if rates is None else rates.to(dtype), skip.to(dtype))


def history(channels, batch, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, batch, length, generator=generator, dtype=torch.float64)


def direct(x, kernel):
    """`[D, B, L]`: the sum over lags inside the window, float64, as one Toeplitz matrix a channel."""
    length = x.shape[2]
    taps = torch.zeros(len(x), length, dtype=torch.float64)
    count = min(length, kernel.window)
    taps[:, :count] = kernel.taps(count)
    if kernel.skip is not None:
        taps[:, 0] += kernel.skip
    lags = torch.arange(length)[:, None] - torch.arange(length)
    matrix = taps[:, lags.clamp(min=0)] * (lags >= 0)
    return x @ matrix.transpose(1, 2)


def transformed(x, kernel):
    """`direct` by a float64 FFT, for long streams."""
    size = 2 * x.shape[2]
    taps = kernel.taps(min(x.shape[2], kernel.window)).clone()
    if kernel.skip is not None:
        taps[:, 0] += kernel.skip
    spectrum = torch.fft.rfft(x, n=size) * torch.fft.rfft(taps, n=size)[:, None]
    return torch.fft.irfft(spectrum, n=size)[:, :, : x.shape[2]]


def run(stream, x, state=None):
    state = stream.start(x.shape[1]) if state is None else state
    outputs = [stream.step(x[:, :, t].t(), state) for t in range(x.shape[2])]
    return torch.stack(outputs, 2).transpose(0, 1) if outputs else x


def error(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


def plain(state):
    """The state with tensors as nested lists, so that two states compare."""
    if isinstance(state, torch.Tensor):
        return [list(state.shape), state.tolist()]
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, list) else state


@settings(max_examples=60)
@given(
    window=st.integers(1, 70),
    chunk=st.integers(1, 9),
    order=st.integers(1, 7),
    batch=st.integers(1, 3),
    length=st.integers(1, 200),
    decay=st.booleans(),
)
def test_any_window_chunk_and_length(window, chunk, order, batch, length, decay):
    own, x = kernel(window, order, decay=decay), history(3, batch, length)
    expected = direct(x, own)
    assert error(run(LegendreStream(own, chunk=chunk), x), expected) < 1e-11
    assert error(run(LegendreStream(own, chunk=chunk, limit=length), x), expected) < 1e-11
    assert error(run(RingStream(own), x), expected) < 1e-12


@settings(max_examples=40)
@given(
    window=st.integers(1, 70),
    chunk=st.integers(1, 9),
    cut=st.integers(0, 150),
    rest=st.integers(1, 40),
    limited=st.booleans(),
)
def test_prefill_leaves_the_state_that_stepping_leaves(window, chunk, cut, rest, limited):
    own, x = kernel(window), history(3, 2, cut + rest)
    limit = cut + rest if limited else None
    expected = direct(x, own)[:, :, cut:]
    for stream in (LegendreStream(own, chunk=chunk, limit=limit), RingStream(own, limit=limit)):
        stepped = stream.start(2)
        run(stream, x[:, :, :cut], stepped)
        state = stream.prefill(x[:, :, :cut])
        assert error(run(stream, x[:, :, cut:], clone(state)), expected) < 1e-11
        assert state["age"] == stepped["age"] == cut
        assert numbers(state) == numbers(stepped)


@pytest.mark.parametrize(
    ("window", "length"), [(1000, 2100), (1024, 2100), (2048, 2048), (4099, 9000)], ids=lambda n: str(n)
)
@pytest.mark.parametrize("order", [16, 32])
def test_float32_error_without_growth(window, length, order):
    exact, x = kernel(window, order), history(3, 1, length)
    expected = transformed(x, exact)
    found = run(LegendreStream(kernel(window, order, dtype=torch.float32)), x.float())
    assert found.dtype == torch.float32
    assert error(found, expected) < 3e-6
    first, last = ((found - expected)[:, :, part].abs().max() for part in (slice(0, 500), slice(length - 500, None)))
    assert last < 10 * first


def test_order_64_on_a_prime_window():
    own, x = kernel(4099, 64, decay=False), history(3, 1, 4400)
    assert error(run(LegendreStream(own), x), transformed(x, own)) < 1e-11
    rounded = kernel(4099, 64, dtype=torch.float32, decay=False)
    assert error(run(LegendreStream(rounded), x.float()), transformed(x, own)) < 3e-6


def test_explicit_taps():
    values = history(3, 1, 11)[:, 0]
    x = history(3, 2, 40)
    own = ExplicitKernel(values, skip=torch.ones(3, dtype=torch.float64))
    assert error(run(convolution_stream(own), x), direct(x, own)) < 1e-13


def test_the_faster_stream_is_taken():
    assert isinstance(convolution_stream(kernel(512)), RingStream)
    assert isinstance(convolution_stream(kernel(513)), LegendreStream)
    assert isinstance(convolution_stream(kernel(5000), limit=400), RingStream)
    assert isinstance(convolution_stream(ExplicitKernel(torch.ones(2, 5000))), RingStream)


def test_state_stays_small_up_to_the_window_and_bounded_beyond():
    own = kernel(8192, 16, channels=2, dtype=torch.float32)
    limited = LegendreStream(own, limit=8192)
    state, most = limited.start(1), 0
    x = torch.randn(8192, 1, 2)
    for t in range(8192):
        limited.step(x[t], state)
        most = max(most, numbers(state) // 2)
    # 2C + 2J log₂(W/C) with C = 64, J = 16, and a ring holds 8,192.
    assert most <= 128 + 2 * 16 * 7
    endless = LegendreStream(own)
    sizes = [numbers(endless.prefill(torch.zeros(2, 1, n))) // 2 for n in (8192, 16384, 32768, 32768 + 4096)]
    assert max(sizes) <= 8192 * (1 + 2 * 16 / 64) + 1024
    assert sizes[1] == sizes[2]


def test_states_are_plain_and_survive_a_file():
    stream, x = LegendreStream(kernel(50), chunk=4), history(3, 2, 90)
    state = stream.start(2)
    run(stream, x[:, :, :61], state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert plain(loaded) == plain(state)
    assert torch.equal(run(stream, x[:, :, 61:], loaded), run(stream, x[:, :, 61:], state))


@pytest.mark.parametrize("make", [lambda k: LegendreStream(k, chunk=4), RingStream])
def test_users_of_equal_age_can_be_picked_and_joined(make):
    own, x = kernel(50), history(3, 4, 90)
    stream = make(own)
    parts = [stream.prefill(x[:, :1, :61]), stream.prefill(x[:, 1:, :61])]
    mixed = select(stack(parts), [3, 0, 0])
    assert error(run(stream, x[:, [3, 0, 0], 61:], mixed), direct(x, own)[:, [3, 0, 0], 61:]) < 1e-11
    with pytest.raises(ValueError, match="equal age"):
        stack([stream.prefill(x[:, :, :61]), stream.prefill(x[:, :, :62])])
    with pytest.raises(ValueError, match="no state"):
        stack([])


def test_a_copy_is_a_copy():
    stream, x = LegendreStream(kernel(50), chunk=4), history(3, 2, 30)
    state = stream.prefill(x[:, :, :21])
    before = plain(state)
    run(stream, x[:, :, 21:], clone(state))
    assert plain(state) == before


@pytest.mark.parametrize("make", [LegendreStream, RingStream])
def test_the_limit_is_kept(make):
    stream = make(kernel(50), limit=6)
    x = history(3, 1, 7)
    run(stream, x[:, :, :6], state := stream.start(1))
    with pytest.raises(ValueError, match="limit of 6 events"):
        stream.step(x[:, :, 6].t(), state)
    with pytest.raises(ValueError, match="limit of 6 events"):
        stream.prefill(x)
    with pytest.raises(ValueError, match="limit 0"):
        make(kernel(50), limit=0)


@pytest.mark.parametrize("decay", [-0.1, float("inf")])
def test_a_decay_that_no_kernel_has_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be ≥ 0 and finite"):
        LegendreStream(LegendreKernel(torch.ones(1, 2), 50, torch.tensor([decay])))


@pytest.mark.slow
def test_an_event_costs_the_same_after_a_thousand_and_after_sixty_thousand():
    stream = LegendreStream(kernel(65536, 16, channels=64, dtype=torch.float32))
    x = torch.randn(64, 1, 60000)
    states = [stream.prefill(x[:, :, :n]) for n in (1000, 60000)]
    event = torch.randn(1, 64)

    def seconds(state):
        begin = time.perf_counter()
        for _ in range(256):
            stream.step(event, state)
        return time.perf_counter() - begin

    # The least of interleaved rounds: a shared machine only ever adds time.
    times = [[seconds(state) for state in states] for _ in range(12)]
    assert min(t[1] for t in times) <= 1.3 * min(t[0] for t in times)
