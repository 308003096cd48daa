import itertools

import factories
import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.analysis.analyse import analyse
from harness.analysis.estimates import accuracy, statistics
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.results import LearningPoint
from harness.metrics import names


def run(label, ranks_by_seed, *, length=1024, split="s" * 64, family="attention", collapsed=()):
    truth = factories.Truth(label, family, factories.linear_law(0, 0))
    records = []
    for seed, ranks in enumerate(ranks_by_seed):
        place = factories.training_cell(label, truth, "synthetic", length, seed)
        flags = ["collapsed: at chance"] if seed in collapsed else []
        records.append(
            factories.training_record(
                place, truth, np.random.default_rng(seed), np.zeros(len(ranks)), ranks=list(ranks), flags=flags
            )
        )
    good = tuple(r for r in records if r.seed not in collapsed)
    bad = tuple(r for r in records if r.seed in collapsed)
    return Runs("synthetic", split, label, length, good, tuple(f"{label}-{r.seed}" for r in good), bad)


def ranks_of(gains):
    """Ranks whose NDCG gain is 1 where `gains` is set, else 0."""
    return np.where(gains, 1.0, 500.0)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (1.0, {"hr@1": 1, "ndcg@1": 1, "mrr@1": 1, "ndcg@10": 1}),
        (1.5, {"hr@1": 1, "ndcg@1": 1 / np.log2(2.5), "mrr@10": 1 / 1.5}),
        (2.0, {"hr@1": 0, "hr@5": 1, "ndcg@5": 1 / np.log2(3), "mrr@20": 0.5}),
        (10.5, {"hr@10": 1, "hr@5": 0, "mrr@10": 1 / 10.5}),
        (11.0, {"hr@10": 0, "hr@20": 1, "ndcg@10": 0, "mrr@10": 0}),
        (21.0, {"hr@20": 0, "ndcg@20": 0, "mrr@20": 0}),
    ],
)
def test_metrics_by_hand(rank, expected):
    found = run("x", [[rank]])
    for name, value in expected.items():
        assert accuracy.per_user(found.records, name)[0, 0] == pytest.approx(value)


def two_way(rng, seeds, users, seed_spread, user_spread):
    return (
        0.3
        + rng.normal(0, seed_spread, (seeds, 1))
        + rng.normal(0, user_spread, (1, users))
        + rng.normal(0, 0.3, (seeds, users))
    )


def covered(seeds, seed_spread, user_spread, trials, rng_seed):
    """How often the interval holds the truth, and by which method."""
    rng = np.random.default_rng(rng_seed)
    found = [accuracy.over_seeds_and_users(two_way(rng, seeds, 300, seed_spread, user_spread)) for _ in range(trials)]
    assert {method for _, method in found} == {"seeds and users"}
    return sum(low <= 0.3 <= high for low, high in (estimate.interval() for estimate, _ in found))


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("seed_spread", "user_spread"), [(0.02, 0.1), (0.002, 0.3), (0.005, 0.3), (0.02, 0.3)])
def test_two_way_interval_covers_over_seeds_and_users(seeds, seed_spread, user_spread):
    hits = covered(seeds, seed_spread, user_spread, 400, 31)
    assert stats.binomtest(hits, 400, 0.94, alternative="less").pvalue > 1e-3


# Spread of the seeds over the standard error that the users give, as on real data and beyond it.
@pytest.mark.simulation
@pytest.mark.parametrize(("seeds", "share"), list(itertools.product((2, 3, 5, 10), (0.1, 0.3, 1.0, 3.0))))
def test_two_way_interval_covers_at_any_number_of_seeds(seeds, share):
    case = [72, seeds, round(10 * share)]
    hits = covered(seeds, share * 0.3 / np.sqrt(300), 0.3, 2000, case)
    # Two seeds that spread far more than the users leave one degree of freedom and not much to go by.
    least = 0.90 if seeds == 2 else 0.93
    assert stats.binomtest(hits, 2000, least, alternative="less").pvalue > 1e-3


def several(hits, users):
    """A run with several held-out events a user."""
    found = run("x", [ranks_of(hits)])
    (record,) = found.records
    test = msgspec.structs.replace(record.test, users=list(users))
    return [msgspec.structs.replace(record, test=test)]


def test_several_events_of_a_user_are_one_draw():
    """Two users, one with three hits of three, one with none of one: by hand."""
    (values,) = accuracy.per_user(several([True, True, True, False], [4, 4, 4, 9]), "hr@10")
    assert values.mean() == pytest.approx(0.75)
    # m + (S - m n) U / N, of U = 2 users and N = 4 events.
    assert values.tolist() == pytest.approx([0.75 + (3 - 0.75 * 3) / 2, 0.75 + (0 - 0.75) / 2])
    alone = accuracy.per_user(several([True, False], [1, 2]), "hr@10")
    assert alone.tolist() == [[1.0, 0.0]]


