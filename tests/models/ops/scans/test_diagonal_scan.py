import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import install

from models.mingru import MinGRU, MinGRUConfig
from models.ops.build import native
from models.ops.scans import diagonal as module
from models.ops.scans.diagonal import CHUNK, DIRECT, diagonal_scan, fused_diagonal_scan, scan, scan_operations


def naive(a, b):
    """h_t = a_t h_{t−1} + b_t, one step after the other in float64."""
    a, b = a.double().numpy(), b.double().numpy()
    h, out = np.zeros_like(b[:, 0]), np.zeros_like(b)
    for t in range(b.shape[1]):
        h = a[:, t] * h + b[:, t]
        out[:, t] = h
    return out


def in_torch(a, b):
    with native.suspended():
        return diagonal_scan(a, b)


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Values that float32 holds exactly, so that both precisions see the same factors.
    return torch.rand(shape, generator=generator).double(), torch.randn(shape, generator=generator).double()


@settings(max_examples=60)
@given(length=st.integers(1, 3 * DIRECT * CHUNK), seed=st.integers(0, 5))
def test_agrees_with_the_loop(length, seed):
    a, b = draw((2, length, 3), seed)
    expected = naive(a, b)
    np.testing.assert_allclose(diagonal_scan(a, b).numpy(), expected, atol=1e-11)
    for run in (diagonal_scan, in_torch):
        single = run(a.float(), b.float()).numpy()
        np.testing.assert_allclose(single, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 2, DIRECT, DIRECT + 1, DIRECT + CHUNK + 3])
def test_gradients(length):
    inputs = [v.requires_grad_() for v in draw((2, length, 2))]
    assert torch.autograd.gradcheck(diagonal_scan, inputs)


@pytest.mark.parametrize("length", [1, 2, 700])
@pytest.mark.parametrize("width", [1, 3, 150])
def test_gradients_agree_with_the_loop(length, width):
    a, b = (v.requires_grad_() for v in draw((2, length, width)))
    weights = draw((2, length, width), seed=1)[1]
    expected = torch.zeros_like(b[:, 0])
    total = 0.0
    for t in range(length):
        expected = a[:, t] * expected + b[:, t]
        total = total + (weights[:, t] * expected).sum()
    wanted = torch.autograd.grad(total, (a, b))
    for run, dtype, tolerance in ((diagonal_scan, torch.float64, 1e-11), (diagonal_scan, torch.float32, 3e-6)):
        found = torch.autograd.grad((weights * run(a.to(dtype), b.to(dtype))).sum(), (a, b))
        for left, right in zip(found, wanted, strict=True):
            scale = max(float(right.abs().max()), 1.0)
            torch.testing.assert_close(left, right, atol=tolerance * scale, rtol=0)


