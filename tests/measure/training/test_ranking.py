import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hits import hits

from harness.data.batches import Query, queries
from harness.data.catalogue import SOURCES
from harness.data.interactions import StoredInteractions
from harness.data.sources import prepare
from harness.data.splits import HeldOutEvents, leave_one_out
from harness.measure.training.ranking import rank, rank_scorer, ranks
from harness.measure.training.references import fit, popularity
from harness.metrics import ndcg
from models import registry
from models.base import Scorer

ROOT = Path(__file__).parents[3]


def query(targets, seen=(), rows=None):
    seen_rows, seen_items = zip(*seen, strict=True) if seen else ((), ())
    filler = np.ones((len(targets), 1), dtype=np.int64)
    places = np.arange(len(targets))
    return Query(
        items=filler,
        lengths=filler[:, 0],
        rows=places if rows is None else np.array(rows),
        targets=np.array(targets),
        places=places,
        seen_rows=np.array(seen_rows, dtype=np.int64),
        seen_items=np.array(seen_items, dtype=np.int64),
    )


def test_ranks_by_hand():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [3.0, 2.0, 1.0, 0.0]])
    assert ranks(scores, query([3, 1, 1])).tolist() == [2.5, 2.5, 1.0]


def test_seen_items_are_out_of_the_ranking_also_as_ties():
    scores = torch.tensor([[0.9, 0.5, 0.5, 0.1], [0.9, 0.8, 0.7, 0.6]])
    assert ranks(scores, query([2, 4], [(0, 1), (0, 3), (1, 1)])).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        ranks(torch.tensor([[1.0, bad]]), query([1]))


def test_ranks_against_a_loop():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 5, size=(40, 30)).astype(float)
    # None to seven held-out items a row, in a few of them items that the history has had.
    rows = np.repeat(np.arange(40), generator.integers(0, 8, size=40))
    targets = generator.integers(1, 31, size=len(rows))
    seen = [(u, i) for u in range(40) for i in generator.integers(1, 31, size=6)]
    expected = []
    for row, target in zip(rows, targets, strict=True):
        left = [scores[row, j] for j in range(30) if (row, j + 1) not in seen and j + 1 != target]
        own = scores[row, target - 1]
        expected.append(1 + sum(s > own for s in left) + sum(s == own for s in left) / 2)
    assert len(rows) > 2 * len(scores)
    assert ranks(torch.from_numpy(scores.copy()), query(targets, seen, rows)).tolist() == expected


def test_ndcg_by_hand():
    found = np.array([1.0, 2.5, 5.5, 10.5, 11.0, 400.0])
    assert ndcg(found, 5) == pytest.approx((1 + 1 / math.log2(3.5) + 1 / math.log2(6.5)) / 6)


def test_popularity_by_hand():
    histories = [[1, 2, 3, 4], [1, 2, 4, 3], [1, 3, 2, 5]]
    items = np.concatenate([np.array(h, dtype=np.int32) for h in histories])
    split = leave_one_out(StoredInteractions(items, np.array([0, 4, 8, 12]), 5))
    # Training counts of items 1 … 5: 3, 2, 1, 0, 0. User 1's target 4 ties with 5 alone.
    assert popularity(split, "test").ranks == [1.5, 1.0, 1.5]
    # Validation targets 3, 4, 2 after [1, 2], [1, 2], [1, 3].
    assert popularity(split, "validation").ranks == [1.0, 2.5, 1.0]


def walks(lengths):
    """A split of random histories, and a function that scores the item after the last one."""
    generator = np.random.default_rng(1)
    items = generator.integers(1, 31, size=sum(lengths)).astype(np.int32)
    table = torch.from_numpy(generator.normal(size=(31, 30)))

    def score(q):
        return table[torch.from_numpy(q.items[np.arange(len(q.items)), q.lengths - 1])].clone()

    return leave_one_out(StoredInteractions(items, np.cumsum([0, *lengths]), 30)), score


@pytest.mark.parametrize("length", [4, None])
def test_batches_do_not_change_ranks(monkeypatch, length):
    split, score = walks([*range(4, 40), 4, 5, 3])
    together = rank(score, split, "test", length)
    monkeypatch.setattr("harness.measure.training.ranking._MOST_USERS", 7)
    assert rank(score, split, "test", length) == together
    monkeypatch.setattr("harness.data.batches._EVENTS_PER_BATCH", 100)
    assert rank(score, split, "test", length) == together


def test_one_history_with_several_held_out_events_and_one_user_with_several_histories():
    split, score = walks([10, 12, 9])
    leave_one = {name: rank(score, split, name, 4).ranks for name in ("validation", "test")}
    ends = split.interactions.offsets[1:]
    # The last two events of user 0 after one history, and those of user 2 each after its own.
    several = HeldOutEvents(np.array([0, 2, 2]), np.array([ends[0] - 2, ends[2] - 2, ends[2] - 1]), np.array([2, 1, 1]))
    found = rank(score, replace(split, test=several), "test", 4)
    assert found.users == [0, 0, 2, 2]
    assert found.ranks[2:] == [leave_one["validation"][2], leave_one["test"][2]]
    assert found.ranks[0] == leave_one["validation"][0]
    history, after = split.interactions.items[: ends[0] - 2], split.interactions.items[ends[0] - 1]
    scores = score(next(queries(split, "validation", length=4, batch_size=1)))[0]
    left = [j for j in range(30) if j + 1 not in history and j + 1 != after]
    assert found.ranks[1] == 1 + sum(bool(scores[j] > scores[after - 1]) for j in left)
    assert rank(score, split, "test", 4).users is None


