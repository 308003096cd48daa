"""Built-in data in which the next item depends on the event a known number of events back, and on nothing else.

An item is a pair of cluster and member. All clusters stand in one cycle. With probability 1 − noise the cluster of an
event is the successor of the cluster `lag` events before it; else, and for the first `lag` events of a user, it is
drawn by popularity, a Zipf law. The member is drawn by a Zipf law of its own. So the last item tells nothing of the
next one unless the lag is 1: how well a model ranks says whether it reaches back `lag` events.

As in `synthetic`, an event is drawn again while the user has had its item, so that leaving seen items out of a ranking
loses nothing. The probabilities of the items that a user has not had keep their order then, and an oracle that knows
the lag and the successors ranks by them: nothing can be expected to rank better.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from harness.data.catalogue import MEMBERS, Planted
from harness.data.generated.synthetic import FloatArray, Generated, IntArray, zipf
from harness.metrics import ndcg

GENERATOR_VERSION = 1
_EXPONENT = 0.5
_REDRAWS = 12
_ROUNDING = 1e-12


@dataclass(frozen=True)
class World:
    """What all users share.

    Attributes:
        successor: `[C]` the next cluster of each along the cycle.
        popularity: `[C]` probability of each where the lag does not decide.
        member: `[M]` probability of each member of a cluster.
    """

    successor: IntArray
    popularity: FloatArray
    member: FloatArray


def world(planted: Planted) -> World:
    """The successors and probabilities of a data set."""
    # A stream of its own: the events take theirs from another.
    random = np.random.default_rng([planted.seed, 0])
    count = planted.clusters
    cycle = random.permutation(count)
    successor = np.empty_like(cycle)
    successor[cycle] = np.roll(cycle, -1)
    return World(successor, zipf(count, _EXPONENT)[random.permutation(count)], zipf(MEMBERS, _EXPONENT))


def generate(planted: Planted) -> Generated:
    """Draw the data set; the same options give the same events."""
    here, random = world(planted), np.random.default_rng([planted.seed, 1])
    lengths = random.integers(planted.shortest, planted.longest + 1, size=planted.users)
    clusters = np.zeros((planted.users, planted.longest), dtype=np.int64)
    events = np.zeros((planted.users, planted.longest), dtype=np.int32)
    seen = np.zeros((planted.users, planted.num_items + 1), dtype=bool)
    everyone = np.arange(planted.users)
    for step in range(planted.longest):
        again = everyone
        for _ in range(1 + _REDRAWS):
            cluster = _pick(here.popularity, len(again), random)
            if step >= planted.lag:
                follows = random.random(len(again)) >= planted.noise
                cluster = np.where(follows, here.successor[clusters[again, step - planted.lag]], cluster)
            member = _pick(here.member, len(again), random)
            clusters[again, step], events[again, step] = cluster, 1 + cluster * MEMBERS + member
            again = again[seen[again, events[again, step]]]
            if not len(again):
                break
        seen[everyone, events[:, step]] = True
    inside = np.arange(planted.longest) < lengths[:, None]
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    return Generated(events[inside], offsets)


def _pick(shares: FloatArray, count: int, random: np.random.Generator) -> IntArray:
    drawn = np.searchsorted(shares.cumsum(), random.random(count))
    # Rounding may leave the sum of the shares below 1.
    return np.asarray(np.minimum(drawn, len(shares) - 1))


def oracles(planted: Planted) -> dict[str, float]:
    """Test NDCG@10 of rankings that know the generator or its counts, seen items filtered.

    Returns:
        `lag known`: the ceiling; `popularity`: by the counts of all training events, what is left without the lag.
    """
    here, data = world(planted), generate(planted)
    ends = data.offsets[1:]
    held = np.isin(np.arange(len(data.items)), np.concatenate([ends - 1, ends - 2]))
    counts = np.bincount(data.items[~held], minlength=planted.num_items + 1)[1:].astype(np.float64)
    source = (data.items[ends - 1 - planted.lag].astype(np.int64) - 1) // MEMBERS
    clusters = np.tile(planted.noise * here.popularity, (planted.users, 1))
    clusters[np.arange(planted.users), here.successor[source]] += 1 - planted.noise
    known = (clusters[:, :, None] * here.member).reshape(planted.users, planted.num_items)
    return {
        "lag known": _ndcg10(data, known),
        "popularity": _ndcg10(data, np.tile(counts, (planted.users, 1))),
    }


def _ndcg10(data: Generated, scores: FloatArray) -> float:
    users = np.arange(len(scores))
    last = data.offsets[1:] - 1
    target = scores[users, data.items[last] - 1]
    # The test item is left in, and the items before it out: a user may have had it already.
    before = np.delete(np.arange(len(data.items)), last)
    scores[np.repeat(users, np.diff(data.offsets) - 1), data.items[before] - 1] = -1
    scores[users, data.items[last] - 1] = target
    # Products of Zipf shares tie often, but for rounding.
    above = (scores > target[:, None] * (1 + _ROUNDING)).sum(axis=1)
    level = (scores >= target[:, None] * (1 - _ROUNDING)).sum(axis=1) - above
    return ndcg(1 + above + (level - 1) / 2, 10)


def describe(planted: Planted) -> str:
    """The options and what oracles reach, as printed by `python -m harness data NAME`."""
    options = msgspec.structs.asdict(planted)
    lines = ["generator: planted, " + ", ".join(f"{name} {value}" for name, value in options.items())]
    lines += [f"oracle, {name}: test NDCG@10 {value:.4f}" for name, value in oracles(planted).items()]
    return "\n".join(lines)
