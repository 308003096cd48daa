"""Losses and objectives end to end: small models that can only learn where the harness is right."""

import shutil

import numpy as np
import pytest
import torch
from hits import hits
from torch import nn

from harness.data.batches import queries
from harness.data.interactions import StoredInteractions
from harness.data.splits import leave_one_out
from harness.errors import UserError
from harness.measure.losses import Scoring
from harness.measure.peak_memory import Peak
from harness.measure.training import loop
from harness.measure.training.ranking import rank_model
from harness.study.loss import LOSSES, loss_spec
from models.base import Cost, ModelConfig, Objective, SequenceModel

CPU = torch.device("cpu")
ITEMS = 24


class Window(SequenceModel):
    """Sees a window of three positions to either side (or to the left alone) and its own."""

    NAME, FAMILY, CAUSAL, CITATION, CONFIG = "window", "convolution", False, "", ModelConfig
    OBJECTIVE = Objective()
    MASK_ROWS = 1

    def __init__(self, config):
        super().__init__(config)
        width = config.hidden_size
        self.item_embedding = nn.Embedding(config.num_items + 1 + self.MASK_ROWS, width, padding_idx=0)
        self.convolution = nn.Conv1d(width, width, 7)
        self.output = nn.Linear(width, width)
        self.compiled = 0

    def compile(self, *args, **kwargs):
        self.compiled += 1

    def forward(self, items, timestamps=None):
        x = self.item_embedding(items).transpose(1, 2)
        before, after = (6, 0) if self.CAUSAL else (3, 3)
        x = self.convolution(nn.functional.pad(x, (before, after))).transpose(1, 2)
        return self.output(x.relu())

    def cost(self, batch, length):
        return Cost(1.0, 1.0, 1.0)

    def objective(self):
        return self.OBJECTIVE


class Causal(Window):
    CAUSAL, MASK_ROWS = True, 0


class Masked(Window):
    OBJECTIVE = Objective(batch="masked-item")


class Last(Window):
    OBJECTIVE, MASK_ROWS = Objective(batch="last-item"), 0


