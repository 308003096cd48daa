"""The built-in data set: users with a slow mood, so that a model must remember to rank well.

An item is a pair of topic and variant, or one of a few announcements. Three structures overlap:

* first order: the next topic follows a sparse chain over topics (a Markov reference learns it);
* popularity: what does not follow the chain or the mood is drawn from Zipf laws;
* long memory: the variant prefers those of the user's mood. A mood is set by an announcement, tens
  to hundreds of events back, and no single event since then reveals it with confidence.

A user meets an item at most once wherever that is possible, as in rating data, so filtering seen
items out of a ranking loses nothing. `describe` states what an oracle that knows the generator
reaches with and without the long memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics import ndcg

GENERATOR_VERSION = 1
_REDRAWS = 12

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Parameters:
    """What decides the data set, with the seed.

    Attributes:
        users: Number of users.
        shortest: Least events of a user.
        longest: Most events of a user.
        topics: Number of topics.
        variants: Variants per topic; a whole multiple of `moods`.
        moods: Number of moods; each owns `variants / moods` variants of every topic.
        announcements: Announcement items per mood.
        successors: Topics that may follow a topic along the chain.
        chain: Probability that the next topic follows the chain.
        loyalty: Probability that the variant is one of the mood's.
        mood_events: Mean number of events between announcements.
        topic_exponent: Zipf exponent of topic popularity.
        variant_exponent: Zipf exponent of variants, inside a mood and outside.
        seed: Seed of the generator.
    """

    users: int = 2_500
    shortest: int = 60
    longest: int = 180
    topics: int = 50
    variants: int = 20
    moods: int = 10
    announcements: int = 10
    successors: int = 2
    chain: float = 0.85
    loyalty: float = 0.6
    mood_events: float = 60.0
    topic_exponent: float = 0.8
    variant_exponent: float = 0.5
    seed: int = 20260327

    @property
    def num_items(self) -> int:
        """Catalogue size V: topic × variant pairs first, announcements last."""
        return self.topics * self.variants + self.moods * self.announcements


@dataclass(frozen=True)
class Generated:
    """Events that were drawn.

    Attributes:
        items: `[N]` int32, users one after the other, oldest first, items 1 … V.
        offsets: `[U + 1]` int64.
    """

    items: NDArray[np.int32]
    offsets: IntArray

    @property
    def sha256(self) -> str:
        """Checksum of the events."""
        digest = hashlib.sha256(np.ascontiguousarray(self.items).tobytes())
        digest.update(np.ascontiguousarray(self.offsets).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Moody(Generated):
    """The events, and the hidden state just before every user's last one.

    Attributes:
        moods: `[U]` mood in which the last event is drawn.
        topics: `[U]` topic of the last event before it that has one.
    """

    moods: IntArray
    topics: IntArray


class _World:
    """Probability tables that all users share."""

    def __init__(self, parameters: Parameters, generator: np.random.Generator) -> None:
        self.parameters = p = parameters
        order = generator.permutation(p.topics)
        popularity = np.empty(p.topics)
        popularity[order] = zipf(p.topics, p.topic_exponent)
        share = zipf(p.successors, 1.0)
        chain = np.zeros((p.topics, p.topics))
        for topic in range(p.topics):
            following = generator.choice(np.delete(np.arange(p.topics), topic), p.successors, replace=False)
            chain[topic, following] = share
        self.topic = p.chain * chain + (1 - p.chain) * popularity
        self.topic_cumulative = self.topic.cumsum(axis=1)
        self.topic_popularity = popularity
        owned = p.variants // p.moods
        anywhere = zipf(p.variants, p.variant_exponent)[generator.permutation(p.variants)]
        self.variant = np.tile((1 - p.loyalty) * anywhere, (p.moods, 1))
        for mood in range(p.moods):
            self.variant[mood, mood * owned : (mood + 1) * owned] += p.loyalty * zipf(owned, p.variant_exponent)
        self.variant_cumulative = self.variant.cumsum(axis=1)


def generate(parameters: Parameters | None = None) -> Moody:
    """Draw the data set; the same parameters give the same events.

    Args:
        parameters: Sizes, probabilities and seed; default: those of the data set `synthetic`.
    """
    p = parameters or Parameters()
    generator = np.random.default_rng(p.seed)
    world = _World(p, generator)
    lengths = generator.integers(p.shortest, p.longest + 1, size=p.users)
    events = np.zeros((p.users, p.longest), dtype=np.int32)
    seen = np.zeros((p.users, p.num_items + 1), dtype=bool)
    users = np.arange(p.users)
    mood = generator.integers(p.moods, size=p.users)
    topic = generator.integers(p.topics, size=p.users)
    last_mood, last_topic = mood.copy(), topic.copy()
    for step in range(p.longest):
        announces = generator.random(p.users) < (1.0 if step == 0 else 1.0 / p.mood_events)
        mood = np.where(announces, generator.integers(p.moods, size=p.users), mood)
        ends_here = lengths == step + 1
        last_mood[ends_here], last_topic[ends_here] = mood[ends_here], topic[ends_here]
        item, new_topic = _draw(world, generator, topic, mood, announces)
        for _ in range(_REDRAWS):
            again = np.flatnonzero(seen[users, item])
            if not len(again):
                break
            item[again], new_topic[again] = _draw(world, generator, topic[again], mood[again], announces[again])
        topic = new_topic
        seen[users, item] = True
        events[:, step] = item
    inside = np.arange(p.longest) < lengths[:, None]
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    return Moody(events[inside], offsets, last_mood, last_topic)


def _draw(
    world: _World, generator: np.random.Generator, topic: IntArray, mood: IntArray, announces: np.ndarray[Any, Any]
) -> tuple[IntArray, IntArray]:
    """One event a user: `(item, topic afterwards)`; an announcement leaves the topic as it was."""
    p = world.parameters
    next_topic = _pick(world.topic_cumulative[topic], generator)
    variant = _pick(world.variant_cumulative[mood], generator)
    announced = p.topics * p.variants + mood * p.announcements + generator.integers(p.announcements, size=len(mood))
    item = 1 + np.where(announces, announced, next_topic * p.variants + variant)
    return item, np.where(announces, topic, next_topic)


def _pick(cumulative: FloatArray, generator: np.random.Generator) -> IntArray:
    drawn = (cumulative < generator.random(len(cumulative))[:, None]).sum(axis=1)
    return np.asarray(np.minimum(drawn, cumulative.shape[1] - 1))


def zipf(size: int, exponent: float) -> FloatArray:
    """`[size]` shares that fall as rank^-exponent."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return np.asarray(weights / weights.sum())


