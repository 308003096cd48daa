"""Ranking the whole catalogue for every held-out event.

Rank r = 1 + number of items scored higher + half the ties. Ranks are what is kept: of the metrics
(harness/metrics.py) only the one that epochs are chosen by is computed here. Sampled metrics are not
offered: they order models differently (Krichene and Rendle, KDD 2020).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from harness.data.batches import Query, queries, with_mask
from harness.data.splits import HeldOut, Split
from harness.measure import runtime
from harness.measure.losses import Scoring
from harness.metrics import SELECTION, ndcg
from harness.records.schema import Ranking
from models.base import Scorer, SequenceModel

# 64 MiB of float32 scores a batch of users, so that a large catalogue does not set the peak.
_SCORES_PER_BATCH = 1 << 24
_MOST_USERS = 256


class NotFiniteError(ValueError):
    """Scores hold NaN or infinity: NaN compares false with everything and would look like rank 1."""


def ranks(scores: Tensor, query: Query) -> Tensor:
    """Ranks of the held-out items, each among itself and the items that its history has not had.

    Args:
        scores: `[B, V]`, column j is item j + 1; overwritten.
        query: The held-out items, and the items to leave out.

    Returns:
        `[P]` float64.

    Raises:
        NotFiniteError: A score is NaN or infinite.
    """
    if not runtime.is_finite(scores):
        raise NotFiniteError(
            "scores hold NaN or infinity, so they cannot be ranked; training diverged or the model is wrong"
        )
    pairs = (query.rows, query.targets - 1, query.seen_rows, query.seen_items - 1)
    rows, targets, seen_rows, seen_items = (torch.from_numpy(numbers).to(scores.device) for numbers in pairs)
    own = scores[rows, targets]
    scores[seen_rows, seen_items] = -torch.inf
    found = []
    # As many rows at once as there are, however many items are held out after each.
    for first in range(0, len(rows), len(scores)):
        part = slice(first, first + len(scores))
        score = own[part, None]
        others = scores.index_select(0, rows[part]).scatter_(1, targets[part, None], score)
        # Items above less items below.
        found.append(others.sub_(score).sign_().sum(dim=1, dtype=torch.float64))
    return (torch.cat(found) + (scores.shape[1] + 1)) / 2


def rank_model(
    model: SequenceModel,
    split: Split,
    held_out: HeldOut,
    *,
    length: int,
    device: torch.device,
    precision: str,
    scoring: Scoring | None = None,
) -> Ranking:
    """Rank with a trained model, in evaluation mode; scores are computed in float32.

    The hidden state at the last real position is scored. A model of masked items gets a mask there,
    after a history that is shortened to make room for it.

    Args:
        model: Left in the mode it came in.
        split: Who is ranked on what.
        held_out: `validation` or `test`.
        length: Longest history L given to the model.
        device: Where the model lies.
        precision: `float32`, or `bfloat16` for autocast.
        scoring: How the loss scored items; default: by the dot product.
    """
    num_items = split.interactions.num_items
    masked = model.objective().batch == "masked-item"
    scoring = scoring or Scoring()
    was_training = model.training
    model.eval()
    table = scoring.table(model.item_embedding.weight.detach()[1 : num_items + 1].float())

    def score(query: Query) -> Tensor:
        if masked:
            query = with_mask(query, num_items + 1)
        items = torch.from_numpy(query.items).to(device)
        times = None if query.timestamps is None else torch.from_numpy(query.timestamps).to(device)
        last = torch.from_numpy(query.lengths - 1).to(device)
        with runtime.autocast(device, precision):
            hidden = model(items, times)
        states = hidden[torch.arange(len(items), device=device), last].float()
        scores: Tensor = scoring.states(states) @ table.T
        return scores

    try:
        # Not inference_mode: what a model caches here must stay usable in the next training step.
        with torch.no_grad():
            return rank(score, split, held_out, length - 1 if masked else length)
    finally:
        model.train(was_training)


def rank_scorer(scorer: Scorer, split: Split, held_out: HeldOut) -> Ranking:
    """Rank with a fitted reference, which sees the whole history."""

    def score(query: Query) -> Tensor:
        return torch.from_numpy(scorer.scores(query.items, query.lengths))

    return rank(score, split, held_out, None)


def rank(score: Callable[[Query], Tensor], split: Split, held_out: HeldOut, length: int | None) -> Ranking:
    """Rank by any function of a query.

    Args:
        score: Gives `[B, V]` finite scores, which are overwritten.
        split: What is ranked after what.
        held_out: `validation` or `test`.
        length: Longest history in a query; None: all of it.
    """
    batch_size = min(_MOST_USERS, max(1, _SCORES_PER_BATCH // split.interactions.num_items))
    held = split.held(held_out)
    found = np.empty(held.counts.sum())
    for query in queries(split, held_out, length=length, batch_size=batch_size):
        found[query.places] = ranks(score(query), query).cpu().numpy()
    users = np.repeat(held.users, held.counts)
    alike = np.array_equal(users, split.users)
    return Ranking(metrics={SELECTION: ndcg(found, 10)}, ranks=found.tolist(), users=None if alike else users.tolist())
