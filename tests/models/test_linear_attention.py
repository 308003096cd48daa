import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.linear_attention import chunking, linear_attention


def naive(query, key, value):
    """One state after the other in float64: S += φ(k) vᵀ, z += φ(k), o = φ(q)ᵀS / φ(q)ᵀz."""

    def features(x):
        return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))

    q, k = features(query), features(key)
    batch, heads, length, width = query.shape
    out = np.zeros(value.shape)
    for b, h in np.ndindex(batch, heads):
        state, normaliser = np.zeros((width, width)), np.zeros(width)
        for t in range(length):
            state += np.outer(k[b, h, t], value[b, h, t])
            normaliser += k[b, h, t]
            out[b, h, t] = q[b, h, t] @ state / (q[b, h, t] @ normaliser)
    return out


def draw(length, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 150), chunk=st.sampled_from([1, 2, 7, 16, 64]))
def test_agrees_with_the_loop(length, chunk):
    inputs = draw(length)
    expected = naive(*(v.numpy() for v in inputs))
    # The normaliser's own floor, 1e-6, is the largest difference.
    np.testing.assert_allclose(linear_attention(*inputs, chunk=chunk).numpy(), expected, atol=2e-6)
    single = linear_attention(*(v.float() for v in inputs), chunk=chunk)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3, 4, 5, 11])
def test_gradients(length):
    inputs = [v.requires_grad_() for v in draw(length, width=3)]
    assert torch.autograd.gradcheck(lambda *v: linear_attention(*v, chunk=4), inputs)


def test_stays_accurate_over_long_sequences():
    inputs = [v[:1, :1] for v in draw(9_000)]
    expected = naive(*(v.numpy() for v in inputs))
    np.testing.assert_allclose(linear_attention(*(v.float() for v in inputs)).numpy(), expected, atol=2e-5)
    half = linear_attention(*(v.bfloat16() for v in inputs))
    assert half.dtype == torch.bfloat16
    np.testing.assert_allclose(half.float().numpy(), expected, atol=0.04)


def test_features_that_vanish_divide_by_no_zero():
    query, key, value = draw(9, dtype=torch.float32)
    mixed = linear_attention(query - 200, key - 200, value)
    assert bool(torch.isfinite(mixed).all())


@pytest.mark.parametrize(("length", "expected"), [(1, (1, 1)), (64, (1, 64)), (65, (2, 33)), (200, (4, 50))])
def test_chunks_are_even(length, expected):
    assert chunking(length) == expected


def test_errors_name_the_value():
    query, key, value = draw(5)
    with pytest.raises(ValueError, match=r"\[2, 3, 5, 4\]"):
        linear_attention(query, key, value[..., :4])
    with pytest.raises(ValueError, match="chunk 0"):
        linear_attention(query, key, value, chunk=0)
