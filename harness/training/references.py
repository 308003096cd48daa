"""Untrained references: counted on the training events, ranked like everything else."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
import torch

from harness.data.batches import Query
from harness.data.splits import HeldOut, Split
from harness.record import ModelFacts, Ranking
from harness.training import ranking
from models import registry
from models.base import Scorer


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


def facts(model_spec: dict[str, Any], scorer: Scorer) -> ModelFacts:
    """What the report needs of a reference; it has no parameters and no predicted cost."""
    return ModelFacts(
        label=model_spec["label"],
        name=model_spec["name"],
        family=scorer.FAMILY,
        causal=scorer.CAUSAL,
        citation=scorer.CITATION,
        options=model_spec["options"],
    )


def popularity(split: Split, held_out: HeldOut) -> Ranking:
    """What ranking by training counts reaches: the yardstick of collapse."""
    training = split.training()
    counts = np.bincount(training.items, minlength=training.num_items + 1)[1:].astype(np.float64)

    def score(query: Query) -> torch.Tensor:
        return torch.from_numpy(np.tile(counts, (len(query.lengths), 1)))

    return ranking.rank(score, split, held_out, None)
