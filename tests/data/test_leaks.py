"""The leak check of any split."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import splits
from harness.data.account import Leaks
from harness.data.interactions import StoredInteractions
from harness.data.leaks import leaks

EVENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=2, max_size=9)


@given(st.lists(st.tuples(EVENTS, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6), st.integers(1, 20))
def test_leaks_are_those_of_plain_python(users, piece):
    """Of events in any order of time; in pieces as small as one history."""
    events = [event for history, _, _ in users for event in history]
    offsets = np.cumsum([0, *(len(history) for history, _, _ in users)])
    stored = StoredInteractions(
        np.array([item for item, _ in events], np.int32), offsets, 4, np.array([time for _, time in events], np.int64)
    )
    cuts = []
    for history, validation, test in users:
        test = min(test, len(history) - 1)
        cuts.append((len(history) - test - min(validation, len(history) - test - 1), len(history) - test))
    held = [
        (history[:start], history[start:end])
        for (history, _, _), (first, until) in zip(users, cuts, strict=True)
        for start, end in ((first, until), (until, len(history)))
    ]
    expected = Leaks(
        trained=0,
        held_out=sum(len(targets) for _, targets in held),
        had_before=sum(item in [i for i, _ in before] for before, targets in held for item, _ in targets),
        copies=sum(event in before for before, targets in held for event in targets),
        earlier=sum(any(time < t for _, t in before) for before, targets in held for _, time in targets),
    )
    split = splits.Split(stored, "any", *(of_counts(stored, cuts, len(users), part) for part in (0, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.data.leaks._EVENTS", piece)
        found = leaks(split)
    training = [time for (history, _, _), (first, _) in zip(users, cuts, strict=True) for _, time in history[:first]]
    tested = [time for (history, _, _), (_, until) in zip(users, cuts, strict=True) for _, time in history[until:]]
    shares = [sum(later > time for later in training) / len(training) for time in tested]
    assert found.later_training == (pytest.approx(np.mean(shares)) if shares else None)
    assert msgspec.structs.replace(found, later_training=None) == expected


def of_counts(stored, cuts, count, part):
    places = [
        (cut[0], cut[1]) if part == 0 else (cut[1], length) for cut, length in zip(cuts, stored.lengths, strict=True)
    ]
    users = np.array([user for user in range(count) if places[user][1] > places[user][0]], np.int64)
    starts = np.array([places[user][0] for user in users], np.int64)
    ends = np.array([places[user][1] for user in users], np.int64)
    return splits.HeldOutEvents(users, stored.offsets[users] + starts, ends - starts)


def test_what_is_trained_on_and_held_out_is_found():
    stored = StoredInteractions(np.array([1, 2, 3], np.int32), np.array([0, 3]), 3)
    one = np.array([1])
    late = splits.HeldOutEvents(np.array([0]), np.array([2]), one)
    assert leaks(splits.Split(stored, "wrong", late, late)).trained == 1
    assert "the split is wrong" in leaks(splits.Split(stored, "wrong", late, late)).warnings[0]
