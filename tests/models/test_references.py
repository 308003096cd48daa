import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import registry
from models.ease import Ease

NUM_ITEMS = 8
# Longer than the window of item-knn and than any history that is looked at.
USERS = st.lists(st.lists(st.integers(1, NUM_ITEMS), max_size=14), min_size=1, max_size=6)
HISTORIES = st.lists(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=60), min_size=1, max_size=4)


@dataclass
class Events:
    num_items: int
    items: np.ndarray
    offsets: np.ndarray


def events(users):
    flat = [item for user in users for item in user]
    offsets = np.concatenate([[0], np.cumsum([len(user) for user in users])])
    return Events(NUM_ITEMS, np.array(flat, dtype=np.int32), offsets.astype(np.int64))


def padded(histories):
    lengths = np.array([len(h) for h in histories], dtype=np.int64)
    items = np.zeros((len(histories), lengths.max()), dtype=np.int64)
    for row, history in zip(items, histories, strict=True):
        row[: len(history)] = history
    return items, lengths


def counted(users):
    popularity = Counter(item for user in users for item in user)
    total = max(sum(popularity.values()), 1)
    transitions = defaultdict(Counter)
    for user in users:
        for before, after in pairwise(user):
            transitions[before][after] += 1
    return {item: popularity[item] / total for item in range(1, NUM_ITEMS + 1)}, transitions


def expect_popularity(share, transitions, history, item):
    return share[item]


def expect_markov(share, transitions, history, item):
    return transitions[history[-1]][item] + share[item]


def expect_decayed_markov(share, transitions, history, item):
    score = 0.001 * share[item]
    for ago, before in enumerate(reversed(history[-10:])):
        following = sum(transitions[before].values())
        score += 0.7**ago * transitions[before][item] / following if following else 0.0
    return score


def expect_most_recent(share, transitions, history, item):
    ago = [place for place, had in enumerate(reversed(history)) if had == item]
    return 1 + 1 / (1 + ago[0]) if ago else share[item]


@pytest.mark.parametrize(
    ("name", "expect"),
    [
        ("most-recent", expect_most_recent),
        ("popularity", expect_popularity),
        ("markov", expect_markov),
        ("decayed-markov", expect_decayed_markov),
    ],
)
@settings(max_examples=60)
@given(users=USERS, histories=HISTORIES)
def test_agrees_with_dictionary_counts(name, expect, users, histories):
    share, transitions = counted(users)
    scorer = registry.load(name)()
    scorer.fit(events(users))
    scores = scorer.scores(*padded(histories))
    expected = [[expect(share, transitions, h, item) for item in range(1, NUM_ITEMS + 1)] for h in histories]
    np.testing.assert_allclose(scores, expected, atol=1e-12)


@pytest.mark.parametrize("name", registry.names(reference=True))
def test_must_be_fitted_first(name):
    with pytest.raises(ValueError, match="fit"):
        registry.load(name)().scores(*padded([[1]]))


@settings(max_examples=60)
@given(users=USERS, histories=HISTORIES)
def test_item_knn_agrees_with_loops_over_pairs(users, histories):
    counts = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    for user in users:
        for first, second in combinations(range(len(user)), 2):
            if second - first <= 10 and user[first] != user[second]:
                counts[user[first], user[second]] += 1 / (second - first)
    had = Counter(item for user in users for item in user)
    total = max(sum(had.values()), 1)

    def expect(history, item):
        parts = [
            counts[before, item] / math.sqrt(had[before] * had[item]) / (1 + ago)
            for ago, before in enumerate(reversed(history[-50:]))
            if counts[before, item]
        ]
        return sum(parts) + 1e-9 * had[item] / total

    scorer = registry.load("item-knn")()
    scorer.fit(events(users))
    expected = [[expect(history, item) for item in range(1, NUM_ITEMS + 1)] for history in histories]
    np.testing.assert_allclose(scorer.scores(*padded(histories)), expected, atol=1e-15, rtol=1e-12)


def ease_by_definition(users, regularisation):
    """B of the ridge regression of every column on all others: one linear system an item, nothing inverted."""
    had = np.zeros((len(users), NUM_ITEMS))
    for row, user in enumerate(users):
        had[row, [item - 1 for item in user]] = 1
    weights = np.zeros((NUM_ITEMS, NUM_ITEMS))
    for item in range(NUM_ITEMS):
        others = np.delete(had, item, axis=1)
        normal = others.T @ others + regularisation * np.eye(NUM_ITEMS - 1)
        weights[np.arange(NUM_ITEMS) != item, item] = np.linalg.solve(normal, others.T @ had[:, item])
    return weights


@settings(max_examples=60)
@given(users=USERS, histories=HISTORIES, regularisation=st.floats(0.1, 1000))
def test_ease_is_the_ridge_regression_of_every_item_on_the_others(users, histories, regularisation):
    scorer = Ease(regularisation)
    scorer.fit(events(users))
    weights = ease_by_definition(users, regularisation)
    expected = [sum(weights[item - 1] for item in set(history)) for history in histories]
    np.testing.assert_allclose(scorer.scores(*padded(histories)), expected, atol=1e-10)


def test_ease_in_blocks_is_ease_at_once(monkeypatch):
    users = [[1, 2, 3], [2, 3, 4, 4], [5, 1], [8, 2, 6, 7]]
    once, blocks = Ease(2.0), Ease(2.0)
    once.fit(events(users))
    # Three rows a block: the last one is shorter.
    monkeypatch.setattr("models.ease._BLOCK_BYTES", 8 * NUM_ITEMS * 3)
    blocks.fit(events(users))
    np.testing.assert_array_equal(blocks.scores(*padded(users)), once.scores(*padded(users)))


def test_ease_refuses_a_catalogue_before_it_takes_memory():
    large = Events(20_001, np.array([1, 20_001], dtype=np.int32), np.array([0, 2]))
    with pytest.raises(MemoryError, match=r"3,200,320,008 bytes for 20,001 items.*at most 20,000.*`references`"):
        Ease().fit(large)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf")])
def test_ease_needs_regularisation(bad):
    with pytest.raises(ValueError, match=rf"{bad}; it must be above 0 and finite"):
        Ease(bad)


def test_most_recent_leads_with_the_last_items_and_goes_on_by_popularity():
    scorer = registry.load("most-recent")()
    scorer.fit(events([[4, 5, 5, 6], [5, 6, 7]]))
    # Item 1 came twice: its last time counts. 5 is the most popular of the others.
    best = np.argsort(-scorer.scores(*padded([[1, 2, 1, 3]]))[0], kind="stable") + 1
    assert best.tolist() == [3, 1, 2, 5, 6, 4, 7, 8]