def oracles(parameters: Parameters | None = None) -> dict[str, float]:
    """Test NDCG@10 of rankings by the true probabilities, seen items filtered.

    Returns:
        `mood known`: the ceiling; `last event only`: the best a first-order model can do;
        `mood unknown`: topic chain and popularity alone.
    """
    p = parameters or Parameters()
    world = _World(p, np.random.default_rng(p.seed))
    data = generate(p)
    ends = data.offsets[1:]
    previous = data.items[ends - 2].astype(np.int64) - 1
    prior = np.full((p.moods, p.moods), 1 / p.moods)
    posterior = world.variant.T / world.variant.T.sum(axis=1, keepdims=True)
    announced = np.repeat(np.eye(p.moods), p.announcements, axis=0)
    belief = np.concatenate([np.tile(posterior, (p.topics, 1)), announced])[previous]
    is_topic = previous < p.topics * p.variants
    by_chain = world.topic[np.where(is_topic, previous // p.variants, 0)]
    visible = np.where(is_topic[:, None], by_chain, world.topic_popularity)
    return {
        "mood known": _ndcg10(p, data, world.topic[data.topics], np.eye(p.moods)[data.moods], world),
        "last event only": _ndcg10(p, data, visible, belief, world),
        "mood unknown": _ndcg10(p, data, world.topic[data.topics], prior[data.moods], world),
    }


def _ndcg10(p: Parameters, data: Moody, topics: FloatArray, moods: FloatArray, world: _World) -> float:
    stay = 1 - 1 / p.mood_events
    belief = stay * moods + (1 - stay) / p.moods
    ranks = np.zeros(p.users)
    for user in range(p.users):
        pairs = stay * np.outer(topics[user], belief[user] @ world.variant).ravel()
        announced = np.full(p.moods * p.announcements, (1 - stay) / (p.moods * p.announcements))
        scores = np.concatenate([pairs, announced])
        history = data.items[data.offsets[user] : data.offsets[user + 1]].astype(np.int64) - 1
        target = scores[history[-1]]
        scores[history] = -1.0
        ranks[user] = 1 + (scores > target).sum() + (scores == target).sum() / 2
    return ndcg(ranks, 10)


def describe(parameters: Parameters | None = None) -> str:
    """The generator's parameters and its ceilings, as printed by `python -m harness data synthetic`."""
    p = parameters or Parameters()
    lines = ["generator: " + ", ".join(f"{name} {value}" for name, value in asdict(p).items())]
    reached = oracles(p)
    lines += [f"oracle, {name}: test NDCG@10 {value:.4f}" for name, value in reached.items()]
    lines.append(f"value of the long memory: × {reached['mood known'] / reached['last event only']:.2f}")
    return "\n".join(lines)
