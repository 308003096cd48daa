import math

import factories

from claims.studies import speed_study, truths, verdict, with_law


def test_long_sequences_supported(quiet):
    found = verdict(quiet, "long-sequences")
    assert found.overall.verdict == "supported"
    assert all(v.statistic > 0.3 for v in found.variants)


def test_long_sequences_refuted_where_the_speedup_falls(tmp_path):
    def law(tokens, length):
        return 1.0 / math.log2(length)

    found = verdict(
        speed_study(tmp_path, truths=truths(**{"sasrec-sdpa": with_law("sasrec-sdpa", law)})), "long-sequences"
    )
    assert next(v for v in found.variants if v.variant == "sasrec-sdpa").verdict == "refuted"
    assert found.overall.verdict == "refuted"


def test_long_sequences_inconclusive_where_it_is_level(tmp_path):
    level = {k: with_law(k, factories.linear_law(0.01, 1e-5)) for k in ("sasrec-math", "sasrec-sdpa")}
    found = verdict(speed_study(tmp_path, truths=truths(**level), noise={}), "long-sequences").overall
    assert found.verdict != "supported"
    assert abs(found.statistic) < 0.02


def test_long_sequences_missing_with_two_lengths(tmp_path):
    found = verdict(speed_study(tmp_path, lengths=(256, 512)), "long-sequences").overall
    assert found.verdict == "missing"
