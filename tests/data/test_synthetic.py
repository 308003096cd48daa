import dataclasses

import numpy as np
import pytest

from harness.data.generated.synthetic import Parameters, describe, generate, oracles

SMALL = Parameters(users=300, moods=5, shortest=40, longest=90)


def test_same_seed_same_events_and_another_seed_others():
    assert generate(SMALL).sha256 == generate(SMALL).sha256
    assert generate(SMALL).sha256 != generate(dataclasses.replace(SMALL, seed=1)).sha256


def test_sizes():
    data = generate(SMALL)
    lengths = np.diff(data.offsets)
    assert len(lengths) == 300
    assert (lengths.min() >= 40) & (lengths.max() <= 90)
    assert data.offsets[-1] == len(data.items)
    assert data.items.min() >= 1
    assert data.items.max() <= SMALL.num_items
    assert Parameters().num_items >= 1_000


def test_items_rarely_repeat():
    data = generate(SMALL)
    repeats = sum(len(part) - len(set(part.tolist())) for part in np.split(data.items, data.offsets[1:-1]))
    assert repeats / len(data.items) < 0.002


def test_the_mood_outlasts_the_last_event():
    found = oracles(dataclasses.replace(SMALL, users=2000))
    assert found["mood known"] > 1.2 * found["last event only"]
    assert found["last event only"] > found["mood unknown"]


def test_without_loyalty_the_mood_is_worth_nothing():
    found = oracles(dataclasses.replace(SMALL, loyalty=0.0, users=1000))
    assert found["mood known"] == pytest.approx(found["mood unknown"], rel=0.05)


def test_description_states_the_ceilings():
    text = describe(SMALL)
    for part in ("seed", "mood known", "last event only", "value of the long memory"):
        assert part in text


def test_the_default_events_are_those_of_the_committed_records():
    assert generate().sha256 == "73cd76e3f9c2f0700fbf00541a5962e0e77f48c60145d0f1c5c9fcccf48fcc6e"
