import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.linear_recurrence import linear_recurrence, recurrence_operations


def naive(b, log_modulus, angle):
    """h_t = λ h_{t−1} + b_t, one step after the other in complex128."""
    driven = b[:, 0].numpy() + 1j * b[:, 1].numpy()
    factor = np.exp(log_modulus.numpy() + 1j * angle.numpy())[:, None]
    h, out = np.zeros(driven.shape[:2], dtype=complex), np.zeros(driven.shape, dtype=complex)
    for t in range(driven.shape[2]):
        h = factor * h + driven[..., t]
        out[..., t] = h
    return np.stack([out.real, out.imag], axis=1)


def draw(states, batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(states, 2, batch, length, generator=generator)
    log_modulus, angle = -0.3 * torch.rand(states, generator=generator), 6.28 * torch.rand(states, generator=generator)
    # Values that float32 holds exactly, so that both precisions see the same λ.
    return b.double(), log_modulus.double(), angle.double()


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 300), chunk=st.sampled_from([2, 3, 5, 16, 32]))
def test_agrees_with_the_loop(length, chunk):
    b, log_modulus, angle = draw(3, 2, length)
    expected = naive(b, log_modulus, angle)
    np.testing.assert_allclose(linear_recurrence(b, log_modulus, angle, chunk=chunk).numpy(), expected, atol=1e-10)
    single = linear_recurrence(b.float(), log_modulus.float(), angle.float(), chunk=chunk)
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 9, 21])
def test_gradients(length):
    inputs = [v.requires_grad_() for v in draw(2, 2, length)]
    assert torch.autograd.gradcheck(lambda *v: linear_recurrence(*v, chunk=3), inputs)


@pytest.mark.parametrize("log_modulus", [0.0, -(2.0**-13), -20.0])
def test_stable_over_long_sequences(log_modulus):
    b, _, angle = draw(4, 1, 20_000)
    moduli = torch.full((4,), log_modulus, dtype=torch.float64)
    expected = naive(b, moduli, angle)
    h = linear_recurrence(b.float(), moduli.float(), angle.float())
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
