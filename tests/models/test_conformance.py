import random
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from hits import hits
from torch import nn

from harness.conformance.checks import check, check_class
from harness.conformance.learning_task import LEARNING_ACCURACY, learning_task, second_order
from harness.errors import UserError
from harness.measure.training.ranking import rank_scorer
from models import registry
from models.base import Cost, ModelConfig, SequenceModel, initialise_embedding
from models.gru4rec import GRU4Rec
from models.markov import Markov


def alternatives():
    """Every model with each other legal value of each option that lists its values."""
    for name in registry.names(reference=False):
        for option, field in registry.options(name).items():
            legal = (True, False) if field.type_name == "bool" else field.legal or ()
            for value in legal:
                if value != field.default:
                    yield pytest.param(name, {option: value}, id=f"{name}-{option}-{value}")


def failures(findings):
    return {f.test: f.detail for f in findings if not f.passed}


@pytest.mark.parametrize("name", registry.names())
def test_keeps_every_promise(name):
    assert failures(check(name)) == {}


# That it learns takes most of the time, and hardly depends on an option; with each option it is a slow test.
@pytest.mark.parametrize(("name", "options"), list(alternatives()))
def test_keeps_every_promise_with_every_option(name, options):
    assert failures(check(name, options, leave_out={"learns"})) == {}


@pytest.mark.parametrize("name", registry.names(reference=False))
def test_keeps_every_promise_at_other_sizes(name):
    assert failures(check(name, {"hidden_size": 24, "num_layers": 3}, leave_out={"learns"})) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [*alternatives(), *((name, {"hidden_size": 24, "num_layers": 3}) for name in registry.names(reference=False))],
)
def test_learns_with_every_option_and_at_other_sizes(name, options):
    assert failures(check(name, options)) == {}


def test_errors_name_the_value():
    with pytest.raises(UserError, match="'hyenarek'"):
        check("hyenarek")
    with pytest.raises(UserError, match="'heads'"):
        check("sasrec", {"heads": 3})


class Pair(SequenceModel):
    """Keeps every promise; the classes below break one each."""

    NAME, FAMILY, CAUSAL, CITATION, CONFIG = "pair", "attention", True, "", ModelConfig

    def __init__(self, config):
        super().__init__(config)
        self.item_embedding = nn.Embedding(config.num_items + 1, config.hidden_size, padding_idx=0)
        initialise_embedding(self.item_embedding)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, items, timestamps=None):
        return self.output(self.mix(self.item_embedding(items)))

    def mix(self, x):
        return x + nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]

    def cost(self, batch, length):
        return Cost(2.0 * batch * length * self.config.hidden_size**2, 1.0, 1.0)


class LooksAhead(Pair):
    def mix(self, x):
        return x + x.roll(-1, 1)


class LooksAheadWithoutTimes(Pair):
    def forward(self, items, timestamps=None):
        x = self.item_embedding(items)
        return self.output(x.cumsum(1) if timestamps is not None else x + x.roll(-1, 1))


class LooksAheadWithTimes(Pair):
    def forward(self, items, timestamps=None):
        x = self.item_embedding(items)
        return self.output(x.cumsum(1) if timestamps is None else x + x.roll(-1, 1))


class LooksAheadInTraining(Pair):
    def mix(self, x):
        return x + x.roll(-1, 1) if self.training else x.cumsum(1)


class LooksAheadInEvaluation(Pair):
    def mix(self, x):
        return x.cumsum(1) if self.training else x + x.roll(-1, 1)


class LooksAheadInsideItsChunk(Pair):
    """A chunk of 64 reads its own sum, its end included; up to one chunk there is no such sum."""

    def mix(self, x):
        sums = [part.sum(1, keepdim=True).expand_as(part) for part in x.split(64, 1)]
        return x.cumsum(1) if len(sums) == 1 else x + torch.cat(sums, 1)


class LooksAtTheNextChunk(Pair):
    """The last event of a chunk of 64 reads the first of the next."""

    def mix(self, x):
        opening = x[:, 64::64]
        y = x.clone()
        y[:, 63:-1:64] += opening
        return y


class CountsItsChunks(Pair):
    def mix(self, x):
        return x * (1 + x.shape[1] // 64)


class MixesTheBatchAfterAChunk(Pair):
    def mix(self, x):
        return torch.cat([x[:, :64], x[:, 64:] + x[:, 64:].mean(0, keepdim=True)], 1)


class DividesByZeroAfterAChunk(Pair):
    def mix(self, x):
        return x / (x.shape[1] <= 64)


class ForgetsAfterAChunk(GRU4Rec):
    def step(self, items, state):
        if state["age"] == 64:
            state.update(self.stream(len(items)) | {"age": 64})
        return super().step(items, state)


class SeesPadding(Pair):
    CAUSAL = False

    def mix(self, x):
        return x + x.mean(1, keepdim=True)


class ClaimsToLookAhead(Pair):
    CAUSAL = False


class MixesTheBatch(Pair):
    def mix(self, x):
        return x + x.mean(0, keepdim=True)


class HasADeadParameter(Pair):
    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.zeros(3))


class DividesByZero(Pair):
    def mix(self, x):
        return x / (x - x.mean(1, keepdim=True))


class ForgetsState(Pair):
    def __init__(self, config):
        super().__init__(config)
        self.scale = torch.rand(())

    def mix(self, x):
        return x.cumsum(1) * self.scale


