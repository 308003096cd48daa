import factories
import pytest

from claims.studies import speed_study, truths, verdict, with_law


def test_quadratic_attention_supported_per_kernel(quiet):
    found = verdict(quiet, "quadratic-attention")
    assert found.overall.verdict == "supported"
    assert {v.variant: v.verdict for v in found.variants} == {"sasrec-math": "supported", "sasrec-sdpa": "supported"}
    assert found.variants[0].statistic == pytest.approx(2.2e-8, rel=0.05)


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


def test_quadratic_attention_inconclusive_with_noise_says_how_many_processes(tmp_path):
    level = {k: with_law(k, factories.linear_law(0.01, 1e-5, 2e-11)) for k in ("sasrec-math", "sasrec-sdpa")}
    noise = {"process_noise": 0.05}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise=noise, rng_seed=2), "quadratic-attention")
    for own in found.variants:
        assert own.verdict == "inconclusive"
        assert own.interval[0] < 0 < own.interval[1]
        assert own.sample_size > 3


def test_attention_claims_missing_without_attention(tmp_path):
    only = {label: factories.TRUTHS[label] for label in ("hyenarec", "gru4rec")}
    found = speed_study(tmp_path, truths=only)
    for claim in ("quadratic-attention", "speedup-6x", "long-sequences", "no-sacrifice"):
        own = verdict(found, claim).overall
        assert own.verdict == "missing"
        assert "attention" in own.missing[0]


def test_an_undecided_law_says_how_many_processes_would_single_it_out(tmp_path):
    level = {k: with_law(k, factories.log_law(0.02, 2e-6, 1e-6)) for k in ("sasrec-math", "sasrec-sdpa")}
    noise = {"process_noise": 0.15}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise=noise, rng_seed=5), "quadratic-attention")
    own = found.variants[0]
    assert own.verdict == "inconclusive"
    assert own.interval[0] > 0
    assert "no single law is singled out" in own.detail
    assert own.sample_unit == "processes"
    assert own.sample_size > 3


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