MEMORY = """
import sys
import numpy as np, torch
from harness.data.interactions import StoredInteractions
from harness.data.splits import HeldOutEvents, leave_one_out
from harness.measure.peak_memory import Peak
from harness.measure.training.ranking import rank_model, rank_scorer
from harness.measure.training.references import fit
from models.gru4rec import GRU4Rec, GRU4RecConfig

num_items, longest, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
random = np.random.default_rng(0)
lengths = np.array([longest, *random.integers(3, 30, 299)])
items = random.integers(1, num_items + 1, lengths.sum(), dtype=np.int32)
split = leave_one_out(StoredInteractions(items, np.cumsum([0, *lengths]), num_items))
cpu = torch.device("cpu")
model = GRU4Rec(GRU4RecConfig(num_items=num_items, max_length=50, hidden_size=8))
scorer = None if name == "gru4rec" else fit(name, split)[0]
peak = Peak(cpu)
if peak.method is None:
    sys.exit("the peak cannot be read here")
peak.reset()
if scorer is None:
    rank_model(model, split, "test", length=50, device=cpu, precision="float32")
else:
    rank_scorer(scorer, split, "test")
print(peak.read() >> 20, peak.baseline_bytes >> 20)
"""


@pytest.mark.parametrize("name", ["gru4rec", "decayed-markov", "item-knn", "most-recent"])
@pytest.mark.parametrize(
    ("num_items", "longest", "most"), [(3416, 300_000, 256), pytest.param(2_000_000, 100, 512, marks=pytest.mark.slow)]
)
def test_memory_is_bounded_by_the_batch(num_items, longest, most, name):
    command = [sys.executable, "-c", MEMORY, str(num_items), str(longest), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Where the kernel does not let a process reset its peak, there is none to look at.
    if "cannot be read here" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    peak, baseline = map(int, done.stdout.split())
    assert 0 < peak < most
    assert peak + baseline < 2048


class _Transitions(Scorer):
    """First-order counts and popularity share, as published.md defines them."""

    def fit(self, interactions):
        items, offsets = np.asarray(interactions.items), interactions.offsets
        inside = np.ones(len(items), dtype=bool)
        inside[offsets[:-1]] = False
        later = np.flatnonzero(inside)
        size = interactions.num_items
        self.counts = np.zeros((size, size))
        np.add.at(self.counts, (items[later - 1] - 1, items[later] - 1), 1)
        shown = np.bincount(items, minlength=size + 1)[1:]
        self.share = shown / shown.sum()

    def scores(self, items, lengths):
        return self.counts[items[np.arange(len(items)), lengths - 1] - 1] + self.share


@pytest.fixture
def real(tmp_path, monkeypatch):
    def split_of(name):
        folder = os.environ.get("HYENAREC_DATA")
        if not folder:
            pytest.skip("HYENAREC_DATA names no folder of real data")
        if not (Path(folder) / SOURCES[name].file).is_file():
            pytest.skip(f"{SOURCES[name].file} is not in HYENAREC_DATA")
        monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path))
        return leave_one_out(prepare(name, SOURCES[name]).interactions)

    return split_of


def test_evaluator_reproduces_popularity_and_markov_on_ml_1m(real):
    split = real("ml-1m")
    found = popularity(split, "test")
    assert (hits(found, 10), found.metrics["ndcg@10"]) == pytest.approx((0.0369, 0.0180), abs=5e-5)
    scorer = _Transitions()
    scorer.fit(split.training())
    found = rank_scorer(scorer, split, "test")
    assert (hits(found, 10), found.metrics["ndcg@10"]) == pytest.approx((0.2144, 0.1259), abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "reference", "hr10", "ndcg10"),
    [
        ("ml-1m", "popularity", 0.0369, 0.0180),
        ("ml-1m", "markov", 0.2144, 0.1259),
        ("ml-1m", "decayed-markov", 0.2502, 0.1446),
        ("beauty", "popularity", 0.0120, 0.0056),
        ("beauty", "markov", 0.0670, 0.0440),
        ("beauty", "decayed-markov", 0.0720, 0.0456),
    ],
)
def test_registered_references_reproduce_the_published_figures(real, dataset, reference, hr10, ndcg10):
    split = real(dataset)
    found = rank_scorer(fit(reference, split)[0], split, "test")
    assert (hits(found, 10), found.metrics["ndcg@10"]) == pytest.approx((hr10, ndcg10), abs=5e-5)


def stated():
    """(data set, reference, test NDCG@10) of the table in docs/method.md."""
    table = (ROOT / "docs" / "method.md").read_text().split("## References")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \|[^|]*\| (0\.\d+) \| (0\.\d+) \|", table, re.MULTILINE)
    return [(d, name, float(v)) for name, *both in rows for d, v in zip(("ml-1m", "beauty"), both, strict=True)]


def test_the_documentation_states_every_reference_that_can_be_told_from_popularity():
    assert {name for _, name, _ in stated()} == set(registry.names(reference=True)) - {"most-recent"}


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "reference", "ndcg10"), stated())
def test_references_reach_what_the_documentation_states(real, dataset, reference, ndcg10):
    split = real(dataset)
    assert rank_scorer(fit(reference, split)[0], split, "test").metrics["ndcg@10"] == pytest.approx(ndcg10, abs=5e-5)


@pytest.mark.slow
def test_most_recent_items_are_popularity_where_seen_items_are_left_out(real):
    split = real("ml-1m")
    assert rank_scorer(fit("most-recent", split)[0], split, "test").ranks == popularity(split, "test").ranks
