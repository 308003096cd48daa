import math

import numpy as np
import pytest
import torch

from models.ops.attention import pointwise as ops
from models.ops.attention.pointwise import pointwise_attention, time_buckets, weights_computed


def bucket(seconds, largest):
    return min(math.floor(math.log(max(1, abs(seconds))) / 0.301), largest)


def naive(query, key, value, position_bias, time_bias=None, timestamps=None):
    out = np.zeros(value.shape)
    batch, heads, length, _ = query.shape
    for b, h, i in np.ndindex(batch, heads, length):
        for j in range(i + 1):
            score = query[b, h, i] @ key[b, h, j] + position_bias[i - j]
            if time_bias is not None:
                score += time_bias[bucket(int(timestamps[b, i] - timestamps[b, j]), len(time_bias) - 1)]
            out[b, h, i] += score / (1 + np.exp(-score)) * value[b, h, j]
    return out


def draw(length, width=4, buckets=20, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    gaps = torch.randint(0, 5_000, (2, length), generator=generator)
    streams = [normal(2, 3, length, width) for _ in range(3)]
    return [*streams, normal(length + 3), normal(buckets + 1)], 1_000_000_000 + gaps.cumsum(1)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(ops, "_LEAST_ROWS", 4)
    monkeypatch.setattr(ops, "_MOST_ROWS", 4)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("length", [1, 2, 4, 5, 8, 23])
@pytest.mark.parametrize("timed", [True, False])
def test_agrees_with_the_definition(length, timed):
    inputs, times = draw(length)
    if not timed:
        inputs, times = inputs[:4], None
    arrays = [v.numpy() for v in inputs]
    expected = naive(*arrays, timestamps=times.numpy()) if timed else naive(*arrays)
    np.testing.assert_allclose(pointwise_attention(*inputs, timestamps=times).numpy(), expected, atol=1e-12)
    single = pointwise_attention(*(v.float() for v in inputs), timestamps=times)
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("length", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("timed", [True, False])
def test_gradients(length, timed):
    inputs, times = draw(length, width=2, buckets=6)
    inputs = [v.requires_grad_() for v in (inputs if timed else inputs[:4])]
    assert torch.autograd.gradcheck(lambda *v: pointwise_attention(*v, timestamps=times if timed else None), inputs)


def explicit(query, key, value, position_bias, time_bias, times):
    length = query.shape[2]
    lags = torch.arange(length)[:, None] - torch.arange(length)
    scores = query @ key.transpose(2, 3) + position_bias[lags.clamp(min=0)]
    scores = scores + time_bias[time_buckets(times[:, :, None], times[:, None], len(time_bias) - 1)][:, None]
    return (torch.nn.functional.silu(scores) * (lags >= 0)) @ value


def test_chunks_of_the_real_size_agree_with_the_whole_matrix():
    results = []
    for function in (pointwise_attention, explicit):
        inputs, times = draw(300)
        inputs = [v.requires_grad_() for v in inputs]
        out = function(*inputs, times)
        out.square().mean().backward()
        results.append([out, *(v.grad for v in inputs)])
    for chunked, whole in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-12)


def test_half_precision_stays_near():
    inputs, times = draw(200)
    exact = pointwise_attention(*inputs, times)
    half = pointwise_attention(*(v.bfloat16() for v in inputs[:3]), inputs[3].float(), inputs[4].float(), times)
    assert half.dtype == torch.bfloat16
    assert float((half.double() - exact).norm() / exact.norm()) < 0.02


def test_the_backward_pass_keeps_no_square_matrix():
    inputs, times = draw(2048)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        pointwise_attention(*(v.requires_grad_() for v in inputs), times)
    assert max(kept) <= inputs[0].numel()


@pytest.mark.parametrize("seconds", [0, 1, 2, 59, 3_600, 86_400, 31_536_000, 2**31 - 1])
def test_buckets(seconds):
    for first, second in ((seconds, 0), (0, seconds)):
        found = time_buckets(torch.tensor([first]), torch.tensor([second]), 60)
        assert found.tolist() == [bucket(seconds, 60)]


def test_without_timestamps_the_table_by_time_is_left_out():
    inputs, _ = draw(9)
    assert torch.equal(pointwise_attention(*inputs), pointwise_attention(*inputs[:4]))


@pytest.mark.parametrize("length", [1, 100, 128, 1024, 8192, 65_536])
def test_half_of_the_weights_and_little_more_is_computed(length):
    triangle = length * (length + 1) / 2
    assert triangle <= weights_computed(length) <= triangle * 1.15 + 128 * length / 2


def test_errors_name_the_value():
    inputs, times = draw(6)
    with pytest.raises(ValueError, match=r"\[2, 3, 6, 3\]"):
        pointwise_attention(inputs[0], inputs[1], inputs[2][..., :3], inputs[3])
    with pytest.raises(ValueError, match=r"n ≥ 6, got \[5\]"):
        pointwise_attention(*inputs[:3], inputs[3][:5])
    with pytest.raises(ValueError, match=r"\[2, 6\], got \[2, 5\]"):
        pointwise_attention(*inputs, times[:, :5])