@pytest.fixture(scope="module")
def split():
    """The next item follows from the last one: all users walk one circle, from different starts."""
    random = np.random.default_rng(0)
    starts = random.integers(0, ITEMS, size=160)
    # Shorter than the circle, so that the target is never filtered out as seen; a third are at most L.
    lengths = random.integers(5, 16, size=160)
    items = np.concatenate([(s + np.arange(n)) % ITEMS + 1 for s, n in zip(starts, lengths, strict=True)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return leave_one_out(StoredInteractions(items.astype(np.int32), offsets.astype(np.int64), ITEMS))


def settings(**changes):
    values = {
        "length": 8,
        "epochs": 30,
        "patience": 30,
        "evaluate_every": 10,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "seed": 0,
        "precision": "float32",
        "loss": loss_spec("cross-entropy"),
        "compile": False,
    }
    return loop.Settings(**{**values, **changes})


def build(kind, seed=0):
    torch.manual_seed(seed)
    return kind(ModelConfig(num_items=ITEMS, max_length=8, hidden_size=32))


def train(kind, split, folder, **changes):
    chosen = settings(**changes)
    model = build(kind)
    store = loop.Store(folder / "run.ckpt", "identity", "sources", "machine")
    outcome = loop.train(model, split, chosen, CPU, store, Peak(CPU))
    return model, outcome


@pytest.mark.parametrize(("kind", "epochs"), [(Causal, 30), (Masked, 60), (Last, 60)])
def test_every_objective_learns_the_circle(kind, epochs, split, tmp_path):
    model, outcome = train(kind, split, tmp_path, epochs=epochs)
    assert outcome.validation["ndcg@10"] > 0.96
    test = rank_model(model, split, "test", length=8, device=CPU, precision="float32")
    assert hits(test, 1) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns_the_circle(name, split, tmp_path):
    negatives = {} if name == "cross-entropy" else {"negatives": 8}
    _, outcome = train(Causal, split, tmp_path, loss=loss_spec(name, negatives))
    assert outcome.validation["ndcg@10"] > 0.96


@pytest.mark.parametrize("name", ["cross-entropy", "sampled-softmax"])
def test_cosines_learn_the_circle_and_are_ranked_as_trained(name, split, tmp_path):
    chosen = loss_spec(name, {"normalise": True})
    model, outcome = train(Causal, split, tmp_path, loss=chosen)
    assert outcome.validation["ndcg@10"] > 0.96
    with torch.no_grad():
        # A long item would win every dot product; among cosines its length says nothing.
        model.item_embedding.weight[5] *= 100
    cosine = Scoring(normalise=True, temperature=0.05)
    options = {"length": 8, "device": CPU, "precision": "float32"}
    assert hits(rank_model(model, split, "validation", scoring=cosine, **options), 1) > 0.9
    assert hits(rank_model(model, split, "validation", **options), 1) < 0.9


def test_a_temperature_changes_no_rank(split):
    options = {"length": 8, "device": CPU, "precision": "float32"}
    plain = rank_model(build(Causal), split, "test", **options)
    assert rank_model(build(Causal), split, "test", scoring=Scoring(temperature=0.25), **options) == plain


def test_ranking_masked_items_reads_the_mask_after_a_shortened_history(split):
    model, seen = build(Masked), []
    hook = model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].numpy()))
    found = rank_model(model, split, "test", length=8, device=CPU, precision="float32")
    hook.remove()
    items = seen[0]
    assert items.shape[1] == 8
    lengths = (items > 0).sum(axis=1)
    assert (items[np.arange(len(items)), lengths - 1] == ITEMS + 1).all()
    assert ((items == ITEMS + 1).sum(axis=1) == 1).all()
    (query,) = queries(split, "test", length=7, batch_size=1000)
    with torch.no_grad():
        state = model(torch.from_numpy(items))[torch.arange(len(items)), torch.from_numpy(query.lengths)]
    scores = state @ model.item_embedding.weight[1 : ITEMS + 1].T
    seen_items = query.seen_items[query.seen_rows == 0]
    best = scores[0].masked_fill(torch.from_numpy(np.isin(np.arange(1, ITEMS + 1), seen_items)), -torch.inf)
    target = int(query.targets[0]) - 1
    assert found.ranks[0] == 1 + int((best > best[target]).sum())


def test_the_loss_is_a_mean_over_targets_and_tokens_count_real_positions(split, tmp_path):
    _, outcome = train(Masked, split, tmp_path, epochs=1, evaluate_every=1, learning_rate=1e-9)
    sequences = loop.TrainingSequences(split, 8, 32, 0, "masked-item")
    model, total, targets = build(Masked), 0.0, 0
    for batch in sequences.epoch(1):
        hidden = model(torch.from_numpy(batch.items)).detach().flatten(0, 1)[torch.from_numpy(batch.positions)]
        scores = hidden @ model.item_embedding.weight[1 : ITEMS + 1].detach().T
        wanted = torch.from_numpy(batch.targets)
        total += float(nn.functional.cross_entropy(scores, wanted - 1, reduction="sum"))
        targets += len(wanted)
    (epoch,) = outcome.epochs
    assert epoch.loss == pytest.approx(total / targets, rel=1e-5)
    assert epoch.tokens == sum(int((b.items > 0).sum()) for b in sequences.epoch(1))


