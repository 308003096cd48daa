import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from harness.data import sources
from harness.data.catalogue import MEMBERS, DataSource, Planted
from harness.data.generated import planted
from harness.data.interactions import StoredInteractions
from harness.data.splits import leave_one_out
from harness.data.summary import summary
from harness.errors import UserError
from harness.measure.training.ranking import rank_scorer
from harness.measure.training.references import fit
from harness.study.cells import cells
from harness.study.check import load_study

SMALL = Planted(lag=7, noise=0.2, users=400, shortest=40, longest=90, clusters=50)


def users_of(data):
    return np.split(data.items, data.offsets[1:-1])


def change(options, **changes):
    return msgspec.structs.replace(options, **changes)


def test_the_same_options_give_the_same_events_and_others_give_others():
    first = planted.generate(SMALL).sha256
    assert planted.generate(SMALL).sha256 == first
    for other in ({"seed": 1}, {"lag": 8}, {"noise": 0.3}):
        assert planted.generate(change(SMALL, **other)).sha256 != first


def test_sizes_and_no_repeats():
    data = planted.generate(SMALL)
    lengths = np.diff(data.offsets)
    assert (len(lengths), lengths.min(), lengths.max()) == (400, 40, 90)
    assert set(np.unique(data.items).tolist()) == set(range(1, SMALL.num_items + 1))
    repeats = sum(len(user) - len(set(user.tolist())) for user in users_of(data))
    assert repeats / len(data.items) < 0.002


def test_all_clusters_stand_in_one_cycle():
    successor, at, seen = planted.world(SMALL).successor, 0, []
    for _ in range(SMALL.clusters):
        seen.append(at)
        at = int(successor[at])
    assert at == 0
    assert sorted(seen) == list(range(SMALL.clusters))


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.6])
def test_the_dependence_is_at_the_lag_and_nowhere_else(noise):
    options = change(SMALL, noise=noise, clusters=200, users=150)
    successor, data = planted.world(options).successor, planted.generate(options)
    follows = dict.fromkeys(range(1, 21), 0)
    places = dict.fromkeys(follows, 0)
    for user in users_of(data):
        clusters = (user.astype(np.int64) - 1) // MEMBERS
        for lag in follows:
            # From the first event that may depend on another.
            later = np.arange(max(lag, options.lag), len(clusters))
            follows[lag] += int((clusters[later] == successor[clusters[later - lag]]).sum())
            places[lag] += len(later)
    share = {lag: follows[lag] / places[lag] for lag in follows}
    # Chance adds a little, and items that a user has had take a little away.
    assert share.pop(options.lag) == pytest.approx(1 - noise, abs=0.03)
    assert max(share.values()) < 0.03


