import pytest
import torch
from torch.nn import functional

from models import registry
from models.fmlp_rec import FMLPRec, filter_sequences
from models.mamba4rec import Mamba4Rec, Mamba4RecConfig
from models.mingru import MinGRU, MinGRUConfig
from models.nextitnet import DilatedConvolution, NextItNet
from models.ops.scans.diagonal import diagonal_scan
from models.recblr import RecBLR, RecBLRConfig

SIZES = {"num_items": 20, "max_length": 80, "hidden_size": 8}
MODELS = ["mingru", "mamba4rec", "lrurec", "nextitnet", "fmlp-rec", "recblr"]


def items(batch, length, seed=0):
    return torch.randint(1, 21, (batch, length), generator=torch.Generator().manual_seed(seed))


def build(kind, config=None, **options):
    torch.manual_seed(0)
    return kind((config or kind.CONFIG)(**{**SIZES, **options})).double().eval()


def test_mingru_is_the_papers_recurrence():
    unit = build(MinGRU, MinGRUConfig, num_layers=1).blocks[0].mixer
    u = torch.randn(2, 50, 8, dtype=torch.float64)
    gate, candidate = unit.input(u).chunk(2, dim=-1)
    h, states = torch.zeros(2, 16, dtype=torch.float64), []
    for t in range(50):
        z = torch.sigmoid(gate[:, t])
        h = (1 - z) * h + z * candidate[:, t]
        states.append(h)
    torch.testing.assert_close(unit(u), unit.output(torch.stack(states, 1)))


def test_recblr_is_the_papers_block():
    unit = build(RecBLR, RecBLRConfig, num_layers=1).blocks[0].unit
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 40, 8, dtype=torch.float64)
    u, z = unit.input(x).chunk(2, dim=-1)
    taps = unit.convolution.weight[:, 0]
    h, outputs = torch.zeros(2, 16, dtype=torch.float64), []
    for t in range(40):
        window = [u[:, t - 3 + j] * taps[:, j] for j in range(4) if t - 3 + j >= 0]
        v = functional.silu(sum(window) + unit.convolution.bias)
        recurrence, entry = unit.gates(v).chunk(2, dim=-1)
        factor = torch.exp(-functional.softplus(unit.rate) * torch.sigmoid(recurrence))
        h = factor * h + torch.sqrt(1 - factor**2 + 1e-8) * torch.sigmoid(entry) * v
        outputs.append(functional.silu(z[:, t]) * h)
    torch.testing.assert_close(unit(x), unit.output(torch.stack(outputs, 1)))


def test_recblr_starts_with_the_authors_factors():
    unit = RecBLR(RecBLRConfig(**{**SIZES, "hidden_size": 64})).blocks[0].unit
    factors = torch.exp(-functional.softplus(unit.rate.detach()))
    assert float(factors.min()) == pytest.approx(0.9)
    assert float(factors.max()) == pytest.approx(0.999)


def test_recblr_names_the_kernel_that_ran(monkeypatch):
    options = {"num_items": 9, "max_length": 8, "hidden_size": 8}
    model = RecBLR(RecBLRConfig(**options)).eval()
    assert model.backends()["recurrence"] in ("native-scan", "chunked-scan")
    expected, calls = model(items(1, 8).clamp(max=9)), []

    def in_logarithms(log_a, b):
        calls.append(log_a.shape)
        return diagonal_scan(log_a.exp(), b)

    monkeypatch.setattr("models.recblr.fused_is_available", lambda device: True)
    monkeypatch.setattr("models.recblr.fused_diagonal_scan", in_logarithms)
    assert model.backends() == {"recurrence": "fla"}
    torch.testing.assert_close(model(items(1, 8).clamp(max=9)), expected)
    assert calls == 2 * [(1, 8, 16)]
    assert RecBLR(RecBLRConfig(**options, scan="chunked")).backends() != {"recurrence": "fla"}


def test_mamba_is_the_papers_block():
    mixer = build(Mamba4Rec, Mamba4RecConfig, num_layers=1, state_size=3).blocks[0].mixer
    x = torch.randn(2, 40, 8, dtype=torch.float64)
    u, gate = mixer.input(x).chunk(2, dim=-1)
    taps = mixer.convolution.weight[:, 0]
    h, outputs = torch.zeros(2, 16, 3, dtype=torch.float64), []
    for t in range(40):
        window = [u[:, t - 3 + j] * taps[:, j] for j in range(4) if t - 3 + j >= 0]
        v = functional.silu(sum(window) + mixer.convolution.bias)
        rank, write, read = mixer.selection(v).split((1, 3, 3), dim=-1)
        delta = functional.softplus(mixer.step(rank))
        h = torch.exp(-delta[..., None] * mixer.log_rates.exp()) * h + (delta * v)[..., None] * write[:, None]
        outputs.append(((h * read[:, None]).sum(2) + mixer.skip * v) * functional.silu(gate[:, t]))
    torch.testing.assert_close(mixer(x), mixer.output(torch.stack(outputs, 1)))