@pytest.mark.parametrize("name", ["sampled-softmax", "gbce"])
def test_negatives_depend_on_seed_and_epoch_alone(name, split, tmp_path, monkeypatch):
    chosen = {"loss": loss_spec(name, {"negatives": 4}), "epochs": 2, "evaluate_every": 1}
    (tmp_path / "whole").mkdir()
    (tmp_path / "broken").mkdir()
    whole, _ = train(Causal, split, tmp_path / "whole", **chosen)
    saved = loop.checkpoint.save

    def save_then_die(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.checkpoint, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(Causal, split, tmp_path / "broken", **chosen)
    monkeypatch.setattr(loop.checkpoint, "save", saved)
    # What other code draws from the global generator must not matter.
    torch.manual_seed(99)
    continued, outcome = train(Causal, split, tmp_path / "broken", **chosen)
    assert outcome.resumed == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"OBJECTIVE": Objective(batch="next-item")}, ["non-causal", "sees its targets", "last-item"]),
        ({"OBJECTIVE": Objective(batch="masked-item"), "MASK_ROWS": 0}, ["masked-item", "26 rows", "not 25"]),
        ({"OBJECTIVE": Objective(batch="mask-item")}, ["mask-item", "masked-item"]),
        ({"OBJECTIVE": Objective(batch="last-item", loss="cross-entropi")}, ["cross-entropi", "cross-entropy"]),
        ({"OBJECTIVE": Objective(batch="last-item", loss="declared")}, ["declared", "cross-entropy"]),
    ],
)
def test_an_objective_that_cannot_be_trained_on_is_refused(changes, words, split, tmp_path):
    kind = type("Wrong", (Window,), changes)
    with pytest.raises(UserError) as caught:
        train(kind, split, tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_declared_means_the_loss_that_the_objective_names(split, tmp_path, monkeypatch):
    used = []
    original = loop.Criterion.of
    monkeypatch.setattr(loop.Criterion, "of", lambda *given: used.append(original(*given)) or used[-1])
    kind = type("Own", (Causal,), {"OBJECTIVE": Objective(loss="gbce")})
    train(kind, split, tmp_path, epochs=1, loss=loss_spec("declared"))
    assert (used[0].name, used[0].negatives, used[0].calibration) == ("gbce", 256, 0.75)


@pytest.mark.parametrize("wanted", [False, True])
def test_compilation_is_the_studys_choice(wanted, split, tmp_path):
    model, _ = train(Causal, split, tmp_path, epochs=1, compile=wanted)
    assert model.compiled == wanted


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_model_learns_the_same(split, tmp_path):
    kind = type("Compiled", (Causal,), {"compile": SequenceModel.compile})
    (tmp_path / "eager").mkdir()
    _, eager = train(Causal, split, tmp_path / "eager", epochs=3, evaluate_every=1)
    _, compiled = train(kind, split, tmp_path, epochs=3, evaluate_every=1, compile=True)
    for one, other in zip(eager.epochs, compiled.epochs, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_the_learning_rate_rises_over_the_warm_up_and_follows_its_schedule(schedule, warmup):
    chosen = settings(learning_rate=2.0, schedule=schedule, warmup_steps=warmup)
    rates = np.array([loop.learning_rate(chosen, step, 110) for step in range(110)])
    assert rates[:warmup] == pytest.approx(2.0 * np.arange(1, warmup + 1) / max(1, warmup))
    after = rates[warmup:]
    if schedule == "constant":
        assert (after == 2.0).all()
    else:
        assert after[0] == 2.0
        assert (np.diff(after) < 0).all()
        assert 0 < after[-1] < 0.01
        assert after[len(after) // 2] == pytest.approx(1.0, rel=0.05)


def test_weights_decay_and_norms_and_biases_do_not(split, tmp_path):
    start = build(Causal)
    # A step too small to move anything by the gradient.
    changes = {"optimiser": "adamw", "weight_decay": 1.0, "learning_rate": 1e-3, "epochs": 1, "gradient_clip": 1e-30}
    model, _ = train(Causal, split, tmp_path, evaluate_every=1, **changes)
    steps = loop.TrainingSequences(split, 8, 32, 0).steps
    before = dict(start.named_parameters())
    for name, after in model.named_parameters():
        factor = (1 - 1e-3) ** steps if after.ndim > 1 else 1.0
        torch.testing.assert_close(after, before[name] * factor, rtol=1e-4, atol=1e-6)
