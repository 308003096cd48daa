import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.batches import OBJECTIVES, TrainingSequences, queries, with_mask
from harness.data.interactions import StoredInteractions
from harness.data.splits import leave_one_out


def stored(histories, timestamps=True):
    items = np.concatenate([np.array(h, dtype=np.int32) for h in histories])
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    # From 0: the time of an event may be 0, which is also what padding carries.
    times = np.arange(len(items), dtype=np.int64) if timestamps else None
    return StoredInteractions(items, offsets, int(items.max()), times)


def batches(histories, length, objective, epoch=1, batch_size=3, seed=0, timestamps=True):
    split = leave_one_out(stored(histories, timestamps))
    return list(TrainingSequences(split, length, batch_size, seed, objective).epoch(epoch))


def targets_of(batch):
    """Targets as `[B, T]`, 0 where a position has none."""
    found = np.zeros(batch.items.size, dtype=np.int64)
    found[batch.positions] = batch.targets
    return found.reshape(batch.items.shape)


def rows(histories, length, objective, **options):
    return [
        (items[items > 0].tolist(), targets[: (items > 0).sum()].tolist(), times[: (items > 0).sum()].tolist())
        for batch in batches(histories, length, objective, **options)
        for items, targets, times in zip(batch.items, targets_of(batch), batch.timestamps, strict=True)
    ]


# Distinct items, so that a row tells which user it is of.
HISTORIES = [list(range(1, 13)), list(range(13, 18)), [18, 19], list(range(20, 60))]
TRAINING = [h[:-2] if len(h) > 2 else h for h in HISTORIES]
MASK = 60
histories = st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=25), min_size=1, max_size=8).filter(
    lambda h: any(len(x) == 2 or len(x) > 3 for x in h)
)


@pytest.mark.parametrize("length", [3, 10, 37, 100])
def test_masked_items_stand_in_the_last_events(length):
    found = rows(HISTORIES, length, "masked-item")
    assert len(found) == 4
    for items, targets, times in found:
        original = [t or i for i, t in zip(items, targets, strict=True)]
        (whole,) = [h for h in TRAINING if h[-1] == original[-1]]
        assert original == whole[-length:]
        assert times == [item - 1 for item in original]
        masked = [i == MASK for i in items]
        assert masked == [t > 0 for t in targets]
        assert sum(masked) == max(1, round(0.2 * len(items)))


def test_every_position_is_masked_alike():
    counts = np.zeros(10)
    for epoch in range(1, 1001):
        (batch,) = batches([list(range(1, 13))], 10, "masked-item", epoch=epoch)
        counts += targets_of(batch)[0] > 0
    assert np.abs(counts / 1000 - 0.2).max() < 0.05


@pytest.mark.parametrize("length", [3, 10, 100])
def test_a_last_item_has_its_own_past_alone_before_it(length):
    for epoch in range(1, 30):
        for items, targets, times in rows(HISTORIES, length, "last-item", epoch=epoch):
            assert [t > 0 for t in targets] == [False] * (len(items) - 1) + [True]
            (whole,) = [h for h in TRAINING if items[-1] in h]
            window = whole[-length - 1 :]
            cut = window.index(targets[-1])
            assert items == window[:cut]
            assert times == [item - 1 for item in items]


def test_every_prefix_comes_up_alike():
    cuts = [
        len(items)
        for epoch in range(1, 1001)
        for items, _, _ in rows([list(range(1, 13))], 5, "last-item", epoch=epoch)
    ]
    assert np.abs(np.bincount(cuts, minlength=6)[1:] / 1000 - 0.2).max() < 0.05


@settings(max_examples=60)
@given(histories, st.integers(1, 12), st.sampled_from(sorted(OBJECTIVES)), st.integers(0, 3), st.booleans())
def test_every_batch_is_right_padded_within_the_length_and_has_targets_in_every_row(
    given, length, objective, seed, timestamps
):
    num_items = max(max(h) for h in given)
    for batch in batches(given, length, objective, seed=seed, timestamps=timestamps):
        assert 1 <= batch.items.shape[1] <= length
        targets, real = targets_of(batch), batch.items > 0
        assert (batch.targets > 0).all()
        assert (np.diff(batch.positions) > 0).all()
        assert (np.diff(real.astype(int), axis=1) <= 0).all()
        assert ((targets > 0) <= real).all()
        assert (targets > 0).any(axis=1).all()
        assert batch.targets.max() <= num_items
        assert (batch.items <= num_items + (objective == "masked-item")).all()
        assert batch.tokens == real.sum()
        if timestamps:
            assert batch.timestamps.shape == batch.items.shape
            assert (batch.timestamps[~real] == 0).all()
        else:
            assert batch.timestamps is None


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_an_epoch_repeats_and_differs_from_the_next(objective):
    many = [[u, *range(u + 1, u + 9)] for u in range(1, 40)]

    def sample(seed, epoch):
        return [(b.items.tolist(), b.targets.tolist()) for b in batches(many, 6, objective, epoch, seed=seed)]

    assert sample(1, 2) == sample(1, 2)
    assert sample(1, 2) != sample(1, 3)
    assert sample(1, 2) != sample(2, 2)


@settings(max_examples=60)
@given(histories, st.integers(1, 12), st.sampled_from(sorted(OBJECTIVES)), st.integers(1, 5))
def test_every_target_of_an_epoch_weighs_the_same(given, length, objective, batch_size):
    found = batches(given, length, objective, batch_size=batch_size)
    mean = sum(len(b.targets) for b in found) / len(found)
    assert [b.weight * mean for b in found] == pytest.approx([len(b.targets) for b in found])


def test_all_objectives_see_the_users_in_one_order():
    orders = []
    for objective in OBJECTIVES:
        found = rows(HISTORIES, 100, objective, batch_size=1)
        orders.append(
            [next(i for i, h in enumerate(HISTORIES) if {*items, *targets} & {*h}) for items, targets, _ in found]
        )
    assert orders[0] == orders[1] == orders[2]


def test_a_mask_follows_the_history():
    split = leave_one_out(stored([[1, 2, 3, 4, 5], [7, 1, 7]]))
    (query,) = queries(split, "test", length=2, batch_size=9)
    masked = with_mask(query, 8)
    assert masked.items.tolist() == [[3, 4, 8], [7, 1, 8]]
    (query,) = queries(split, "validation", length=4, batch_size=9)
    masked = with_mask(query, 8)
    assert masked.items.tolist() == [[1, 2, 3, 8], [7, 8, 0, 0]]
    assert masked.lengths.tolist() == [4, 2]
    assert masked.timestamps.tolist() == [[0, 1, 2, 2], [5, 5, 0, 0]]
    assert masked.targets.tolist() == query.targets.tolist()
    assert masked.seen_items.tolist() == query.seen_items.tolist()
    assert query.items.tolist() == [[1, 2, 3], [7, 0, 0]]
    (query,) = queries(split, "test", length=0, batch_size=9)
    assert with_mask(query, 8).items.tolist() == [[8], [8]]
