import sys
import types

import numpy as np
import pytest
import torch
from stand_ins import looks_for

from models.ops.attention import softmax as attention
from models.ops.attention.layer import SelfAttention, attention_backends
from models.ops.attention.softmax import bidirectional_attention, causal_attention, picked_backend, what_runs

KERNELS = ["math", "sdpa", "flash"]


def naive(query, key, value, keep=None):
    """Over the past, or without causality over the keys that `keep` names."""
    out = np.zeros(value.shape)
    batch, heads, length, width = query.shape
    for b, h, t in np.ndindex(batch, heads, length):
        seen = slice(t + 1) if keep is None else keep[b]
        scores = key[b, h, seen] @ query[b, h, t] / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[b, h, t] = weights @ value[b, h, seen] / weights.sum()
    return out


def draw(length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 8, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [1, 2, 17, 64, 131])
def test_agrees_with_the_definition(kernel, length):
    inputs = draw(length)
    expected = naive(*(v.numpy() for v in inputs))
    np.testing.assert_allclose(causal_attention(*inputs, kernel).numpy(), expected, atol=1e-12)
    single = causal_attention(*(v.float() for v in inputs), kernel)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


def kept(length):
    keep = torch.ones(2, length, dtype=torch.bool)
    keep[1, max(1, length // 3) :] = False
    return keep


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [1, 2, 17, 64])
@pytest.mark.parametrize("padded", [True, False])
def test_both_directions_agree_with_the_definition(kernel, length, padded):
    inputs = draw(length)
    keep = kept(length) if padded else None
    everything = np.ones((2, length), dtype=bool)
    expected = naive(*(v.numpy() for v in inputs), everything if keep is None else keep.numpy())
    np.testing.assert_allclose(bidirectional_attention(*inputs, kernel, keep).numpy(), expected, atol=1e-12)
    single = bidirectional_attention(*(v.float() for v in inputs), kernel, keep)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_padding_holds_does_not_matter(kernel, dtype):
    inputs, keep = draw(24, dtype), kept(24)
    changed = [v.clone() for v in inputs]
    for tensor in changed[1:]:
        tensor.masked_fill_(~keep[:, None, :, None], 30.0)
    assert torch.equal(bidirectional_attention(*inputs, kernel, keep), bidirectional_attention(*changed, kernel, keep))


@pytest.mark.parametrize("attend", [causal_attention, bidirectional_attention])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(attend, kernel):
    def run(*inputs):
        return attend(*inputs, kernel) if attend is causal_attention else attend(*inputs, kernel, kept(7))

    assert torch.autograd.gradcheck(run, [v.requires_grad_() for v in draw(7)])


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


@pytest.mark.parametrize("kernel", ["sdpa", "flash"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_a_layer_names_what_ran(kernel, causal, masked):
    layer = SelfAttention(16, 2, kernel, causal=causal)
    assert attention_backends(layer) == {"attention": "not run"}
    keep = kept(24) if masked and not causal else None
    with torch.profiler.profile() as profile:
        layer(torch.randn(2, 24, 16), keep)
    assert any("scaled_dot_product_flash" in event.key for event in profile.key_averages())
    assert attention_backends(layer) == {"attention": "torch-flash" if kernel == "flash" else "sdpa-flash"}


class Package:
    """Stands in for flash-attn: its layout, its arguments, and a version."""

    __version__ = "2.8.3"

    def __init__(self):
        self.calls = []

    def flash_attn_func(self, query, key, value, dropout_p=0.0, softmax_scale=None, causal=False):
        assert query.shape == key.shape == value.shape
        assert query.shape[3] % 8 == 0
        assert all(tensor.stride(3) == 1 for tensor in (query, key, value))
        self.calls.append((dropout_p, causal))
        streams = (tensor.transpose(1, 2) for tensor in (query, key, value))
        mixed = torch.nn.functional.scaled_dot_product_attention(*streams, is_causal=causal, scale=softmax_scale)
        return mixed.transpose(1, 2)


@pytest.fixture
def package(monkeypatch):
    """As if flash-attn were installed and took half precision on this device."""
    stand_in = Package()
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    monkeypatch.setattr(attention, "_package_takes", lambda query: query.dtype == torch.bfloat16)
    return stand_in


def test_the_package_computes_what_torch_computes(package):
    inputs = draw(24, torch.bfloat16)
    exact, keep = [v.float() for v in inputs], kept(24)
    pairs = [
        (causal_attention(*inputs, "flash"), causal_attention(*exact, "math")),
        (bidirectional_attention(*inputs, "flash"), bidirectional_attention(*exact, "math")),
        (bidirectional_attention(*inputs, "flash", keep), bidirectional_attention(*exact, "math", keep)),
    ]
    assert package.calls == [(0.0, True), (0.0, False), (0.0, False)]
    for mixed, expected in pairs:
        assert mixed.dtype == torch.bfloat16
        torch.testing.assert_close(mixed.float(), expected, rtol=0.02, atol=0.02)


def test_the_package_is_named_with_its_version_only_where_it_runs(package):
    layer = SelfAttention(16, 2, "flash", causal=True)
    layer(torch.randn(2, 24, 16))
    assert package.calls == []
    assert layer.ran() == "torch-flash"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(2, 24, 16))
    assert package.calls == [(0.0, True)]
    assert layer.ran() == "flash-attn 2.8.3"
    assert what_runs(*draw(8, torch.bfloat16), "sdpa") == "sdpa-flash"


def test_the_package_takes_half_precision_on_a_gpu_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", Package())
    looks_for(monkeypatch, "flash_attn")
    assert not attention._package_takes(torch.zeros(1, 1, 4, 8, dtype=torch.bfloat16))
    assert not attention._package_takes(torch.zeros(1, 1, 4, 8))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    on_a_gpu = types.SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device="cuda")
    assert attention._package_takes(on_a_gpu)
    looks_for(monkeypatch, "another")
    assert not attention._package_takes(on_a_gpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_on_a_gpu():
    inputs = [v.to("cuda", torch.bfloat16) for v in draw(96)]
    keep = kept(96).cuda()
    for mixed, expected in (
        (causal_attention(*inputs, "flash"), causal_attention(*inputs, "math")),
        (bidirectional_attention(*inputs, "flash", keep), bidirectional_attention(*inputs, "math", keep)),
    ):
        torch.testing.assert_close(mixed, expected, rtol=0.03, atol=0.03)
    with pytest.raises(ValueError, match="'flash' cannot run"):
        causal_attention(*(v.float() for v in inputs), "flash")


@pytest.mark.filterwarnings("ignore:Flash attention")
def test_one_error_where_no_flash_kernel_runs():
    query, key, value = draw(8, torch.float32)
    with pytest.raises(
        ValueError, match=r"'flash' cannot run for torch.float32 on cpu, head width 8: .*'sdpa' or 'math'"
    ):
        causal_attention(query, key, value[..., :4], "flash")


@pytest.mark.parametrize("attend", [causal_attention, bidirectional_attention])
def test_unknown_kernel(attend):
    with pytest.raises(ValueError, match="'flash3'; legal: math, sdpa, flash"):
        attend(*draw(4), "flash3")


def test_no_head_is_wider_than_64():
    assert SelfAttention(256, 2, "sdpa", causal=True).heads == 4
