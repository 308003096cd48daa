import factories
import numpy as np
import pytest
from scipy import stats
from simulated import NOISES, attention, flat, folder

from claims.studies import speed_study, truths, verdict, with_law
from harness.analysis.evidence import Evidence, against
from harness.analysis.ruling import rule
from harness.study.claim import Card

OWN = factories.HYENAREC.law


def card(**fields):
    given = {"id": "level", "rule": "no-slower", "sentence": "No slower.", "source": "a paper", "margin": 0.05}
    return Card(**{**given, "opponents": ["gru4rec"], **fields})


def study(path, factor, claims=None, **options):
    """A study in which GRU4Rec takes `factor(length)` times as long as HyenaRec."""
    law = with_law("gru4rec", lambda tokens, length: factor(length) * OWN(tokens, length))
    return verdict(speed_study(path, truths=truths(gru4rec=law), claims=claims or [card()], **options), "level")


def test_the_worst_length_decides(tmp_path):
    faster = study(tmp_path / "faster", lambda length: 1.2).overall
    assert faster.verdict == "supported"
    assert faster.allowed == "≥ 0.952× at every length"
    equal = study(tmp_path / "equal", lambda length: 1.0).overall
    assert equal.verdict == "supported", "5 % of margin, 0.2 % of noise"
    slower = study(tmp_path / "slower", lambda length: 0.8 if length == 2048 else 3.0).overall
    assert slower.verdict == "refuted"
    assert slower.statistic == pytest.approx(0.8, rel=0.02)
    assert "at 2,048 events" in slower.measured


def test_a_length_that_is_missing_keeps_it_from_support(tmp_path):
    for how in ("absent", "oom"):
        found = study(tmp_path / how, lambda length: 1.2, **{how: {("hyenarec", 8192)}}).overall
        assert found.verdict == "inconclusive"
        assert any("8,192" in what for what in found.missing)
    # An opponent that cannot be measured is none to be slower than.
    found = study(tmp_path / "opponent", lambda length: 1.2, oom={("gru4rec", 8192)}).overall
    assert (found.verdict, found.window) == ("supported", (256, 4096))
    assert "length 8,192 (oom)" in found.detail


def test_noise_leaves_it_open_and_says_how_many_processes(tmp_path):
    found = study(tmp_path, lambda length: 1.0, noise={"process_noise": 0.05}).overall
    assert found.verdict == "inconclusive"
    assert found.sample_size > 3
    alone = study(tmp_path / "alone", lambda length: 1.2, replicates=1).overall
    assert (alone.verdict, alone.interval, alone.sample_size) == ("inconclusive", None, 3)


def test_every_opponent_counts_and_a_margin_is_needed(tmp_path):
    both = study(tmp_path, lambda length: 1.2, [card(opponents=["gru4rec", "sasrec-sdpa"], lengths=256)])
    assert {v.variant: v.verdict for v in both.variants} == {"gru4rec": "supported", "sasrec-sdpa": "refuted"}
    assert both.overall.verdict == "refuted"
    nothing = study(tmp_path / "none", lambda length: 1.2, [card(opponents=["sasrec-math"])], absent=_of("sasrec-math"))
    assert nothing.overall.verdict == "missing"
    bare = study(tmp_path / "bare", lambda length: 1.2, [card(margin=None)]).overall
    assert (bare.verdict, "claim 'level' has no margin" in bare.detail) == ("missing", True)


def _of(label):
    return {(label, length) for length in factories.LENGTHS}


# Slower by just the margin at all lengths, or at the longest alone, so that either verdict is wrong by a hair.
EDGES = {
    "everywhere": lambda length: flat(length) / 1.05,
    "longest": attention(1 / 1.05, 0.0, over=flat),
}


def rates(edge, noise, processes, trials, seed):
    rng, chosen = np.random.default_rng(seed), card(opponents=["sasrec-math"])
    given = [
        rule(chosen, Evidence(against(folder(rng, {"hyenarec": flat, "sasrec-math": edge}, processes, noise)), {}))
        for _ in range(trials)
    ]
    return [sum(r.overall.verdict == wrong for r in given) for wrong in ("supported", "refuted")]


@pytest.mark.parametrize(
    ("trials", "noise"),
    [(12, "3 %"), *(pytest.param(200, name, marks=pytest.mark.simulation) for name in NOISES)],
)
@pytest.mark.parametrize("edge", EDGES)
def test_false_verdicts_are_seldom(edge, noise, trials):
    counts = rates(EDGES[edge], NOISES[noise], 5, trials, [201, list(EDGES).index(edge), list(NOISES).index(noise)])
    for count in counts:
        assert stats.binomtest(count, trials, 0.025, alternative="greater").pvalue > 1e-3
