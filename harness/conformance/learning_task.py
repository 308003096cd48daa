"""A small task that only a model that learns can solve: items that follow from the last two."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.batches import TrainingSequences
from harness.data.interactions import StoredInteractions
from harness.data.splits import Split, leave_one_out
from harness.measure.losses import Criterion
from harness.measure.training.loop import checked_objective
from harness.measure.training.ranking import rank_model
from harness.records.spec import LossSpec
from models.base import SequenceModel

# A model of single targets needs 250 to 500 steps, the others 50 to 150; first-order counts reach 0.3.
LEARNING_DIGITS, LEARNING_LENGTH = 4, 8
LEARNING_BATCH, LEARNING_ROUND, LEARNING_STEPS = 64, 50, 800
LEARNING_ACCURACY = 0.7


def second_order(users: int, length: int, digits: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Histories whose next item is a function of the last two, but for one event in ten, which is any.

    An item is a pair of digits; the next one has the last one's first digit plus one and the second
    digit of the one before it. First-order counts know the first digit, and guess the second.

    Args:
        users: Number of histories.
        length: Events of each.
        digits: Base of the two digits; the catalogue has its square of items.
        random: Decides all of it.

    Returns:
        `[users, length]`, items from 1.
    """
    items = random.integers(0, digits**2, (users, length), dtype=np.int32)
    for t in range(2, length):
        following = (items[:, t - 1] // digits + 1) % digits * digits + items[:, t - 2] % digits
        items[:, t] = np.where(random.random(users) < 0.1, items[:, t], following)
    return items + 1


def learning_task() -> Split:
    """The task of the check `learns`: 16 items, 10 events a user, the last two of 512 users held out."""
    users, length = LEARNING_BATCH * LEARNING_ROUND, LEARNING_LENGTH + 2
    events = second_order(users, length, LEARNING_DIGITS, np.random.default_rng(0)).ravel()
    offsets = np.arange(users + 1, dtype=np.int64) * length
    return leave_one_out(StoredInteractions(events, offsets, LEARNING_DIGITS**2), np.arange(512))


def learn(model: SequenceModel) -> tuple[float, int]:
    """Train a model on `learning_task` under its own objective and loss, until it is good enough or out of steps.

    Args:
        model: Built for LEARNING_LENGTH events and the task's items; trained in place.

    Returns:
        HR@1 on the held-out events, and the steps taken.
    """
    split = learning_task()
    num_items, cpu = split.interactions.num_items, torch.device("cpu")
    model.train()
    objective = checked_objective(model)
    criterion = Criterion.of(LossSpec(name="declared"), objective.loss)
    sequences = TrainingSequences(split, LEARNING_LENGTH, LEARNING_BATCH, 0, objective.batch)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    accuracy, steps = 0.0, 0
    while accuracy < LEARNING_ACCURACY and steps < LEARNING_STEPS:
        for batch in sequences.epoch(steps):
            hidden = model(torch.from_numpy(batch.items)).flatten(0, 1)[torch.from_numpy(batch.positions)]
            targets = torch.from_numpy(batch.targets)
            loss = criterion(hidden, model.item_embedding.weight, targets, num_items, generator)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            steps += 1
        ranking = rank_model(
            model, split, "test", length=LEARNING_LENGTH, device=cpu, precision="float32", scoring=criterion.scoring
        )
        accuracy = float(np.mean(np.array(ranking.ranks) < 2))
    return accuracy, steps
