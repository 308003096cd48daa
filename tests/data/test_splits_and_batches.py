import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.batches import TrainingSequences, queries
from harness.data.formats import pairs as pairs_format
from harness.data.formats import sequences as sequences_format
from harness.data.interactions import StoredInteractions, load, store
from harness.data.reading.lines import ItemIds
from harness.data.splits import global_temporal, leave_one_out


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
    (validation,) = queries(split, "validation", length=9, batch_size=9)
    (test,) = queries(split, "test", length=9, batch_size=9)
    assert validation.items.tolist() == [[1, 2, 3], [7, 0, 0]]
    assert validation.lengths.tolist() == [3, 1]
    assert validation.targets.tolist() == [4, 1]
    assert test.items.tolist() == [[1, 2, 3, 4], [7, 1, 0, 0]]
    assert test.targets.tolist() == [5, 7]


def test_seen_items_are_those_of_the_whole_history():
    split = leave_one_out(stored(*HISTORIES))
    (test,) = queries(split, "test", length=2, batch_size=9)
    assert test.items.tolist() == [[3, 4], [7, 1]]
    pairs = list(zip(test.seen_rows.tolist(), test.seen_items.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 7), (1, 1)]


def test_whole_histories_come_with_others_as_long(monkeypatch):
    split = leave_one_out(stored([1] * 9, [2] * 4, [3] * 9, [4] * 5))
    found = list(queries(split, "test", length=None, batch_size=2))
    assert [q.items.tolist() for q in found] == [[[2, 2, 2, 0], [4, 4, 4, 4]], [[1] * 8, [3] * 8]]
    assert [q.places.tolist() for q in found] == [[1, 3], [0, 2]]
    monkeypatch.setattr("harness.data.batches._EVENTS_PER_BATCH", 10)
    assert [q.places.tolist() for q in queries(split, "test", length=None, batch_size=9)] == [[1, 3], [0], [2]]
    assert [q.places.tolist() for q in queries(split, "test", length=1, batch_size=9)] == [[0], [1], [2], [3]]


def test_training_sequences_by_hand():
    sequences = TrainingSequences(leave_one_out(stored(*HISTORIES, timestamps=True)), 8, 9, seed=0)
    assert len(sequences) == 2
    (batch,) = sequences.epoch(1)
    rows = zip(batch.items.tolist(), batch.timestamps.tolist(), strict=True)
    assert list(rows) == [([1, 2], [100, 101]), ([6, 0], [105, 0])]
    assert (batch.targets.tolist(), batch.positions.tolist()) == ([2, 3, 2], [0, 1, 2])
    assert batch.tokens == 3


def test_a_sequence_is_the_last_events_before_the_held_out_ones():
    sequences = TrainingSequences(leave_one_out(stored(range(1, 11))), 3, 9, seed=0)
    (batch,) = sequences.epoch(1)
    assert batch.items.tolist() == [[5, 6, 7]]
    assert batch.targets.tolist() == [6, 7, 8]


def test_order_depends_on_seed_and_epoch_alone():
    split = leave_one_out(stored(*([u, u + 1, u + 2, u + 3] for u in range(1, 60))))

    def firsts(seed, epoch):
        return [b.items[:, 0].tolist() for b in TrainingSequences(split, 4, 8, seed).epoch(epoch)]

    assert firsts(0, 3) == firsts(0, 3)
    assert len({str(firsts(s, e)) for s in (0, 1) for e in (1, 2)}) == 4
    assert sorted(itertools.chain(*firsts(1, 2))) == list(range(1, 60))
    assert sorted(len(b) for b in firsts(0, 1)) == [3] + [8] * 7


def test_batches_are_padded_to_their_longest():
    split = leave_one_out(stored([1, 2, 3, 4, 5], [1] * 50))
    widths = {b.items.shape[1] for b in TrainingSequences(split, 100, 1, 0).epoch(1)}
    assert widths == {2, 47}


def test_sequences_of_like_length_share_a_batch_of_like_size():
    random = np.random.default_rng(0)
    lengths = random.geometric(0.05, 2000) + 3
    split = leave_one_out(stored(*(random.integers(1, 9, n) for n in lengths)))
    sequences = TrainingSequences(split, 60, 32, seed=1)
    batches = list(sequences.epoch(1))
    assert len(batches) == sequences.steps
    tokens, positions = sum(b.tokens for b in batches), np.array([b.items.size for b in batches])
    inputs = np.minimum(lengths - 3, 60)
    assert tokens == inputs.sum()
    assert positions.sum() < tokens / 0.95
    assert positions.max() <= 32 * inputs[inputs > 0].mean()
    assert np.median(positions) > 0.9 * positions.max()
    # Who of one length comes together, and when, differs from epoch to epoch.
    widths = [[b.items.shape for b in sequences.epoch(epoch)] for epoch in (1, 2)]
    assert widths[0] != widths[1]
    assert sorted(widths[0]) == sorted(widths[1])


