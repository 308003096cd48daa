"""What the conformance suite does not ask of BERT4Rec, HSTU and linear attention."""

import pytest
import torch

from models import registry

SMALL = {"num_items": 30, "max_length": 40, "hidden_size": 16, "num_layers": 2, "dropout": 0.0}


def build(name, **options):
    torch.manual_seed(0)
    kind = registry.load(name)
    return kind(kind.CONFIG(**{**SMALL, **options})).eval()


def histories(batch=3, length=20):
    return torch.randint(1, SMALL["num_items"] + 1, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["bert4rec", "hstu", "linear-attention", "sasrec"])
def test_longer_than_the_positions_learned(name):
    with pytest.raises(ValueError, match="length 41 exceeds max_length 40"):
        build(name)(histories(length=41))


@pytest.mark.parametrize("name", ["bert4rec", "hstu", "linear-attention", "sasrec"])
def test_heads_must_divide_the_width(name):
    with pytest.raises(ValueError, match="num_heads is 3; hidden_size 16 must be a multiple of its 3 heads"):
        build(name, num_heads=3)


def test_bert4rec_has_a_row_for_its_mask_and_asks_for_masked_items():
    model = build("bert4rec")
    assert model.item_embedding.num_embeddings == SMALL["num_items"] + 2
    assert model.objective().batch == "masked-item"
    items = histories()
    items[:, 7] = SMALL["num_items"] + 1
    assert bool(torch.isfinite(model(items)).all())


@pytest.mark.parametrize("attention", ["math", "sdpa", "flash"])
def test_bert4rec_masks_nothing_where_nothing_is_padding(attention, monkeypatch):
    model, items, seen = build("bert4rec", attention=attention), histories(), []
    monkeypatch.setattr(
        "models.ops.attention.layer.bidirectional_attention",
        lambda query, key, value, kernel, keep: seen.append(keep is not None) or value,
    )
    model(items)
    items[1, 9:] = 0
    model(items)
    assert seen == [False, False, True, True]


@torch.no_grad()
def test_bert4rec_sees_the_future_and_its_positions():
    model, items = build("bert4rec"), histories()
    later = items.clone()
    later[:, 15] = later[:, 15] % SMALL["num_items"] + 1
    assert float((model(items) - model(later))[:, 3].abs().max()) > 1e-4
    assert float((model(items.flip(1)).flip(1) - model(items)).abs().max()) > 1e-3


@torch.no_grad()
def test_hstu_hears_the_time_where_there_is_one():
    model, items = build("hstu"), histories()
    for block in model.blocks:
        block.time_bias.copy_(torch.arange(129) * 0.1)
    times = (torch.arange(20) * 1_000).expand(3, 20)
    silent = model(items)
    assert model.backends() == {"attention": "pointwise-chunked", "bias": "position"}
    assert float((model(items, times) - silent).abs().max()) > 1e-3
    assert model.backends()["bias"] == "position and time"
    # Buckets know differences of time, not when it was.
    torch.testing.assert_close(model(items, times + 10**9), model(items, times))


def test_hstu_without_buckets_ignores_the_time():
    model, items = build("hstu", time_buckets=0), histories()
    assert torch.equal(model(items, (torch.arange(20) * 1_000).expand(3, 20)), model(items))
    assert model.backends()["bias"] == "position"
    with pytest.raises(ValueError, match="time_buckets is -1; it must be at least 0"):
        build("hstu", time_buckets=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["bert4rec", "hstu", "linear-attention"])
@pytest.mark.parametrize("length", [37, 300])
def test_a_gpu_gives_the_same(name, length):
    items = histories(length=length)
    items[1, length // 2 :] = 0
    times = (torch.arange(length) * 1_000).expand(3, length)
    results = []
    for device in ("cpu", "cuda"):
        model = build(name, max_length=300).double().to(device)
        hidden = model(items.to(device), times.to(device))
        hidden.cos().sum().backward()
        results.append([hidden.detach().cpu(), *(p.grad.cpu() for p in model.parameters())])
    for on_gpu, on_cpu in zip(*reversed(results), strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sasrec", {"attention": "sdpa"}),
        ("sasrec", {"attention": "flash"}),
        ("bert4rec", {}),
        ("hstu", {}),
        ("linear-attention", {}),
    ],
)
def test_compiled_gives_the_same(name, options):
    model, items = build(name, num_layers=1, **options), histories()
    items[1, 9:] = 0
    times = (torch.arange(20) * 1_000).expand(3, 20) if name == "hstu" else None

    def run():
        model.zero_grad()
        hidden = model(items, times)
        (hidden * hidden.detach().cos()).sum().backward()
        return [hidden.detach(), *(p.grad.clone() for p in model.parameters())]

    plain, ran = run(), model.backends()
    model.compile()
    for compiled, expected in zip(run(), plain, strict=True):
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert model.backends() == ran
