"""Models one event at a time; what every one of them promises is in the conformance suite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conformance import checks
from models import registry
from models.base import StreamingModel
from models.gru4rec import GRU4Rec
from models.streaming import numbers, select

NAMES = [
    "fuxi-linear",
    "gru4rec",
    "hyenarec",
    "linear-attention",
    "lrurec",
    "mingru",
    "recblr",
    "retnet",
    "sasrec",
]
ITEMS = 30


def build(name, max_length, **options):
    kind = registry.load(name)
    torch.manual_seed(0)
    options = {"hidden_size": 16, "num_layers": 2, **options}
    return kind(kind.CONFIG(num_items=ITEMS, max_length=max_length, **options)).eval()


def items(batch, length, seed=1):
    return torch.randint(1, ITEMS + 1, (batch, length), generator=torch.Generator().manual_seed(seed))


def stepped(model, history, state):
    return torch.stack([model.step(history[:, t], state) for t in range(history.shape[1])], 1)


def error(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def streaming(kind):
    """The one finding of the conformance suite that is about streaming; the others are looked at in its own tests."""
    (finding,) = checks.check_class(kind, leave_out=checks._MODEL_CHECKS)
    assert finding.test == "streaming"
    return finding


@pytest.mark.parametrize("name", NAMES)
def test_streams_and_keeps_the_promise(name):
    kind = registry.load(name)
    assert issubclass(kind, StreamingModel)
    finding = streaming(kind)
    assert finding.passed, finding.detail


@settings(max_examples=15)
@given(batch=st.integers(1, 3), cut=st.integers(1, 39), limited=st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_stepping_on_from_a_prefill_is_the_full_pass(name, batch, cut, limited):
    model, history = build(name, 40), items(batch, 40)
    full = model(history)
    hidden, state = model.prefill(history[:, :cut], 40 if limited else None)
    assert state["age"] == cut
    assert error(hidden, full[:, :cut]) < 1e-4
    assert error(stepped(model, history[:, cut:], state), full[:, cut:]) < 1e-4
    assert state["age"] == 40


@pytest.mark.parametrize("name", NAMES)
def test_streaming_takes_no_part_in_training(name):
    model, history = build(name, 40, dropout=0.5), items(2, 40)
    quiet = model(history)
    model.train()
    hidden, _ = model.prefill(history)
    assert error(hidden, quiet) < 1e-4, "no dropout"
    found = stepped(model, history, model.stream(2))
    assert error(found, quiet) < 1e-4
    assert not found.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_new_weights_count(name):
    model, history = build(name, 40), items(1, 40)
    stepped(model, history, model.stream(1))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
    model(history).square().sum().backward()
    optimiser.step()
    assert error(stepped(model, history, model.stream(1)), model(history)) < 1e-4
    model.load_state_dict(build(name, 40).state_dict())
    assert error(stepped(model, history, model.stream(1)), model(history)) < 1e-4


def test_attention_keeps_every_event_and_the_others_do_not():
    # Beyond 512 events a Legendre kernel's stream is blocks, not a ring.
    kept = {name: [numbers(build(name, n).stream(1, n)) for n in (1024, 4096)] for name in NAMES}
    assert kept["sasrec"] == [2 * 2 * 16 * 1024, 2 * 2 * 16 * 4096]
    assert kept["gru4rec"][0] == kept["gru4rec"][1] == 128
    assert kept["lrurec"][0] == kept["lrurec"][1] == 2 * 2 * 32
    assert kept["mingru"][0] == kept["mingru"][1] == 2 * 32
    assert kept["linear-attention"][0] == kept["linear-attention"][1] == 2 * 16 * (8 + 1)
    assert kept["retnet"][0] == kept["retnet"][1] == 2 * 8 * 32
    assert kept["recblr"][0] == kept["recblr"][1] == 2 * 32 * 4
    assert kept["fuxi-linear"][0] == kept["fuxi-linear"][1] == 2 * 16 * (8 + 32)
    model = build("hyenarec", 4096)
    states = [model.prefill(items(1, n), 4096)[1] for n in (1000, 4000)]
    assert max(numbers(state) for state in states) < 2 * 16 * (2 * 64 + 2 * 16 * 6 + 8)


@pytest.mark.parametrize("length", [64, 513, 700, 1024, 3000, 4096])
@pytest.mark.parametrize("name", NAMES)
def test_the_declared_state_is_what_a_full_stream_keeps(name, length):
    model, history = build(name, length, num_layers=1), items(1, length)
    # Every chunk of a Legendre kernel's stream, since its state grows and shrinks.
    cuts = [0, *range(64, length, 64 if name == "hyenarec" else length // 2)]
    most = max(numbers(model.prefill(history[:, :n], length)[1] if n else model.stream(1, length)) for n in cuts)
    assert model.cost(1, length).state == pytest.approx(most, rel=0.25)


@pytest.mark.parametrize(
    "options",
    [{"kernel": "explicit"}, {"order": 3}, {"kernel_order": 64}, {"gates": False}, {"gates": "parallel"}],
    ids=str,
)
@pytest.mark.parametrize("length", [2, 512, 2048])
def test_the_declared_state_follows_hyenas_options(options, length):
    model, history = build("hyenarec", length, num_layers=1, **options), items(1, length)
    most = max(numbers(model.prefill(history[:, :n], length)[1]) for n in range(1, length, 64))
    assert model.cost(1, length).state == pytest.approx(most, rel=0.25)


@pytest.mark.parametrize("name", ["fuxi-linear", "linear-attention", "sasrec"])
def test_attention_ends_with_its_positions(name):
    model = build(name, 8)
    state = model.stream(1)
    stepped(model, items(1, 8), state)
    with pytest.raises(ValueError, match="limit of 8 events"):
        model.step(items(1, 1)[:, 0], state)
    with pytest.raises(ValueError, match="limit 9"):
        model.stream(1, 9)


@pytest.mark.parametrize("name", ["gru4rec", "hyenarec", "lrurec", "mingru", "recblr", "retnet"])
def test_a_stream_without_positions_ends_with_its_limit_alone(name):
    model, history = build(name, 8), items(1, 20)
    stepped(model, history, model.stream(1))
    stepped(model, history[:, :12], state := model.stream(1, 12))
    with pytest.raises(ValueError, match="limit of 12 events"):
        model.step(history[:, 12], state)
    with pytest.raises(ValueError, match="limit of 12 events"):
        model.prefill(history, 12)
    for start in (lambda: model.stream(1, 0), lambda: model.prefill(history[:, :1], 0)):
        with pytest.raises(ValueError, match="limit 0"):
            start()


@pytest.mark.parametrize("name", ["fuxi-linear", "linear-attention", "mingru", "retnet"])
def test_running_sums_stay_in_float32_under_autocast(name):
    model, history = build(name, 40), items(2, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = model.prefill(history[:, :30])
        found = stepped(model, history[:, 30:], state)
    sums = [value for own in state["blocks"] for value in own.values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in sums} == {torch.float32}
    assert error(found.float(), model(history)[:, 30:]) < 0.1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gates": False},
        {"gates": "parallel"},
        {"gates": "parallel", "short_convolution": 0},
        {"order": 3},
        {"short_convolution": 0},
        {"kernel_decay": False},
    ],
)
def test_hyena_streams_through_blocks_and_past_its_window(options):
    model, history = build("hyenarec", 600, initialisation="plain", **options), items(2, 1500)
    full = model(history)
    _, state = model.prefill(history[:, :500])
    assert error(stepped(model, history[:, 500:], state), full[:, 500:]) < 1e-4
    _, state = model.prefill(history[:, :1400])
    assert error(stepped(model, history[[1], 1400:], select(state, [1])), full[[1], 1400:]) < 1e-4


class Forgets(GRU4Rec):
    def step(self, items, state):
        state["hidden"] = torch.zeros_like(state["hidden"])
        return super().step(items, state)


class PrefillsNothing(GRU4Rec):
    def prefill(self, items, limit=None):
        return super().prefill(items)[0], self.stream(len(items))


class CannotBeSaved(GRU4Rec):
    def stream(self, batch, limit=None):
        return super().stream(batch) | {"model": type(self)}


@pytest.mark.parametrize("broken", [Forgets, PrefillsNothing, CannotBeSaved])
def test_a_model_that_breaks_the_promise_is_found(broken):
    assert not streaming(broken).passed