def test_an_error_while_a_batch_is_cut_ends_the_epoch(monkeypatch):
    sequences = TrainingSequences(leave_one_out(stored(*HISTORIES)), 8, 1, seed=0)
    monkeypatch.setattr(sequences, "_batch", lambda chosen, random: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(sequences.epoch(1))


@pytest.mark.skipif("HYENAREC_DATA" not in os.environ, reason="needs the real data sets in HYENAREC_DATA")
@pytest.mark.parametrize("length", [50, 200])
@pytest.mark.parametrize("name", ["ml-1m/ml-1m.txt", "amazon/Beauty.txt"])
def test_few_positions_of_real_data_are_padding(name, length):
    path = Path(os.environ["HYENAREC_DATA"]) / name
    ids = ItemIds()
    read = sequences_format.read if name.startswith("amazon") else pairs_format.read
    histories, _ = read(path, ids)
    sequences = TrainingSequences(leave_one_out(stored(*histories)), length, 128, seed=0)
    batches = list(sequences.epoch(1))
    assert 1 - sum(b.tokens for b in batches) / sum(b.items.size for b in batches) < 0.05


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_all_ranked_users_come_in_order(held_out):
    split = leave_one_out(stored(*([u, u + 1, u + 2] for u in range(1, 30))))
    targets = np.concatenate([q.targets for q in queries(split, held_out, length=2, batch_size=4)])
    assert targets.tolist() == split.interactions.items[split.targets(held_out)].tolist()


def timed(*histories):
    """Users as lists of (item, time)."""
    items = np.array([item for history in histories for item, _ in history], dtype=np.int32)
    times = np.array([time for history in histories for _, time in history], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    return StoredInteractions(items, offsets, int(items.max()), times)


def of(split, held_out):
    """User → items held out, and the history before them."""
    interactions, held = split.interactions, split.held(held_out)
    return {
        int(user): (
            interactions.items[end : end + count].tolist(),
            interactions.items[interactions.offsets[user] : end].tolist(),
        )
        for user, end, count in zip(held.users, held.ends, held.counts, strict=True)
    }


def test_global_temporal_by_hand():
    """Training below time 8, validation at 8, test at 9; the second user comes too late, the others are early."""
    split = global_temporal(
        timed(
            [(1, 0), (2, 1), (3, 8), (4, 9)],
            [(5, 9)],
            [(6, 2), (7, 3), (1, 4)],
            [(2, 5), (3, 6), (8, 7)],
        )
    )
    assert split.interactions.num_users == 3
    assert split.interactions.num_items == 8
    assert of(split, "validation") == {0: ([3], [1, 2])}
    assert of(split, "test") == {0: ([4], [1, 2, 3])}
    training = split.training()
    assert training.items.tolist() == [1, 2, 6, 7, 1, 2, 3, 8]
    assert training.offsets.tolist() == [0, 2, 5, 8]


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), min_size=1, max_size=12), min_size=1, max_size=12
    )
)
def test_global_temporal_never_learns_from_later(histories):
    interactions = timed(*[sorted(history, key=lambda event: event[1]) for history in histories])
    split = global_temporal(interactions)
    times, stored = split.interactions.timestamps, split.interactions
    seen = {name: times[split.targets(name)] for name in ("validation", "test")}
    training = split.training()
    latest = training.timestamps.max(initial=-1)
    assert (seen["validation"] > latest).all()
    assert (seen["test"] > max(latest, seen["validation"].max(initial=-1))).all()
    # Every event of those who are kept is in exactly one part, and nobody is kept without a training event.
    assert training.num_events + sum(map(len, seen.values())) == stored.num_events
    assert (training.lengths > 0).all()
    for name in ("validation", "test"):
        held = split.held(name)
        assert (stored.offsets[held.users] < held.ends).all()
    # Who is left out has nothing before the validation.
    assert stored.num_events == interactions.num_events or interactions.timestamps.max() >= latest


def test_global_temporal_needs_times():
    with pytest.raises(ValueError, match="needs times"):
        global_temporal(stored(*HISTORIES))
