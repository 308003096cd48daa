"""Dropout: the generator's published numbers, the rate, the sum and its gradients, native and torch alike."""

from __future__ import annotations

import math

import pytest
import torch

from models.layers import Dropout
from models.ops.build import native
from models.ops.dropout.dropout import draws, dropout

SEED = -1234567890123456789


def _mask(y: torch.Tensor, probability: float) -> torch.Tensor:
    return (dropout(torch.ones_like(y), probability) != 0).to(y.dtype)


def test_words_are_those_of_splitmix64() -> None:
    """The first three outputs for seed 0, as public test vectors have them."""
    words = draws(0, 12).view(torch.int64).tolist()
    assert [word % 2**64 for word in words] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_draws_are_uniform_and_without_correlation() -> None:
    """Mean, variance and correlation with the next 64 elements, within five standard errors."""
    count = 1 << 20
    uniform = (draws(SEED, count).double() + 32768.5) / 65536
    assert uniform.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * count))
    assert uniform.var().item() == pytest.approx(1 / 12, rel=5 * math.sqrt(0.8 / count))
    centred = uniform - 0.5
    for lag in range(1, 65):
        correlation = (centred[:-lag] * centred[lag:]).mean().item() * 12
        assert abs(correlation) < 5 / math.sqrt(count), lag
    other = draws(SEED + 1, count).double() / 65536
    assert abs((centred * other).mean().item() * 12) < 5 / math.sqrt(count)


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.5, 0.99])
def test_rate_and_scale(probability: float) -> None:
    """As many zeros as asked, within five standard errors; the rest scaled so that the mean stays."""
    torch.manual_seed(0)
    y = dropout(torch.ones(1 << 18), probability)
    zeros = (y == 0).double().mean().item()
    assert zeros == pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / y.numel()))
    assert y.max().item() == pytest.approx(1 / (1 - probability), rel=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5, 11), (2, 2049), (0, 4), (40, 130, 50)])
@pytest.mark.parametrize("summed", [True, False])
def test_native_and_torch_agree(shape: tuple[int, ...], summed: bool) -> None:
    """The same mask, values and gradients, at sizes around those of words and blocks, with views that are not dense."""
    if native.library() is None:
        pytest.skip(f"native operators are {native.status()}")

    def run() -> tuple[torch.Tensor, ...]:
        torch.manual_seed(5)
        y = torch.randn(*shape).t() if len(shape) == 2 else torch.randn(shape)
        x = torch.randn(y.shape) if summed else None
        y.requires_grad_()
        if x is not None:
            x.requires_grad_()
        out = dropout(y, 0.3, onto=x)
        out.backward(torch.randn(out.shape))
        assert y.grad is not None
        return out.detach(), y.grad, *([] if x is None or x.grad is None else [x.grad])

    fast = run()
    with native.suspended():
        plain = run()
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_is_that_of_the_mask() -> None:
    """Against float64, where the mask is read from a forward pass of ones under the same seed."""
    torch.manual_seed(3)
    mask = _mask(torch.empty(4, 1000), 0.4).double()
    y, weights = torch.ones(4, 1000, requires_grad=True), torch.randn(4, 1000)
    torch.manual_seed(3)
    (dropout(y, 0.4, onto=torch.zeros(4, 1000)) * weights).sum().backward()
    torch.testing.assert_close(y.grad, (mask * weights / 0.6).float(), rtol=1e-4, atol=1e-6)


def test_mask_depends_on_the_seed_alone() -> None:
    """Not on threads; and two calls under one seed draw two masks."""
    y = torch.empty(300, 300)
    threads = torch.get_num_threads()
    masks = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(9)
            masks.append((_mask(y, 0.5), _mask(y, 0.5)))
    finally:
        torch.set_num_threads(threads)
    (first, second), again = masks
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    """Computed in torch, with the mask of float32."""
    torch.manual_seed(1)
    wide = _mask(torch.empty(64, 64), 0.25)
    torch.manual_seed(1)
    y = dropout(torch.ones(64, 64, dtype=dtype), 0.25)
    assert y.dtype == dtype
    assert torch.equal((y != 0).float(), wide)


def test_the_module() -> None:
    """Nothing in evaluation or at probability 0, where the sum stays; a probability outside its range is refused."""
    x, y = torch.randn(5), torch.randn(5)
    for module in (Dropout(0.5).eval(), Dropout(0.0)):
        assert module(y) is y
        assert torch.equal(module(y, onto=x), x + y)
    for probability in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            Dropout(probability)
