import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import install

from models.linear_attention import LinearAttention, LinearAttentionConfig
from models.ops.attention import linear as module
from models.ops.attention.linear import chunking, fused_linear_attention, linear_attention


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


@settings(max_examples=40)
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


def in_autograd(query, key, value):
    """The loop in torch, for its gradients."""
    features, keys = (torch.where(x > 0, x + 1, x.clamp(max=0).exp()) for x in (query, key))
    state, normaliser, outputs = 0, 0, []
    for q, k, v in zip(features.unbind(2), keys.unbind(2), value.unbind(2), strict=True):
        state, normaliser = state + k[..., None] * v[..., None, :], normaliser + k
        outputs.append((q[..., None, :] @ state)[..., 0, :] / (q * normaliser).sum(-1, keepdim=True))
    return torch.stack(outputs, 2)


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (64, 64), (65, 64), (150, 64), (40, 7)])
def test_gradients_agree_with_the_loop(length, chunk):
    inputs = [v.requires_grad_() for v in draw(length)]
    weights = torch.randn(inputs[2].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    expected = in_autograd(*inputs)
    np.testing.assert_allclose(expected.detach(), naive(*(v.detach().numpy() for v in inputs)), atol=1e-12)
    wanted = torch.autograd.grad((weights * expected).sum(), inputs)
    # The normaliser's own floor, 1e-6, is the largest difference in float64.
    for dtype, tolerance in ((torch.float64, 5e-6), (torch.float32, 2e-5)):
        mixed = linear_attention(*(v.to(dtype) for v in inputs), chunk=chunk)
        found = torch.autograd.grad((weights * mixed).sum(), inputs)
        for left, right in zip(found, wanted, strict=True):
            torch.testing.assert_close(left, right, atol=tolerance * max(float(right.abs().max()), 1.0), rtol=0)


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


@pytest.fixture
def fla(monkeypatch):
    """A stand-in with the package's signature and layout, `[B, T, H, K]`, and its result, a pair."""
    calls = []

    def chunk_linear_attn(
        q, k, v, scale=None, initial_state=None, output_final_state=False, normalize=True, cu_seqlens=None
    ):
        assert initial_state is None
        assert cu_seqlens is None
        scale = k.shape[-1] ** -0.5 if scale is None else scale
        calls.append((tuple(q.shape), scale, normalize))
        state, outputs = 0, []
        for t in range(q.shape[1]):
            state = state + k[:, t, :, :, None] * v[:, t, :, None]
            outputs.append(scale * (q[:, t, :, None] @ state)[..., 0, :])
        return torch.stack(outputs, 1), state if output_final_state else None

    install(monkeypatch, "fla.ops.linear_attn", chunk_linear_attn)
    return calls


def test_the_fused_kernel_gets_its_own_layout(fla):
    inputs = [v.requires_grad_() for v in draw(9)]
    mixed, expected = fused_linear_attention(*inputs), linear_attention(*inputs)
    torch.testing.assert_close(mixed, expected)
    assert fla == [((2, 9, 3, 6), 1.0, False)]
    wanted = torch.autograd.grad(expected.cos().sum(), inputs)
    for left, right in zip(torch.autograd.grad(mixed.cos().sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(left, right)
    half = fused_linear_attention(*(v.bfloat16() for v in inputs))
    assert half.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"\[2, 3, 9, 4\]"):
        fused_linear_attention(*inputs[:2], inputs[2][..., :4])


def test_the_fused_kernel_is_for_gpus_and_named(fla, monkeypatch):
    config = {"num_items": 9, "max_length": 8, "hidden_size": 8}
    model = LinearAttention(LinearAttentionConfig(**config)).eval()
    assert model.backends() == {"attention": "linear-chunked"}
    items = torch.tensor([[1, 2, 3]])
    expected = model(items)
    assert not fla
    assert not module.fused_is_available(torch.device("cpu"))
    assert module.fused_is_available(torch.device("cuda"))
    monkeypatch.setattr("models.linear_attention.fused_is_available", lambda device: True)
    assert model.backends() == {"attention": "fla"}
    torch.testing.assert_close(model(items), expected)
    assert len(fla) == 2
    own = LinearAttention(LinearAttentionConfig(**config, kernel="chunked"))
    assert own.backends() == {"attention": "linear-chunked"}


@pytest.mark.gpu
@pytest.mark.parametrize("fused", [False, True])
def test_agrees_on_a_gpu(fused):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if fused:
        pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    inputs = [v.requires_grad_() for v in draw(300, width=32)]
    expected = in_autograd(*inputs)
    wanted = torch.autograd.grad(expected.cos().sum(), inputs)
    moved = [v.detach().float().cuda().requires_grad_() for v in inputs]
    mixed = (fused_linear_attention if fused else linear_attention)(*moved)
    found = torch.autograd.grad(mixed.cos().sum(), moved)
    for left, right in zip((mixed, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(left.cpu().double(), right, atol=5e-3 * float(right.detach().abs().max()), rtol=0)
