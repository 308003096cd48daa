import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ops.build import native
from models.ops.convolution.short import gated_short_convolution, short_convolution


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("length", "width"), [(1, 1), (1, 3), (2, 3), (9, 3), (9, 1), (5, 8)])
def test_short_convolution(length, width):
    x, weight = draw(3, 2, length), draw(3, width, seed=1)
    y = short_convolution(x, weight)
    expected = np.zeros(x.shape)
    for j in range(width):
        for t in range(j, length):
            expected[..., t] += weight[:, None, j].numpy() * x[..., t - j].numpy()
    np.testing.assert_allclose(y.numpy(), expected, atol=1e-12)
    assert torch.autograd.gradcheck(short_convolution, (x.requires_grad_(), weight.requires_grad_()))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="weight"):
        short_convolution(draw(2, 2, 8), draw(1, 3))
    with pytest.raises(ValueError, match="streams"):
        gated_short_convolution(draw(1, 2, 2, 8), draw(1, 2, 3))


@pytest.mark.parametrize("convolve", [short_convolution, gated_short_convolution])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_width_of_none_is_refused(convolve, dtype):
    shape = (2, 3) if convolve is gated_short_convolution else (3,)
    with pytest.raises(ValueError, match=r"width 0 .* legal: 1 or more taps; for no short convolution leave the call"):
        convolve(torch.ones(*shape, 2, 8, dtype=dtype), torch.ones(*shape, 0, dtype=dtype))


def test_gated_in_torch_is_the_product_and_the_rest():
    streams, weight = draw(4, 3, 2, 7), draw(4, 3, 3, seed=1)
    product, *between = gated_short_convolution(streams, weight)
    parts = [short_convolution(s, w) for s, w in zip(streams, weight, strict=True)]
    torch.testing.assert_close(product, parts[0] * parts[3])
    assert len(between) == 2
    for found, expected in zip(between, parts[1:3], strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.skipif(native.build().library is None, reason=native.status())
@settings(max_examples=40)
@given(
    streams=st.integers(2, 4),
    length=st.one_of(st.integers(1, 6), st.integers(15, 70)),
    width=st.integers(1, 5),
    threads=st.integers(1, 2),
)
def test_native_agrees_with_float64(streams, length, width, threads):
    inputs = draw(streams, 3, 2, length), draw(streams, 3, width, seed=1)
    results = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for dtype in (torch.float32, torch.float64):
            given_inputs = [v.float().to(dtype).requires_grad_() for v in inputs]
            y = gated_short_convolution(*given_inputs)
            incoming = [draw(*part.shape, seed=n + 2).to(dtype) for n, part in enumerate(y)]
            results.append([*y, *torch.autograd.grad(y, given_inputs, incoming)])
    finally:
        torch.set_num_threads(before)
    assert "Native" in type(results[0][0].grad_fn).__name__
    for single, double in zip(*results, strict=True):
        single, double = single.detach().double(), double.detach()
        assert float((single - double).norm()) <= 2e-6 * float(double.norm()) + 1e-12
