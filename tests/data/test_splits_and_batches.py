import itertools

import numpy as np
import pytest

from harness.data.batches import TrainingSequences, queries
from harness.data.interactions import StoredInteractions, load, store
from harness.data.splits import leave_one_out


def stored(*histories, timestamps=False):
    items = np.concatenate([np.array(h, dtype=np.int32) for h in histories])
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    times = np.arange(len(items), dtype=np.int64) + 100 if timestamps else None
    return StoredInteractions(items, offsets, int(items.max()), times)


HISTORIES = ([1, 2, 3, 4, 5], [6, 2], [3], [7, 1, 7])


def test_store_and_load_round_trip(tmp_path):
    store(tmp_path, iter([[1, 2], [3] * 5000, [2]]), {"name": "x"})
    interactions, meta = load(tmp_path)
    assert interactions.items.tolist() == [1, 2, *[3] * 5000, 2]
    assert interactions.items.dtype == np.int32
    assert interactions.offsets.tolist() == [0, 2, 5002, 5003]
    assert isinstance(interactions.items, np.memmap)
    assert (interactions.num_users, interactions.num_events, interactions.num_items) == (3, 5003, 3)
    assert meta["name"] == "x"


def test_short_users_stay_in_training_only():
    split = leave_one_out(stored(*HISTORIES))
    assert split.users.tolist() == [0, 3]
    assert split.training_only == 2
    assert split.interactions.items[split.targets("test")].tolist() == [5, 7]
    assert split.interactions.items[split.targets("validation")].tolist() == [4, 1]
    training = split.training()
    assert training.items.tolist() == [1, 2, 3, 6, 2, 3, 7]
    assert training.offsets.tolist() == [0, 3, 5, 6, 7]
    assert training.num_items == 7


def test_split_hash_tells_order_and_boundaries_apart():
    hashes = {
        leave_one_out(stored(*histories)).sha256
        for histories in (([1, 2, 3, 4],), ([1, 2, 4, 3],), ([1, 2], [3, 4]), ([1], [2, 3, 4]), ([1, 2, 3], [4]))
    }
    assert len(hashes) == 5
    assert leave_one_out(stored([1, 2, 3, 4])).sha256 == leave_one_out(stored([1, 2, 3, 4])).sha256


def test_validation_query_is_training_and_test_query_adds_the_validation_item():
    split = leave_one_out(stored(*HISTORIES))
    (validation,) = queries(split, "validation", length=None, batch_size=9)
    (test,) = queries(split, "test", length=None, batch_size=9)
    assert validation.items.tolist() == [[1, 2, 3], [7, 0, 0]]
    assert validation.lengths.tolist() == [3, 1]
    assert validation.targets.tolist() == [4, 1]
    assert test.items.tolist() == [[1, 2, 3, 4], [7, 1, 0, 0]]
    assert test.targets.tolist() == [5, 7]


def test_seen_items_are_of_the_whole_history_and_never_the_target():
    split = leave_one_out(stored(*HISTORIES))
    (test,) = queries(split, "test", length=2, batch_size=9)
    assert test.items.tolist() == [[3, 4], [7, 1]]
    pairs = sorted(zip(test.seen_rows.tolist(), test.seen_items.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 1)]


def test_training_sequences_by_hand():
    sequences = TrainingSequences(leave_one_out(stored(*HISTORIES, timestamps=True)), 8, 9, seed=0)
    assert len(sequences) == 2
    (batch,) = sequences.epoch(1)
    rows = sorted(zip(batch.items.tolist(), batch.targets.tolist(), batch.timestamps.tolist(), strict=True))
    assert rows == [([1, 2], [2, 3], [100, 101]), ([6, 0], [2, 0], [105, 0])]
    assert batch.tokens == 3


def test_a_sequence_is_the_last_events_before_the_held_out_ones():
    sequences = TrainingSequences(leave_one_out(stored(range(1, 11))), 3, 9, seed=0)
    (batch,) = sequences.epoch(1)
    assert batch.items.tolist() == [[5, 6, 7]]
    assert batch.targets.tolist() == [[6, 7, 8]]


def test_order_depends_on_seed_and_epoch_alone():
    split = leave_one_out(stored(*([u, u + 1, u + 2, u + 3] for u in range(1, 60))))

    def firsts(seed, epoch):
        return [b.items[:, 0].tolist() for b in TrainingSequences(split, 4, 8, seed).epoch(epoch)]

    assert firsts(0, 3) == firsts(0, 3)
    assert len({str(firsts(s, e)) for s in (0, 1) for e in (1, 2)}) == 4
    assert sorted(itertools.chain(*firsts(1, 2))) == list(range(1, 60))
    assert [len(b) for b in firsts(0, 1)] == [8] * 7 + [3]


def test_batches_are_padded_to_their_longest():
    split = leave_one_out(stored([1, 2, 3, 4, 5], [1] * 50))
    widths = {b.items.shape[1] for b in TrainingSequences(split, 100, 1, 0).epoch(1)}
    assert widths == {2, 47}


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_all_ranked_users_come_in_order(held_out):
    split = leave_one_out(stored(*([u, u + 1, u + 2] for u in range(1, 30))))
    targets = np.concatenate([q.targets for q in queries(split, held_out, length=2, batch_size=4)])
    assert targets.tolist() == split.interactions.items[split.targets(held_out)].tolist()