@pytest.mark.skipif(native.build().library is None, reason=native.status())
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 40, 130), (1, 9, 2, 5)])
def test_native_and_torch_agree_with_any_number_of_threads(shape, threads):
    before = torch.get_num_threads()
    results = []
    try:
        torch.set_num_threads(threads)
        for run in (diagonal_scan, in_torch):
            # Not contiguous, as a half of a projection.
            inputs = [torch.cat((v, v), -1).float()[..., : shape[-1]].requires_grad_() for v in draw(shape)]
            h = run(*inputs)
            results.append([h, *torch.autograd.grad(h.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [5, DIRECT + 5, 300])
def test_starts_from_a_state_in_either_direction_and_in_place(length, reverse):
    a, b = draw((2, length, 3))
    state = torch.randn(2, 3, dtype=torch.float64)
    steps = (a.flip(1), b.flip(1)) if reverse else (a, b)
    first = torch.cat((torch.ones_like(state)[:, None], steps[0]), 1), torch.cat((state[:, None], steps[1]), 1)
    expected = naive(*first)[:, 1:]
    out = b.clone()
    scan(a, out, state, out, reverse=reverse)
    np.testing.assert_allclose((out.flip(1) if reverse else out).numpy(), expected, atol=1e-11)


@pytest.mark.parametrize("factor", [0.0, 1e-30, 1.0 - 2.0**-20, 1.0])
def test_stable_over_long_sequences(factor):
    _, b = draw((1, 20_000, 2))
    a = torch.full_like(b, factor)
    expected = naive(a, b)
    for run in (diagonal_scan, in_torch):
        h = run(a.float(), b.float())
        np.testing.assert_allclose(h.numpy(), expected, atol=3e-5 * np.abs(expected).max())


def test_keeps_float32_under_autocast():
    a, b = (v.float() for v in draw((2, 50, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(diagonal_scan(a, b), diagonal_scan(a.clone(), b.clone()))
        half = diagonal_scan(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.float().numpy(), naive(a.bfloat16(), b.bfloat16()), rtol=0.01, atol=0.01)


def test_cost_is_linear():
    per_step = [scan_operations(length) / length for length in (1 << 10, 1 << 14, 1 << 20)]
    assert max(per_step) / min(per_step) < 1.05


def test_vector_operations_grow_with_the_logarithm_of_the_length():
    counts = []
    for length in (1 << 10, 1 << 16):
        a, b = torch.rand(1, length, 1), torch.rand(1, length, 1)
        with torch.profiler.profile() as profile:
            in_torch(a, b)
        counts.append(sum(event.count for event in profile.key_averages() if event.key.startswith("aten::addcmul")))
    assert counts[1] < 3 * counts[0], counts


def test_errors_name_the_value():
    a, b = draw((2, 5, 3))
    with pytest.raises(ValueError, match=r"\[2, 4, 3\]"):
        diagonal_scan(a[:, :4], b)
    with pytest.raises(ValueError, match="L ≥ 1"):
        diagonal_scan(a[:, :0], b[:, :0])


@pytest.fixture
def fla(monkeypatch):
    """A stand-in with the package's signature: the input, then the logarithm of the gate, `[B, T, D]`; a pair back."""
    calls = []

    def chunk_hgrn(x, g, initial_state=None, output_final_state=False):
        assert initial_state is None
        calls.append((tuple(x.shape), x.dtype, g.dtype))
        h, states = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = g[:, t].exp() * h + x[:, t]
            states.append(h)
        return torch.stack(states, 1), h if output_final_state else None

    install(monkeypatch, "fla.ops.hgrn", chunk_hgrn)
    return calls


def test_the_fused_kernel_gets_logarithms(fla):
    a, b = draw((2, 9, 3))
    h = fused_diagonal_scan(a.log(), b)
    assert h.dtype == torch.float64
    torch.testing.assert_close(h, diagonal_scan(a, b), atol=1e-5, rtol=0)
    assert fused_diagonal_scan(a.bfloat16().log(), b.bfloat16()).dtype == torch.bfloat16
    assert fla == 2 * [((2, 9, 3), torch.float32, torch.float32)]


def test_the_fused_kernel_is_for_gpus_and_named(fla, monkeypatch):
    config = {"num_items": 9, "max_length": 8, "hidden_size": 8}
    model = MinGRU(MinGRUConfig(**config)).eval()
    assert model.backends() == {"recurrence": "chunked-scan" if native.library() is None else "native-scan"}
    with native.suspended():
        assert model.backends() == {"recurrence": "chunked-scan"}
    items = torch.tensor([[1, 2, 3]])
    expected = model(items)
    wanted = torch.autograd.grad(expected.cos().sum(), list(model.parameters()))
    assert not fla
    assert not module.fused_is_available(torch.device("cpu"))
    assert module.fused_is_available(torch.device("cuda"))
    monkeypatch.setattr("models.mingru.fused_is_available", lambda device: True)
    assert model.backends() == {"recurrence": "fla"}
    hidden = model(items)
    torch.testing.assert_close(hidden, expected)
    for left, right in zip(torch.autograd.grad(hidden.cos().sum(), list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)
    assert len(fla) == 2
    assert MinGRU(MinGRUConfig(**config, scan="chunked")).backends() != {"recurrence": "fla"}


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
def test_agrees_on_a_gpu(fused):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if fused:
        pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    inputs = [v.requires_grad_() for v in draw((2, 700, 40))]
    expected = diagonal_scan(*inputs)
    wanted = torch.autograd.grad(expected.cos().sum(), inputs)
    a, b = (v.detach().float().cuda().requires_grad_() for v in inputs)
    h = fused_diagonal_scan(a.log(), b) if fused else diagonal_scan(a, b)
    found = torch.autograd.grad(h.cos().sum(), (a, b))
    for left, right in zip((h, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(left.cpu().double(), right, atol=1e-4 * float(right.detach().abs().max()), rtol=0)
