"""Untrained references: counted on the training events, ranked like everything else."""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import torch

from harness.data.batches import Query
from harness.data.splits import HeldOut, Split
from harness.measure.training import ranking
from harness.records.schema import ModelFacts, Ranking
from harness.records.spec import ModelSpec
from models import registry
from models.base import Scorer

_CHUNK = 1 << 22
_HELD_OUT: tuple[HeldOut, ...] = ("validation", "test")


def fit(name: str, split: Split) -> tuple[Scorer, float]:
    """A fitted reference and the seconds that fitting took.

    Args:
        name: Registered name.
        split: Only its training events are shown.
    """
    scorer = cast("type[Scorer]", registry.load(name))()
    training = split.training()
    start = time.perf_counter()
    scorer.fit(training)
    return scorer, time.perf_counter() - start


def facts(model_spec: ModelSpec, scorer: Scorer) -> ModelFacts:
    """What the report needs of a reference; it has no parameters and no predicted cost."""
    return ModelFacts(
        label=model_spec.label,
        name=model_spec.name,
        family=scorer.FAMILY,
        causal=scorer.CAUSAL,
        citation=scorer.CITATION,
        options=model_spec.options,
    )


def popularity(split: Split, held_out: HeldOut) -> Ranking:
    """What ranking by training counts reaches: the yardstick of collapse."""
    stored = split.interactions
    counts = np.zeros(stored.num_items + 1, dtype=np.int64)
    # In chunks, and less the held-out events: bincount of a mapped array would copy all of it.
    for start in range(0, stored.num_events, _CHUNK):
        counts += np.bincount(stored.items[start : start + _CHUNK], minlength=len(counts))
    for event in _HELD_OUT:
        counts -= np.bincount(stored.items[split.targets(event)], minlength=len(counts))
    shown = counts[1:].astype(np.float64)

    def score(query: Query) -> torch.Tensor:
        return torch.from_numpy(np.tile(shown, (len(query.lengths), 1)))

    return ranking.rank(score, split, held_out, None)