def test_the_interval_covers_where_a_users_events_are_alike():
    """Every user has a chance of its own, better for those with more events. The truth is the mean over events."""
    rng, hits, trials, truth = np.random.default_rng(34), 0, 400, (0.3 * 1 + 0.6 * 9) / 10
    naive = 0
    for _ in range(trials):
        many = rng.random(300) < 0.5
        counts = np.where(many, 9, 1)
        # Alike: a user's events are hits together or misses together.
        own = rng.random(300) < np.where(many, 0.6, 0.3)
        owners = np.repeat(np.arange(300), counts)
        estimate, _ = accuracy.over_seeds_and_users(accuracy.per_user(several(own[owners], owners), "hr@10"))
        low, high = estimate.interval()
        hits += low <= truth <= high
        events = own[owners].astype(float)
        naive += abs(events.mean() - truth) <= 1.96 * events.std() / np.sqrt(len(events))
    assert stats.binomtest(hits, trials, 0.94, alternative="less").pvalue > 1e-3
    assert naive < 0.7 * trials, "events taken for independent draws would cover far less"


def test_more_seeds_do_not_make_up_for_users():
    values = two_way(np.random.default_rng(32), 5, 100, 0.02, 0.3)
    found, _ = accuracy.over_seeds_and_users(values)
    of_users = values.mean(axis=0).std(ddof=1) / 10
    assert found.fixed == pytest.approx(of_users)
    assert found.error > of_users
    assert statistics.sample_size(found, 1.9 * of_users) is None, "as many seeds as one likes"
    enough = statistics.sample_size(found, 2.1 * of_users)
    assert enough > 5


def test_one_seed_describes_and_decides_nothing():
    rng = np.random.default_rng(33)
    better, worse = run("hyenarec", [ranks_of(rng.random(500) < 0.9)]), run("x", [ranks_of(rng.random(500) < 0.1)])
    row, _, _ = accuracy.difference(better, worse)
    assert row.interval[0] > 0.5
    assert row.verdict == "undecided"
    assert row.p_better is None
    assert "one seed" in row.method


def test_differences_are_paired_by_seed_and_user():
    rng = np.random.default_rng(34)
    hits = [rng.random(400) < 0.3 for _ in range(5)]
    # Half of the shared hard users improve by a little: unpaired noise would drown it.
    improved = [h | (np.arange(400) < 12) for h in hits]
    row, _, _ = accuracy.difference(run("hyenarec", map(ranks_of, improved)), run("x", map(ranks_of, hits)))
    assert row.seeds == 5
    assert row.verdict == "better"
    assert row.difference == pytest.approx(np.mean(improved) - np.mean(hits))
    assert row.relative == pytest.approx(np.mean(improved) / np.mean(hits) - 1)
    assert row.relative_interval[0] < row.relative < row.relative_interval[1]


def test_relative_error_agrees_with_the_ratio_per_seed():
    rng = np.random.default_rng(35)
    mine = run("hyenarec", [ranks_of(rng.random(2000) < 0.33) for _ in range(6)])
    other = run("x", [ranks_of(rng.random(2000) < 0.30) for _ in range(6)])
    row, _, relative = accuracy.difference(mine, other)
    ratios = [
        a.test.metrics["ndcg@10"] / b.test.metrics["ndcg@10"] - 1
        for a, b in zip(mine.records, other.records, strict=True)
    ]
    of_seeds = np.sqrt(relative.error**2 - relative.fixed**2)
    assert of_seeds == pytest.approx(stats.sem(ratios), rel=0.1)
    assert row.relative_interval == relative.interval()
    assert row.relative_interval[0] < np.mean(ratios) < row.relative_interval[1]


def test_only_common_seeds_are_compared():
    rng = np.random.default_rng(36)
    ranks = [ranks_of(rng.random(100) < 0.5) for _ in range(4)]
    row, _, _ = accuracy.difference(run("hyenarec", ranks, collapsed=(1,)), run("x", ranks, collapsed=(2,)))
    assert row.seeds == 2
    assert accuracy.difference(run("hyenarec", ranks[:2], collapsed=(1,)), run("x", ranks[:2], collapsed=(0,))) is None


def test_another_split_or_length_is_not_compared():
    ranks = [ranks_of(np.arange(50) < 10)] * 2
    mine = run("hyenarec", ranks)
    assert accuracy.comparable([mine, run("x", ranks, split="t" * 64)], "hyenarec") == []
    assert accuracy.comparable([mine, run("x", ranks, length=64)], "hyenarec") == []
    assert len(accuracy.comparable([mine, run("x", ranks)], "hyenarec")) == 1
    reference = run("markov", ranks[:1], length=None, family="reference")
    assert accuracy.difference(*accuracy.comparable([mine, reference], "hyenarec")[0])[0].seeds == 2


