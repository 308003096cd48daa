"""An epoch's batches alone, which are to come five times as fast as a training takes them."""

import numpy as np
import pytest
from sasrec_pytorch import events_a_second, ours

from harness.data.batches import TrainingSequences
from harness.data.interactions import StoredInteractions
from harness.data.splits import leave_one_out

# As MovieLens-1M has them.
USERS, ITEMS, EVENTS = 6040, 3416, 999_611


@pytest.mark.parametrize("length", [50, 200])
def test_batches_come_five_times_as_fast_as_a_training_takes_them(benchmark, length):
    random = np.random.default_rng(0)
    shares = random.lognormal(0, 1, USERS)
    offsets = np.concatenate([[0], np.cumsum(5 + (shares / shares.sum() * (EVENTS - 6 * USERS)).astype(int))])
    items = random.integers(1, ITEMS + 1, offsets[-1], dtype=np.int32)
    split = leave_one_out(StoredInteractions(items, offsets, ITEMS))
    sequences = TrainingSequences(split, length, 128, 0)
    events = []

    def epoch():
        events[:] = [sum(batch.tokens for batch in sequences.epoch(1))]

    benchmark.group = "batches"
    benchmark(epoch)
    alone = events[0] / benchmark.stats.stats.median
    step = ours(split, length, "sasrec")
    events_a_second(step, 1.0)
    training = events_a_second(step, 4.0)
    benchmark.extra_info |= {"events_per_second": alone, "training_events_per_second": training}
    assert alone > 5 * training