class IgnoresTheSeed(Pair):
    def mix(self, x):
        return x.cumsum(1) * random.random()


class CannotLearn(Pair):
    """Its inputs are so small that no gradient gets past Adam's epsilon."""

    def mix(self, x):
        return super().mix(1e-9 * x)


class SeesOnlyTheLastItem(Pair):
    def mix(self, x):
        return x


class UnderstatesItsCost(Pair):
    def cost(self, batch, length):
        return Cost(batch * length * 64.0**2, 1.0, 1.0)


class Crashes(Pair):
    def mix(self, x):
        if x.shape[1] == 1:
            raise RuntimeError("too short")
        return x


def test_a_sound_model_passes():
    assert failures(check_class(Pair)) == {}


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (LooksAhead, "causality"),
        (LooksAheadWithoutTimes, "causality"),
        (LooksAheadWithTimes, "causality"),
        (LooksAheadInTraining, "causality"),
        (LooksAheadInEvaluation, "causality"),
        (LooksAheadInsideItsChunk, "causality"),
        (LooksAtTheNextChunk, "causality"),
        (CountsItsChunks, "right-padding"),
        (MixesTheBatchAfterAChunk, "batch-independence"),
        (DividesByZeroAfterAChunk, "extremes"),
        (DividesByZeroAfterAChunk, "gradients"),
        (ForgetsAfterAChunk, "streaming"),
        (ClaimsToLookAhead, "causality"),
        (ClaimsToLookAhead, "objective"),
        (SeesPadding, "right-padding"),
        (MixesTheBatch, "batch-independence"),
        (HasADeadParameter, "gradients"),
        (DividesByZero, "extremes"),
        (ForgetsState, "state-dict"),
        (IgnoresTheSeed, "determinism"),
        (UnderstatesItsCost, "cost"),
        (CannotLearn, "learns"),
        (SeesOnlyTheLastItem, "learns"),
        (Crashes, "extremes"),
    ],
)
def test_a_broken_promise_is_found(kind, test):
    assert test in broken(kind, test == "learns")


@cache
def broken(kind, learns):
    """Whether it learns takes longest, and is looked at where that is the promise."""
    return failures(check_class(kind, leave_out=() if learns else {"learns"}))


def test_the_learning_task_is_beyond_first_order_counts():
    split = learning_task()
    markov = Markov()
    markov.fit(split.training())
    assert 0.15 < hits(rank_scorer(markov, split, "test"), 1) < LEARNING_ACCURACY / 2


def test_a_crash_says_what_was_raised():
    assert failures(check_class(Crashes))["extremes"] == "RuntimeError: too short"


def objective_batch(batch, items, generator):
    """What the harness's objective makes of whole sequences: inputs, and targets where there are any."""
    if batch == "masked-item":
        targets = torch.where(torch.rand(items[:, 1:].shape, generator=generator) < 0.2, items[:, 1:], 0)
        return torch.where(targets > 0, 101, items[:, 1:]), targets
    targets = items[:, 1:].clone()
    if batch == "last-item":
        targets[:, :-1] = 0
    return items[:, :-1], targets


def asked_for_the_next(batch, items):
    """The history, and in a model of masked items a mask after it."""
    return torch.nn.functional.pad(items[:, 1:-1], (0, 1), value=101) if batch == "masked-item" else items[:, :-1]


def tied_ranking_loss(model, inputs, targets):
    hidden = model(inputs)[targets > 0]
    scores = hidden @ model.item_embedding.weight[1 : model.config.num_items + 1].T
    return nn.functional.cross_entropy(scores, targets[targets > 0] - 1)


def second_order_batch(count, length, numbers):
    return torch.from_numpy(second_order(count, length, 10, numbers)).long()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names(reference=False))
def test_learns_more_than_first_order_counts(name):
    """The check `learns` on 100 items and 32 events, with dropout and without the harness's batches."""
    generator, numbers = torch.Generator().manual_seed(0), np.random.default_rng(0)
    held_out = second_order_batch(256, 33, numbers)
    counts = Counter()
    kind = registry.load(name)
    torch.manual_seed(0)
    model = kind(kind.CONFIG(num_items=100, max_length=32, dropout=0.1))
    optimiser, batch = torch.optim.Adam(model.parameters(), 3e-3), model.objective().batch
    # Where an objective gives fewer targets a sequence, it takes more sequences.
    for _ in range(300 if batch == "next-item" else 1_000):
        items = second_order_batch(64, 33, numbers)
        for before, after in zip(items[:, :-1].flatten().tolist(), items[:, 1:].flatten().tolist(), strict=True):
            counts[before, after] += 1
        optimiser.zero_grad()
        tied_ranking_loss(model, *objective_batch(batch, items, generator)).backward()
        optimiser.step()
    with torch.no_grad():
        hidden = model.eval()(asked_for_the_next(batch, held_out))[:, -1]
        scores = hidden @ model.item_embedding.weight[1:101].T
    hits = float((scores.argmax(1) + 1 == held_out[:, -1]).float().mean())
    best = {before: max(range(1, 101), key=lambda item: counts[before, item]) for before in range(1, 101)}
    markov = sum(best[b] == a for b, a in held_out[:, -2:].tolist()) / len(held_out)
    assert hits > markov + 0.1, (hits, markov)