def test_mamba_starts_with_the_papers_steps():
    mixer = Mamba4Rec(Mamba4RecConfig(**{**SIZES, "hidden_size": 64})).blocks[0].mixer
    steps = functional.softplus(mixer.step.bias.detach())
    assert 0.001 <= float(steps.min()) < 0.003
    assert 0.03 < float(steps.max()) <= 0.1001
    torch.testing.assert_close(-mixer.log_rates.exp()[5], -torch.arange(1.0, 33.0))


@pytest.mark.parametrize("dilation", [1, 4])
@pytest.mark.parametrize("length", [1, 3, 20])
def test_dilated_convolution_is_torchs(length, dilation):
    convolution = DilatedConvolution(5, dilation).double()
    x = torch.randn(2, length, 5, dtype=torch.float64)
    # torch counts taps from the oldest event.
    weight = convolution.taps.weight.view(5, 3, 5).permute(0, 2, 1).flip(2)
    padded = functional.pad(x.transpose(1, 2), (2 * dilation, 0))
    expected = functional.conv1d(padded, weight, convolution.taps.bias, dilation=dilation).transpose(1, 2)
    torch.testing.assert_close(convolution(x), expected)


def test_nextitnet_sees_as_far_as_documented():
    model = build(NextItNet, num_layers=2)
    sequence = items(1, 80)
    last = model(sequence)[0, -1].detach()
    for steps_back, seen in ((60, True), (61, False)):
        changed = sequence.clone()
        changed[0, -1 - steps_back] = changed[0, -1 - steps_back] % 20 + 1
        assert (float((model(changed)[0, -1].detach() - last).abs().max()) > 0) == seen


@pytest.mark.parametrize("window", [1, 2, 9, 10])
def test_filter_is_a_circular_convolution(window):
    x = torch.randn(3, window, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(window // 2 + 1, 2, 2, dtype=torch.float64, requires_grad=True)
    y = filter_sequences(x, weight)
    taps = torch.fft.irfft(torch.view_as_complex(weight), window, dim=0)
    expected = torch.stack([sum(taps[j] * x[:, (t - j) % window] for j in range(window)) for t in range(window)], 1)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    wanted = torch.autograd.grad((upstream * expected).sum(), (x, weight))
    for found, gradient in zip(torch.autograd.grad((upstream * y).sum(), (x, weight)), wanted, strict=True):
        torch.testing.assert_close(found, gradient)


def test_fmlp_rec_is_the_left_padded_model():
    """Right-aligned histories, positions 0 … W − 1 and a filter over the window, as in the paper."""
    model = build(FMLPRec, num_layers=2, max_length=12)
    history = items(1, 7)
    padded = functional.pad(history, (5, 0))
    real = (padded != 0)[..., None]
    x = model.norm(model.item_embedding(padded) + model.position_embedding.weight)
    for block in model.blocks:
        weight = torch.view_as_complex(block.mixer.weight)
        filtered = torch.fft.irfft(torch.fft.rfft(x * real, dim=1, norm="ortho") * weight, 12, dim=1, norm="ortho")
        x = block.mixer_norm(x * real + filtered)
        x = block.feed_forward_norm(x + block.feed_forward(x))
    torch.testing.assert_close(model(history), x[:, 5:])
    assert model.objective().batch == "last-item"


def test_fmlp_rec_refuses_more_than_its_window():
    with pytest.raises(ValueError, match="length 13 exceeds max_length 12"):
        build(FMLPRec, max_length=12)(items(1, 13))


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="state_expansion is 0; it must be at least 1"):
        build(MinGRU, MinGRUConfig, state_expansion=0)
    with pytest.raises(ValueError, match="state_size is 0; it must be at least 1"):
        build(Mamba4Rec, Mamba4RecConfig, state_size=0)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
def test_compiles(name, backend):
    torch.compiler.reset()
    torch.manual_seed(0)
    kind = registry.load(name)
    model = kind(kind.CONFIG(**SIZES, num_layers=1, dropout=0.0))
    batch = items(3, 20)
    upstream = torch.randn(3, 20, 8)
    plain = model(batch)
    gradients = torch.autograd.grad((upstream * plain).sum(), list(model.parameters()))
    model.compile(backend=backend)
    compiled = model(batch)
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-4)
    found = torch.autograd.grad((upstream * compiled).sum(), list(model.parameters()))
    for left, right in zip(found, gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-3)
