import numpy as np
import pytest
import torch

from models.ops.attention import causal_attention, picked_backend


def naive(query, key, value):
    out = np.zeros(value.shape)
    batch, heads, length, width = query.shape
    for b, h, t in np.ndindex(batch, heads, length):
        scores = key[b, h, : t + 1] @ query[b, h, t] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, h, t] = weights @ value[b, h, : t + 1] / weights.sum()
    return out


def draw(length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("kernel", ["math", "sdpa"])
@pytest.mark.parametrize("length", [1, 2, 17, 64, 131])
def test_agrees_with_the_definition(kernel, length):
    inputs = draw(length)
    expected = naive(*(v.numpy() for v in inputs))
    np.testing.assert_allclose(causal_attention(*inputs, kernel).numpy(), expected, atol=1e-12)
    single = causal_attention(*(v.float() for v in inputs), kernel)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


def test_kernels_agree_in_gradients():
    results = []
    for kernel in ("math", "sdpa"):
        inputs = [v.requires_grad_() for v in draw(65, torch.float32)]
        causal_attention(*inputs, kernel).square().sum().backward()
        results.append([v.grad for v in inputs])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_picked_backend_is_the_one_that_ran():
    inputs = draw(64, torch.float32)
    picked = picked_backend(*inputs)
    with torch.profiler.profile() as profile:
        causal_attention(*inputs, "sdpa")
    ran = {event.key for event in profile.key_averages()}
    assert any(picked in key for key in ran if "scaled_dot_product" in key), (picked, ran)


def test_unknown_kernel():
    with pytest.raises(ValueError, match="'flash3'; legal: math, sdpa"):
        causal_attention(*draw(4), "flash3")