def test_the_oracle_is_the_ranking_by_the_true_probabilities():
    here, data = planted.world(SMALL), planted.generate(SMALL)
    gain = 0.0
    for user in users_of(data):
        *history, target = user.tolist()
        cluster = here.successor[(history[-SMALL.lag] - 1) // MEMBERS]
        left = {item: 0.0 for item in range(1, SMALL.num_items + 1) if item not in history or item == target}
        for item in left:
            own, member = divmod(item - 1, MEMBERS)
            left[item] = here.member[member] * (0.2 * here.popularity[own] + 0.8 * (own == cluster))
        mine = left.pop(target)
        ties = sum(math.isclose(other, mine, rel_tol=1e-12) for other in left.values())
        above = sum(other > mine and not math.isclose(other, mine, rel_tol=1e-12) for other in left.values())
        rank = 1 + above + ties / 2
        gain += 1 / math.log2(rank + 1) if rank < 11 else 0.0
    assert planted.oracles(SMALL)["lag known"] == pytest.approx(gain / SMALL.users, abs=1e-12)


def test_without_noise_the_oracle_never_looks_beyond_one_cluster():
    assert planted.oracles(change(SMALL, noise=0.0, clusters=200))["lag known"] >= 1 / math.log2(MEMBERS + 1)


def test_the_oracle_falls_with_the_noise_to_where_the_lag_is_worth_nothing():
    found = [planted.oracles(change(SMALL, noise=noise, clusters=200)) for noise in (0.1, 0.5, 0.99)]
    assert all(a["lag known"] > b["lag known"] + 0.1 for a, b in pairwise(found))
    assert found[-1]["lag known"] < 0.05
    assert found[0]["lag known"] > 10 * found[0]["popularity"]


def test_a_first_order_model_reaches_the_oracle_at_lag_one_alone():
    reached = {}
    for lag in (1, 4):
        options = Planted(lag=lag, users=1500, shortest=60, longest=120)
        data = planted.generate(options)
        split = leave_one_out(StoredInteractions(data.items, data.offsets, options.num_items))
        found = rank_scorer(fit("markov", split)[0], split, "test").metrics["ndcg@10"]
        reached[lag] = found / planted.oracles(options)["lag known"]
    assert 0.75 < reached[1] < 1.05
    assert reached[4] < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lag": 59}, r"lag is 59; it must be at most shortest - 2 = 58, .*shorter lag, or shortest: 61"),
        ({"lag": 2, "shortest": 181}, r"longest is 180; it must be at least shortest, which is 181"),
        ({"lag": 2, "longest": 501}, r"longest is 501; it must be at most 500, .*Give clusters: 201"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(UserError, match=rf"'mine', planted: {words}"):
        sources.prepare("mine", DataSource(format="synthetic", planted=Planted(**options)))


def study(tmp_path, data):
    text = (
        "name: toy\ndevice: cpu\ndata: {mine: {DATA}}\ntraining: {models: [gru4rec], datasets: [mine], lengths: [8]}\n"
    )
    (tmp_path / "study.yaml").write_text(text.replace("{DATA}", data))
    return load_study(str(tmp_path / "study.yaml"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{format: pairs, file: x, planted: {lag: 3}}", "write `format: synthetic` and leave file and sha256 out"),
        ("{format: synthetic, planted: {lag: 0}}", "data.mine.planted.lag is 0; it must be at least 1"),
        ("{format: synthetic, planted: {lag: 3, noise: 1}}", "noise is 1; it must be below 1"),
        ("{format: synthetic, planted: {lag: 3, nois: 0.1}}", "'nois'.*noise"),
        ("{format: synthetic, planted: {lag: 99}}", "study.yaml: data set 'mine', planted: lag is 99"),
        ("{format: synthetic, planted: {noise: 0.1}}", "lag"),
    ],
)
def test_a_study_that_cannot_be_meant_is_refused(tmp_path, data, words):
    with pytest.raises(UserError, match=words):
        study(tmp_path, data)


def test_every_option_is_part_of_the_key_and_said_in_the_spec(tmp_path):
    keys = {}
    for options in ("{lag: 3}", "{lag: 4}", "{lag: 3, noise: 0.1}", "{lag: 3, seed: 1}", "{lag: 3, noise: 0.2}"):
        made = list(cells(study(tmp_path, f"{{format: synthetic, planted: {options}}}")))
        keys[options] = {cell.key for cell in made}
    assert keys.pop("{lag: 3, noise: 0.2}") == keys["{lag: 3}"]
    assert len(set.union(*keys.values())) == sum(map(len, keys.values()))
    assert made[0].spec.source.file == "planted: lag 3"


def test_it_is_prepared_and_described(tmp_path, monkeypatch):
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path))
    source = DataSource(format="synthetic", planted=SMALL)
    prepared, data = sources.prepare("mine", source), planted.generate(SMALL)
    assert prepared.interactions.items.tolist() == data.items.tolist()
    assert (prepared.interactions.num_items, prepared.data_sha256) == (250, data.sha256)
    other = sources.prepare("mine", DataSource(format="synthetic", planted=change(SMALL, lag=3)))
    assert other.folder != prepared.folder
    text = summary("mine", source)
    assert f"oracle, lag known: test NDCG@10 {planted.oracles(SMALL)['lag known']:.4f}" in text
    assert "lag 7, noise 0.2, users 400" in text
