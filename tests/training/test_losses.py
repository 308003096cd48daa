import pytest
import torch
from torch.nn import functional

from harness.losses import chunked_cross_entropy, sampled_softmax


def tensors(positions=37, items=23, width=5, extra=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(positions, width, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(items + 1 + extra, width, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(1, items + 1, (positions,), generator=generator)
    return hidden, weight, targets, items


@pytest.mark.parametrize("chunk", [1, 7, 37, 1000, None])
@pytest.mark.parametrize("extra", [0, 1])
def test_cross_entropy_equals_the_library(chunk, extra):
    hidden, weight, targets, items = tensors(extra=extra)
    expected = functional.cross_entropy(hidden @ weight[1 : items + 1].T, targets - 1)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    loss = chunked_cross_entropy(hidden, weight, targets, items, chunk)
    found = torch.autograd.grad(3 * loss, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_padding_and_mask_rows_take_no_part():
    hidden, weight, targets, items = tensors()
    with torch.no_grad():
        weight[0] = weight[-1] = 1e6
    loss = chunked_cross_entropy(hidden, weight, targets, items)
    loss.backward()
    assert loss < 100
    assert not weight.grad[0].any()
    assert not weight.grad[-1].any()


def test_extreme_logits_stay_finite():
    hidden, weight, targets, items = tensors(dtype=torch.float32)
    loss = chunked_cross_entropy(hidden * 1e4, weight, targets, items)
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()


def test_computed_in_float32_under_autocast():
    hidden, weight, targets, items = tensors(dtype=torch.float32)
    expected = chunked_cross_entropy(hidden, weight, targets, items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = chunked_cross_entropy(hidden, weight, targets, items)
    assert torch.equal(loss, expected)
    half = hidden.detach().bfloat16().requires_grad_()
    chunked_cross_entropy(half, weight, targets, items).backward()
    assert half.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_no_logits_are_kept():
    hidden, weight, targets, items = tensors(positions=500, items=2000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        chunked_cross_entropy(hidden, weight, targets, items)
    assert sum(kept) <= hidden.numel() + weight.numel()


@pytest.mark.parametrize("negatives", [[1, 2, 3], [4, 4, 9, 23, 1, 17]])
def test_sampled_softmax_against_a_loop(negatives):
    hidden, weight, targets, _ = tensors()
    expected = 0.0
    for state, target in zip(hidden, targets.tolist(), strict=True):
        rows = [target, *(n for n in negatives if n != target)]
        expected = expected - torch.log_softmax(weight[rows] @ state, 0)[0] / len(targets)
    loss = sampled_softmax(hidden, weight, targets, torch.tensor(negatives))
    torch.testing.assert_close(loss, expected)


def test_all_negatives_hit_the_target():
    hidden, weight, _, _ = tensors()
    loss = sampled_softmax(hidden, weight, torch.full((37,), 5), torch.tensor([5, 5]))
    assert loss == 0
    loss.backward()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("bad", ["empty", "targets", "weight"])
def test_shapes_that_do_not_fit_are_refused(bad):
    hidden, weight, targets, items = tensors()
    arguments = {
        "empty": (hidden[:0], weight, targets[:0], items),
        "targets": (hidden, weight, targets[:-1], items),
        "weight": (hidden, weight[:items], targets, items),
    }[bad]
    with pytest.raises(ValueError, match="must be"):
        chunked_cross_entropy(*arguments)
