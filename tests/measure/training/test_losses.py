import pytest
import torch
from torch.nn import functional

from harness.errors import UserError
from harness.measure.losses import (
    Criterion,
    binary_cross_entropy,
    chunked_cross_entropy,
    gbce_power,
    other_items,
    sampled_softmax,
)
from harness.study.loss import LOSSES, loss_spec


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


def naive_binary(hidden, weight, targets, negatives, power):
    """Position by position, in float64."""
    total = 0.0
    for state, target, drawn in zip(hidden, targets.tolist(), negatives.tolist(), strict=True):
        terms = power * torch.sigmoid(weight[target] @ state).log()
        for item in drawn:
            terms = terms + (1 - torch.sigmoid(weight[item] @ state)).log()
        total = total - terms / (1 + len(drawn)) / len(targets)
    return total


@pytest.mark.parametrize("chunk", [1, 5, 37, None])
@pytest.mark.parametrize(("count", "power"), [(1, 1.0), (6, 1.0), (6, 0.3)])
@pytest.mark.parametrize("items", [23, 300], ids=["scores of the whole table", "gathered rows"])
def test_binary_losses_against_a_loop(items, chunk, count, power):
    hidden, weight, targets, items = tensors(items=items)
    negatives = other_items(targets, count, items, torch.Generator().manual_seed(1))
    expected = naive_binary(hidden, weight, targets, negatives, power)
    wanted = torch.autograd.grad(3 * expected, (hidden, weight))
    loss = binary_cross_entropy(hidden, weight, targets, negatives, power, chunk)
    found = torch.autograd.grad(3 * loss, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_binary_losses_hold_a_chunk_of_rows_at_a_time():
    hidden, weight, targets, items = tensors(positions=4000, items=500, width=16, dtype=torch.float32)
    negatives = other_items(targets, 64, items, torch.Generator().manual_seed(1))
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Largest():
        binary_cross_entropy(hidden, weight, targets, negatives).backward()
    assert largest <= 1 << 19


@pytest.mark.parametrize(("calibration", "power"), [(0.0, 1.0), (1.0, 0.25), (0.75, 0.4375)])
def test_the_power_of_gbce_runs_from_plain_to_calibrated(calibration, power):
    assert gbce_power(25, 101, calibration) == pytest.approx(power)


def test_gbce_undoes_overconfidence():
    """With t = 1 the best score of an item is its logit as if all negatives were scored (theorem of the paper)."""
    probability, rate = 0.2, 0.1
    score = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([score], max_iter=100)
    power = gbce_power(10, 101, 1.0)

    def close():
        optimiser.zero_grad()
        positive = -probability * power * torch.nn.functional.logsigmoid(score)
        loss = positive - rate * (1 - probability) * torch.nn.functional.logsigmoid(-score)
        loss.backward()
        return loss

    optimiser.step(close)
    assert torch.sigmoid(score).item() == pytest.approx(probability, abs=1e-4)


def test_negatives_are_every_other_item_alike():
    targets = torch.tensor([1, 3, 4]).repeat_interleave(5000)
    drawn = other_items(targets, 4, 4, torch.Generator().manual_seed(0))
    assert not (drawn == targets[:, None]).any()
    for target in (1, 3, 4):
        counts = torch.bincount(drawn[targets == target].flatten(), minlength=5)
        others = [i for i in (1, 2, 3, 4) if i != target]
        assert counts.sum() == counts[others].sum()
        assert (counts[others] / counts.sum() - 1 / 3).abs().max() < 0.02


def criterion(name, declared="cross-entropy", **options):
    return Criterion.of(loss_spec(name, options), declared)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_same_scores(name, normalise):
    hidden, weight, targets, items = tensors()
    options = {"normalise": normalise, "temperature": 0.3}
    loss = criterion(name, **options)(hidden, weight, targets, items, torch.Generator().manual_seed(2))
    found = torch.autograd.grad(loss, (hidden, weight))
    a, b = hidden, weight
    if normalise:
        a = hidden / hidden.square().sum(1, keepdim=True).sqrt()
        b = weight / weight.square().sum(1, keepdim=True).sqrt()
    again = criterion(name, temperature=1.0)
    scaled = again(a / 0.3, b, targets, items, torch.Generator().manual_seed(2))
    wanted = torch.autograd.grad(scaled, (hidden, weight))
    torch.testing.assert_close(loss, scaled)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_zero_row_survives_normalisation():
    hidden, weight, targets, items = tensors()
    with torch.no_grad():
        weight[0] = 0
        hidden[3] = 0
    loss = criterion("cross-entropy", normalise=True)(hidden, weight, targets, items, torch.Generator())
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()
    assert not weight.grad[0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_float32_under_autocast_and_repeats_with_its_generator(name):
    hidden, weight, targets, items = tensors(dtype=torch.float32)
    plain = criterion(name)(hidden, weight, targets, items, torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = criterion(name)(hidden, weight, targets, items, torch.Generator().manual_seed(2))
    assert torch.equal(plain, cast)
    half = hidden.detach().bfloat16().requires_grad_()
    criterion(name)(half, weight, targets, items, torch.Generator()).backward()
    assert half.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["sampled-softmax", "bce", "gbce"])
def test_sampled_losses_touch_only_sampled_rows(name):
    hidden, weight, targets, items = tensors(positions=3, items=1000)
    criterion(name, negatives=2)(hidden, weight, targets, items, torch.Generator().manual_seed(0)).backward()
    assert 0 < weight.grad.any(1).sum() <= 9


def test_the_loss_of_the_study_wins_unless_it_says_declared():
    assert criterion("gbce", declared="bce").name == "gbce"
    assert criterion("declared", declared="bce") == criterion("bce")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sampled-softmaks", {}, ["sampled-softmaks", "sampled-softmax"]),
        ("cross-entropy", {"negatives": 3}, ["training.negatives", "cross-entropy", "gbce"]),
        ("sampled-softmax", {"calibration": 0.5}, ["training.calibration", "gbce"]),
        ("gbce", {"calibration": 1.5}, ["1.5", "from 0"]),
        ("bce", {"negatives": 0}, ["training.negatives", "at least 1"]),
        ("bce", {"temperature": 0.0}, ["training.temperature", "above 0"]),
    ],
)
def test_options_that_cannot_be_meant_are_refused(name, options, words):
    with pytest.raises(UserError) as caught:
        loss_spec(name, options)
    for word in words:
        assert word in str(caught.value)


def test_a_catalogue_of_one_item_has_no_negatives():
    with pytest.raises(ValueError, match="no negatives"):
        other_items(torch.tensor([1]), 2, 1, torch.Generator())
