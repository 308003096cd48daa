import factories
import msgspec
import pytest

from claims.studies import speed_study, truths, verdict, with_law
from harness.analysis.estimates import scaling


def test_quadratic_attention_supported_per_kernel(quiet):
    found = verdict(quiet, "quadratic-attention")
    assert found.overall.verdict == "supported"
    assert {v.variant: v.verdict for v in found.variants} == {"sasrec-math": "supported", "sasrec-sdpa": "supported"}
    assert found.variants[0].statistic == pytest.approx(1, abs=0.05)
    assert found.overall.window == (512, 8192), "its card is about these"
    assert "batch" in found.sentence or "tokens" in found.sentence


@pytest.mark.parametrize("exponent", [0.5, 0.7, 1.4])
def test_quadratic_attention_refuted_by_another_exponent(tmp_path, exponent):
    def law(tokens, length):
        return tokens * (7e-6 + 1.8e-4 * (length / 8192) ** exponent)

    changed = {label: with_law(label, law) for label in ("sasrec-math", "sasrec-sdpa")}
    found = verdict(speed_study(tmp_path, truths=truths(**changed)), "quadratic-attention").overall
    assert found.verdict == "refuted"
    assert found.statistic == pytest.approx(exponent, abs=0.05)


def test_an_undecided_challenge_is_no_support(tmp_path, monkeypatch):
    def undecided(law, series, tolerance):
        found = challenge(law, series, tolerance)
        return found if found is None else msgspec.structs.replace(found, outcome="undecided")

    challenge = scaling.challenge
    monkeypatch.setattr(scaling, "challenge", undecided)
    found = verdict(speed_study(tmp_path), "quadratic-attention").overall
    assert found.verdict == "inconclusive"
    assert "challenge undecided" in found.detail


@pytest.mark.parametrize("law", [factories.linear_law(0.01, 1e-5), factories.log_law(0.0, 0.0, 1e-6)])
def test_quadratic_attention_refuted_by_a_slower_law(tmp_path, law):
    found = verdict(
        speed_study(tmp_path, truths=truths(**{"sasrec-sdpa": with_law("sasrec-sdpa", law)})), "quadratic-attention"
    )
    own = {v.variant: v.verdict for v in found.variants}
    assert own["sasrec-math"] == "supported"
    assert own["sasrec-sdpa"] != "supported"
    if law(8192, 8192) > 1.2 * law(8192, 256):
        assert own["sasrec-sdpa"] == found.overall.verdict == "refuted"


def test_quadratic_attention_inconclusive_with_two_processes(tmp_path):
    found = verdict(speed_study(tmp_path, replicates=2), "quadratic-attention").overall
    assert (found.verdict, found.sample_size) == ("inconclusive", 3)


def test_quadratic_attention_inconclusive_at_the_margin_says_how_many_processes(tmp_path):
    changed = {
        label: with_law(label, lambda tokens, length: tokens * (7e-6 + 1.8e-4 * (length / 8192) ** 0.85))
        for label in ("sasrec-math", "sasrec-sdpa")
    }
    noise = {"process_noise": 0.05}
    found = verdict(speed_study(tmp_path, truths=truths(**changed), noise=noise, rng_seed=2), "quadratic-attention")
    for own in found.variants:
        assert own.verdict == "inconclusive"
        assert own.interval[0] < 0.85 < own.interval[1]
        assert own.sample_unit == "processes"
        assert own.sample_size > 3


def test_attention_whose_cost_does_not_grow_is_not_quadratic(tmp_path):
    level = {k: with_law(k, factories.linear_law(0.01, 1e-5)) for k in ("sasrec-math", "sasrec-sdpa")}
    found = verdict(speed_study(tmp_path, truths=truths(**level)), "quadratic-attention").overall
    assert found.verdict == "refuted"


def test_attention_claims_missing_without_attention(tmp_path):
    only = {label: factories.TRUTHS[label] for label in ("hyenarec", "gru4rec")}
    found = speed_study(tmp_path, truths=only)
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences", "no-sacrifice"):
        own = verdict(found, claim).overall
        assert own.verdict == "missing"
        assert "attention" in own.missing[0]


def test_linear_attention_is_no_witness_about_attention(tmp_path):
    linear = factories.Truth(
        name="linear-attention",
        family="attention",
        law=factories.linear_law(0.005, 9e-6),
        operations=lambda batch, length: 3e5 * batch * length,
        ndcg=0.13,
    )
    analysis = speed_study(tmp_path, truths=truths(**{"linear-attention": linear}))
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences"):
        labels = {own.variant for own in verdict(analysis, claim).variants}
        assert labels == {"sasrec-math", "sasrec-sdpa"}, claim
    assert verdict(analysis, "quadratic-attention").overall.verdict == "supported"
