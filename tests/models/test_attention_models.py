"""What the conformance suite does not ask of BERT4Rec, HSTU and the linear forms of attention."""

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


@pytest.mark.parametrize("name", ["bert4rec", "fuxi-linear", "hstu", "linear-attention", "sasrec"])
def test_longer_than_the_positions_learned(name):
    with pytest.raises(ValueError, match="length 41 exceeds max_length 40"):
        build(name)(histories(length=41))


@pytest.mark.parametrize("name", ["bert4rec", "fuxi-linear", "hstu", "linear-attention", "retnet", "sasrec"])
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


def test_retnet_is_the_papers_retention():
    """Queries and keys as complex numbers turned by their position, and the whole matrix of decays (equation 5)."""
    mixer = build("retnet", num_layers=1).double().blocks[0].mixer
    u = torch.randn(2, 20, 16, dtype=torch.float64)
    query, key, value, gate = mixer.projection(u).split([16, 16, 32, 32], dim=2)
    lags = torch.arange(20)[:, None] - torch.arange(20)
    heads = []
    for h in range(2):
        q, k = (torch.complex(*s[:, :, 8 * h : 8 * h + 8].split(4, dim=2)) for s in (query, key))
        turn = torch.polar(torch.ones(20, 4).double(), torch.arange(20.0)[:, None].double() * mixer.speeds)
        products = torch.einsum("bne,bme->bnm", q * turn, (k * turn).conj()).real / 8**0.5
        decay = torch.where(lags >= 0, (1 - 2.0 ** (-5 - h)) ** lags.double(), 0.0)
        o = (products * decay) @ value[:, :, 16 * h : 16 * h + 16]
        heads.append((o - o.mean(2, keepdim=True)) / (o.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt())
    expected = mixer.output(torch.nn.functional.silu(gate) * torch.cat(heads, 2))
    torch.testing.assert_close(mixer(u), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("timed", [False, True])
def test_fuxi_linear_is_the_sum_of_its_channels(timed):
    """Every channel with its whole matrix of weights."""
    model = build("fuxi-linear", num_layers=1).double()
    mixer, length = model.blocks[0].mixer, 20
    mixer.time_mix.copy_(torch.randn_like(mixer.time_mix))
    mixer.position_mix.copy_(torch.randn(2))
    u, silu = torch.randn(3, length, 16, dtype=torch.float64), torch.nn.functional.silu
    times = 1_400_000_000 + torch.randint(0, 3_000, (3, length)).cumsum(1)
    lags = torch.arange(length)[:, None] - torch.arange(length)
    query, key, value, *gates = silu(mixer.projection(u)).split(16, dim=2)

    def normed(x):
        return (x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()

    rates, heads = torch.cumprod(torch.sigmoid(-mixer.gaps), 0), []
    for h in range(2):
        own = slice(8 * h, 8 * h + 8)
        decay = torch.where(lags >= 0, torch.exp(-rates[h] * lags.clamp(min=0)), 0.0)
        heads.append((query[:, :, own] @ key[:, :, own].mT * decay) @ value[:, :, own])
    placed = mixer.position_value(u)
    rows = mixer.positions[:length]
    weights = torch.tril(rows @ rows.t()) / 16
    by_position = mixer.position_mix[0] * (weights @ placed) + mixer.position_mix[1] * placed
    joined = torch.cat((gates[0] * normed(torch.cat(heads, 2)), gates[1] * normed(by_position)), 2)
    expected = mixer.output(joined)
    if timed:
        value, parts = mixer.time_value(u), []
        for h in range(8):
            period, own = 1024 * 64 ** (h // 2), slice(2 * h, 2 * h + 2)
            angle = 2 * torch.pi / period * (times[:, :, None] - times[:, None]).double()
            gamma = torch.sigmoid(model.forgetting[h // 2])
            weights = (angle.cos() if h % 2 else angle.sin()) * torch.where(lags >= 0, gamma ** angle.clamp(min=0), 0.0)
            first, last = mixer.time_mix[:, h, 0, 0]
            parts.append(first * (weights @ value[:, :, own]) + last * value[:, :, own])
        expected = expected + mixer.time_output(silu(mixer.time_gate(u)) * normed(torch.cat(parts, 2)))
    found = mixer(u, *model._features(times)) if timed else mixer(u)
    # Angles are float32.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_fuxi_linear_hears_the_time_where_there_is_one():
    model, items = build("fuxi-linear"), histories()
    times = 1_400_000_000 + (torch.arange(20) * 1_000).expand(3, 20)
    silent = model(items)
    assert model.backends()["channels"] == "content and position"
    assert float((model(items, times) - silent).abs().max()) > 1e-3
    assert model.backends()["channels"] == "content, position and time"
    # Sines and cosines of differences, and decays by elapsed time, do not know when it was.
    torch.testing.assert_close(model(items, times + 123_456_789), model(items, times), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["bert4rec", "fuxi-linear", "hstu", "linear-attention", "retnet"])
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
        ("retnet", {}),
        ("fuxi-linear", {}),
    ],
)
def test_compiled_gives_the_same(name, options):
    model, items = build(name, num_layers=1, **options), histories()
    items[1, 9:] = 0
    times = (torch.arange(20) * 1_000).expand(3, 20) if name in ("hstu", "fuxi-linear") else None

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
