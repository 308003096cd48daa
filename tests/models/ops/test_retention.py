import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from models.ops.attention.retention import last_state, retention, retention_operations
from models.ops.build import native


def naive(query, key, value, log_decay):
    """One state after the other in float64: S = exp(g) S + k vᵀ, o = Sᵀ q."""
    batch, heads, length, width = query.shape
    g = np.broadcast_to(log_decay if log_decay.ndim == 3 else log_decay[:, None], (batch, heads, length))
    out = np.zeros(value.shape)
    states = np.zeros((batch, heads, width, value.shape[3]))
    for b, h in np.ndindex(batch, heads):
        for t in range(length):
            states[b, h] = np.exp(g[b, h, t]) * states[b, h] + np.outer(key[b, h, t], value[b, h, t])
            out[b, h, t] = query[b, h, t] @ states[b, h]
    return out, states


def draw(length, by_step, width=5, values=7, strength=1.0):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    decay = -strength * torch.rand((2, 3, length) if by_step else (3,), generator=generator, dtype=torch.float64)
    return [normal(2, 3, length, width), normal(2, 3, length, width), normal(2, 3, length, values), decay]


@settings(max_examples=40)
@given(length=st.integers(1, 150), chunk=st.sampled_from([1, 2, 7, 16, 64]), by_step=st.booleans())
def test_agrees_with_the_loop(length, chunk, by_step):
    inputs = draw(length, by_step)
    expected, _ = naive(*(v.numpy() for v in inputs))
    np.testing.assert_allclose(retention(*inputs, chunk=chunk).numpy(), expected, atol=1e-11)
    single = retention(*(v.float() for v in inputs), chunk=chunk)
    np.testing.assert_allclose(single.numpy(), expected, atol=5e-6 * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4, 5, 11])
def test_gradients(length, by_step):
    inputs = [v.requires_grad_() for v in draw(length, by_step, width=2, values=3)]
    assert torch.autograd.gradcheck(lambda *v: retention(*v, chunk=4), inputs)


def in_autograd(query, key, value, log_decay):
    """The loop in torch, for its gradients."""
    decay = (log_decay if log_decay.dim() == 3 else log_decay[None, :, None].expand(query.shape[:3])).exp()
    state, outputs = 0, []
    for t in range(query.shape[2]):
        state = decay[:, :, t, None, None] * state + key[:, :, t, :, None] * value[:, :, t, None, :]
        outputs.append((query[:, :, t, None, :] @ state)[:, :, 0])
    return torch.stack(outputs, 2)


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (64, 64), (65, 64), (150, 64), (300, 4)])
def test_gradients_agree_with_the_loop(length, chunk, by_step):
    inputs = [v.requires_grad_() for v in draw(length, by_step)]
    weights = torch.randn(inputs[2].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    wanted = torch.autograd.grad((weights * in_autograd(*inputs)).sum(), inputs)
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        mixed = retention(*(v.to(dtype) for v in inputs), chunk=chunk)
        found = torch.autograd.grad((weights * mixed).sum(), inputs)
        for left, right in zip(found, wanted, strict=True):
            torch.testing.assert_close(left, right, atol=tolerance * max(float(right.abs().max()), 1.0), rtol=0)


@pytest.mark.parametrize("strength", [0.0, 1e-4])
def test_stays_accurate_over_long_sequences(strength):
    inputs = [v if v.dim() == 1 else v[:1, :1] for v in draw(9_000, by_step=False, strength=strength)]
    inputs[3] = inputs[3][:1]
    expected, _ = naive(*(v.numpy() for v in inputs))
    single = retention(*(v.float() for v in inputs))
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-5 * np.abs(expected).max())


def test_a_step_that_forgets_everything_costs_its_neighbours_no_digits():
    inputs = draw(100, by_step=True, strength=0.1)
    inputs[3][:, :, ::9] = -1e7
    expected, _ = naive(*(v.numpy() for v in inputs))
    for chunk in (16, 64):
        mixed = retention(*(v.float() for v in inputs), chunk=chunk)
        np.testing.assert_allclose(mixed.numpy(), expected, atol=5e-5 * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 3, 70])
def test_the_last_state_goes_on(length):
    query, key, value, decay = draw(length + 1, by_step=False)
    state = last_state(key[:, :, :length], value[:, :, :length], decay)
    past = [v[:, :, :length].numpy() for v in (query, key, value)]
    np.testing.assert_allclose(state.numpy(), naive(*past, decay.numpy())[1], atol=1e-12)
    state = decay.exp()[:, None, None] * state + key[:, :, -1, :, None] * value[:, :, -1, None, :]
    whole = retention(query, key, value, decay)[:, :, -1]
    torch.testing.assert_close((query[:, :, -1, None, :] @ state)[:, :, 0], whole)


def test_half_precision_stays_near():
    inputs = draw(300, by_step=False, strength=0.05)
    exact = retention(*inputs)
    half = retention(*(v.bfloat16() for v in inputs[:3]), inputs[3].float())
    assert half.dtype == torch.bfloat16
    assert float((half.double() - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("length", [40, 64, 65, 500, 4_096])
@pytest.mark.parametrize("by_step", [False, True])
def test_declared_operations_are_those_counted(length, by_step):
    query, key, value, decay = (v.float() for v in draw(length, by_step, width=8, values=16))
    counts = {torch.ops.aten.addcmul: lambda *_, out_shape, **__: 2 * int(np.prod(out_shape))}
    with native.suspended(), FlopCounterMode(display=False, custom_mapping=counts) as counter:
        retention(query, key, value, decay)
    assert counter.get_total_flops() == pytest.approx(6 * retention_operations(length, 8, 16), rel=0.03)


def test_errors_name_the_value():
    query, key, value, decay = draw(5, by_step=False)
    with pytest.raises(ValueError, match=r"\[2, 3, 5, 4\]"):
        retention(query, key[..., :4], value, decay)
    with pytest.raises(ValueError, match=r"\[3\] or \[2, 3, 5\], got \[2\]"):
        retention(query, key, value, decay[:2])
    with pytest.raises(ValueError, match="chunk 0"):
        retention(query, key, value, decay, chunk=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("by_step", [False, True])
def test_agrees_on_a_gpu(by_step):
    inputs = [v.requires_grad_() for v in draw(300, by_step, width=16, values=32)]
    expected = in_autograd(*inputs)
    wanted = torch.autograd.grad(expected.cos().sum(), inputs)
    moved = [v.detach().float().cuda().requires_grad_() for v in inputs]
    mixed = retention(*moved)
    found = torch.autograd.grad(mixed.cos().sum(), moved)
    for left, right in zip((mixed, *found), (expected, *wanted), strict=True):
        torch.testing.assert_close(left.cpu().double(), right, atol=5e-3 * float(right.detach().abs().max()), rtol=0)
