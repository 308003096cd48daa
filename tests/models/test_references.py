from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import registry

NUM_ITEMS = 8
USERS = st.lists(st.lists(st.integers(1, NUM_ITEMS), max_size=8), min_size=1, max_size=6)
HISTORIES = st.lists(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=14), min_size=1, max_size=4)


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


@pytest.mark.parametrize(
    ("name", "expect"),
    [
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