def test_numbers_of_users_that_differ_leave_the_seeds():
    mine = run("hyenarec", [ranks_of(np.arange(50) < 10 + s) for s in range(5)])
    other = run("x", [ranks_of(np.arange(40) < 4)] * 5)
    row, _, _ = accuracy.difference(mine, other)
    assert row.method == "t over seeds"
    assert row.difference == pytest.approx(12 / 50 - 0.1)
    few, _, _ = accuracy.difference(
        run("hyenarec", [ranks_of(np.arange(50) < 9)] * 2), run("x", [ranks_of(np.arange(40) < 4)] * 2)
    )
    assert few.interval is None
    assert few.verdict == "undecided"


def test_collapsed_runs_are_flagged_and_not_averaged():
    good, bad = ranks_of(np.arange(100) < 40), ranks_of(np.arange(100) < 1)
    row = accuracy.rows([run("x", [good, bad, good], collapsed=(1,))], "hyenarec")[0]
    assert row.seeds == [0, 2]
    assert row.collapsed_seeds == [1]
    assert row.metrics["ndcg@10"].mean == pytest.approx(0.4)
    alone = accuracy.rows([run("x", [bad], collapsed=(0,))], "hyenarec")[0]
    assert alone.metrics == {}
    assert alone.flags == ["collapsed: at chance"]


def test_below_the_best_reference_is_flagged():
    reference = run("markov", [ranks_of(np.arange(100) < 30)], length=None, family="reference")
    rows = accuracy.rows(
        [run("x", [ranks_of(np.arange(100) < 20)]), run("y", [ranks_of(np.arange(100) < 40)]), reference], "y"
    )
    assert [r.below_best_reference for r in rows] == [True, False, False]
    assert [r.is_partner for r in rows] == [False, True, False]


def test_time_to_quality_is_censored_where_not_reached():
    strong = run("hyenarec", [ranks_of(np.arange(100) < 40)])
    weak = run("x", [ranks_of(np.arange(100) < 10)])
    points = [
        msgspec.structs.replace(p, validation_ndcg10=p.validation_ndcg10 * (1.0 if p.label == "hyenarec" else 0.5))
        for p in accuracy.learning([strong, weak])
    ]
    found = {t.label: t.seconds for t in accuracy.times_to_quality(points)}
    peak = max(p.validation_ndcg10 for p in points if p.label == "hyenarec")
    reached = next(p.train_seconds for p in points if p.label == "hyenarec" and p.validation_ndcg10 >= 0.95 * peak)
    assert found["hyenarec"] == [reached]
    assert found["x"] == [None]
    trained = {t.label: t.trained_seconds for t in accuracy.times_to_quality(points)}
    assert trained == {label: [pytest.approx(30)] for label in ("hyenarec", "x")}, "the bound of what was not reached"


def test_time_to_quality_is_that_of_training_per_seed():
    curves = {0: [0.05, 0.096, 0.1], 1: [0.096, 0.1, 0.09]}
    points = [
        LearningPoint(
            dataset="d", label="x", length=64, seed=seed, epoch=place + 1, train_seconds=10.0 * (place + 1), loss=1.0,
            validation_ndcg10=value,
        )
        for seed, curve in curves.items()
        for place, value in enumerate(curve)
    ]  # fmt: skip
    found = accuracy.times_to_quality(points)[0]
    assert found.target == pytest.approx(0.095)
    assert found.seconds == [20.0, 10.0]


def test_untimed_runs_enter_no_time_figure(tmp_path):
    truth = factories.TRUTHS["hyenarec"]
    place = factories.training_cell("hyenarec", truth, "synthetic", 1024, 0)
    record = factories.training_record(place, truth, np.random.default_rng(0), np.arange(100) / 100, timed=False)
    own = Runs("synthetic", None, "hyenarec", 1024, (record,), ("p",), ())
    row = accuracy.rows([own], "hyenarec")[0]
    assert (row.training_seconds, row.seconds_per_epoch, row.tokens_per_second) == (None, None, None)
    assert all(p.train_seconds is None for p in accuracy.learning([own]))
    assert accuracy.times_to_quality(accuracy.learning([own])) == []


def test_rows_carry_all_metrics(tmp_path):
    found = analyse(factories.make_folder(tmp_path, speed=False, memory=False, seeds=(0, 1)))
    row = found.accuracy[0]
    assert (row.label, row.seeds, row.users) == ("hyenarec", [0, 1], 400)
    assert set(row.metrics) == set(names())
    assert all(m.interval[0] <= m.mean <= m.interval[1] for m in row.metrics.values())
    assert {d.label for d in found.accuracy_differences} == {*factories.TRUTHS, *factories.REFERENCES} - {"hyenarec"}
