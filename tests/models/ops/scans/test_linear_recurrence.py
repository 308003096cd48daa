import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.lrurec import LRURec, LRURecConfig
from models.ops.build import native
from models.ops.scans.complex_diagonal import linear_recurrence, recurrence_operations


def naive(b, log_modulus, angle):
    """h_t = λ h_{t−1} + b_t, one step after the other in complex128."""
    driven = b[:, 0].numpy() + 1j * b[:, 1].numpy()
    factor = np.exp(log_modulus.numpy() + 1j * angle.numpy())[:, None]
    h, out = np.zeros(driven.shape[:2], dtype=complex), np.zeros(driven.shape, dtype=complex)
    for t in range(driven.shape[2]):
        h = factor * h + driven[..., t]
        out[..., t] = h
    return np.stack([out.real, out.imag], axis=1)


def in_torch(*arguments, **options):
    with native.suspended():
        return linear_recurrence(*arguments, **options)


def draw(states, batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(states, 2, batch, length, generator=generator)
    log_modulus, angle = -0.3 * torch.rand(states, generator=generator), 6.28 * torch.rand(states, generator=generator)
    # Values that float32 holds exactly, so that both precisions see the same λ.
    return b.double(), log_modulus.double(), angle.double()


@settings(max_examples=60)
@given(length=st.integers(1, 300), chunk=st.sampled_from([2, 3, 5, 16, 32]))
def test_agrees_with_the_loop(length, chunk):
    b, log_modulus, angle = draw(3, 2, length)
    expected = naive(b, log_modulus, angle)
    np.testing.assert_allclose(linear_recurrence(b, log_modulus, angle, chunk=chunk).numpy(), expected, atol=1e-10)
    for run in (linear_recurrence, in_torch):
        single = run(b.float(), log_modulus.float(), angle.float(), chunk=chunk)
        np.testing.assert_allclose(single.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 9, 21])
def test_gradients(length):
    inputs = [v.requires_grad_() for v in draw(2, 2, length)]
    assert torch.autograd.gradcheck(lambda *v: linear_recurrence(*v, chunk=3), inputs)


def in_autograd(b, log_modulus, angle):
    """The loop in complex128, for its gradients."""
    factor = torch.polar(log_modulus.exp(), angle)[:, None]
    h, states = torch.zeros_like(b[:, 0, :, 0]) + 0j, []
    for t in range(b.shape[3]):
        h = factor * h + torch.complex(b[:, 0, :, t], b[:, 1, :, t])
        states.append(h)
    return torch.view_as_real(torch.stack(states, 2)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("states_last", [False, True])
@pytest.mark.parametrize(("states", "batch", "length"), [(3, 2, 1), (3, 2, 2), (5, 1, 300), (130, 3, 40)])
def test_gradients_agree_with_the_loop(states, batch, length, states_last):
    inputs = [v.requires_grad_() for v in draw(states, batch, length)]
    weights = draw(states, batch, length, seed=1)[0]
    wanted = torch.autograd.grad((weights * in_autograd(*inputs)).sum(), inputs)
    for run, dtype, tolerance in (
        (linear_recurrence, torch.float64, 1e-10),
        (linear_recurrence, torch.float32, 1e-5),
        (in_torch, torch.float32, 1e-5),
    ):
        b, *factors = (v.to(dtype) for v in inputs)
        if states_last:
            b = b.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
        found = torch.autograd.grad((weights * run(b, *factors)).sum(), inputs)
        for left, right in zip(found, wanted, strict=True):
            scale = max(float(right.abs().max()), 1.0)
            torch.testing.assert_close(left, right, atol=tolerance * scale, rtol=0)


@pytest.mark.skipif(native.build().library is None, reason=native.status())
@pytest.mark.parametrize("threads", [1, 2])
def test_the_model_is_the_same_natively_and_in_torch(threads):
    torch.manual_seed(0)
    model = LRURec(LRURecConfig(num_items=20, max_length=64, hidden_size=40)).eval()
    items = torch.randint(1, 21, (3, 50))
    assert model.backends() == {"recurrence": "native-scan"}
    before = torch.get_num_threads()
    results = []
    try:
        torch.set_num_threads(threads)
        hidden = model(items)
        results.append([hidden, *torch.autograd.grad(hidden[:, ::2].cos().sum(), list(model.parameters()))])
        with native.suspended():
            assert model.backends() == {"recurrence": "chunked-scan"}
            hidden = model(items)
            results.append([hidden, *torch.autograd.grad(hidden[:, ::2].cos().sum(), list(model.parameters()))])
    finally:
        torch.set_num_threads(before)
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4 * float(right.detach().abs().max()), rtol=0)


@pytest.mark.parametrize("log_modulus", [0.0, -(2.0**-13), -20.0])
def test_stable_over_long_sequences(log_modulus):
    b, _, angle = draw(4, 1, 20_000)
    moduli = torch.full((4,), log_modulus, dtype=torch.float64)
    expected = naive(b, moduli, angle)
    for run in (linear_recurrence, in_torch):
        h = run(b.float(), moduli.float(), angle.float())
        np.testing.assert_allclose(h.numpy(), expected, atol=2e-5 * np.abs(expected).max())


def test_cost_is_linear():
    per_step = [recurrence_operations(length) / length for length in (1 << 10, 1 << 14, 1 << 20)]
    assert max(per_step) / min(per_step) < 1.05


def test_errors_name_the_value():
    b, log_modulus, angle = draw(3, 2, 5)
    with pytest.raises(ValueError, match="b must be"):
        linear_recurrence(b[:, :1], log_modulus, angle)
    with pytest.raises(ValueError, match="angle"):
        linear_recurrence(b, log_modulus, angle[:2])
    with pytest.raises(ValueError, match="chunk 1"):
        linear_recurrence(b, log_modulus, angle, chunk=1)
