import msgspec
import pytest
from scipy import stats

from claims.studies import accuracy_study, verdict
from harness.study.claim import Card, load_cards

AIMS = {"hyenarec": 0.25, "sasrec-math": 0.18}


def card(published, **changes):
    fields = {
        "id": "row",
        "rule": "published-accuracy",
        "sentence": "It reaches it.",
        "source": "somewhere",
        "challenger": "sasrec-math",
        "threshold": published,
        "margin": 0.05,
    }
    return Card(**{**fields, **changes})


def study(path, published, *, factor=1.0, seeds=5, seed_noise=0.003, **changes):
    """A study whose only claim publishes `factor` times the mean that its SASRec has, or `published`."""
    own = accuracy_study(path / "first", AIMS, seeds=tuple(range(seeds)), seed_noise=seed_noise)
    mean = next(r.metrics["ndcg@10"].mean for r in own.accuracy if r.label == "sasrec-math")
    chosen = card(published or factor * mean, **changes)
    options = {"seeds": tuple(range(seeds)), "seed_noise": seed_noise, "claims": [chosen]}
    return verdict(accuracy_study(path / "second", AIMS, **options), "row")


@pytest.mark.parametrize(
    ("factor", "expected", "words"),
    [(1.01, "supported", "within"), (1.3, "refuted", "below"), (0.8, "refuted", "above"), (1.05, "inconclusive", "")],
)
def test_the_band_about_the_published_figure_decides(tmp_path, factor, expected, words):
    found = study(tmp_path, None, factor=factor)
    assert found.overall.verdict == expected
    assert found.overall.statistic == pytest.approx(1 / factor, rel=1e-9)
    assert words in found.overall.detail


def test_seeds_alone_are_the_sample(tmp_path):
    found = study(tmp_path, 0.18, seeds=4, seed_noise=0.01)
    own = accuracy_study(tmp_path / "again", AIMS, seeds=(0, 1, 2, 3), seed_noise=0.01)
    values = next(r.metrics["ndcg@10"].per_seed for r in own.accuracy if r.label == "sasrec-math")
    expected = stats.t.interval(0.95, 3, sum(values) / 4 / 0.18, stats.sem(values) / 0.18)
    assert found.overall.interval == pytest.approx(expected)


def test_one_seed_decides_nothing_and_says_on_which_side_it_lies(tmp_path):
    found = study(tmp_path, None, factor=1.5, seeds=1).overall
    assert (found.verdict, found.interval, found.sample_size, found.sample_unit) == ("inconclusive", None, 3, "seeds")
    assert "over 1 seed, below the 5 % about" in found.detail
    assert "-33.3 % from " in found.measured


def test_a_card_is_about_its_data_set_and_length_alone(tmp_path):
    own = {"datasets": ("real", "other"), "training_lengths": (256, 1024)}
    cards = [card(0.18, id="row", dataset="other", lengths=256)]
    found = verdict(accuracy_study(tmp_path, AIMS, claims=cards, **own), "row")
    assert [v.variant for v in found.variants] == ["other at 256"]
    assert found.overall.window == (256, 256)


def test_a_data_set_that_the_study_does_not_train_is_named(tmp_path):
    found = verdict(accuracy_study(tmp_path, AIMS, claims=[card(0.18, dataset="rael")]), "row").overall
    assert found.verdict == "missing"
    assert "unknown data set of claim 'row' 'rael'. Did you mean 'real'" in found.detail


def test_without_a_record_it_is_missing(tmp_path):
    found = verdict(accuracy_study(tmp_path, AIMS, claims=[card(0.18, lengths=8)]), "row").overall
    assert found.verdict == "missing"
    assert "training cells of sasrec-math" in found.missing[0]


def test_a_field_that_is_not_given_leaves_the_digest_of_a_card():
    plain = card(0.18)
    assert "dataset" not in plain.deciding()
    assert plain.digest != msgspec.structs.replace(plain, dataset="real").digest
    assert len({c.id for c in load_cards(["published"])}) == len(load_cards(["published"]))
