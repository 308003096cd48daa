import factories
import pytest

from claims.studies import CLAIMS, speed_study, truths, verdict, with_law


def test_linear_time_supported(quiet):
    found = verdict(quiet, "linear-time").overall
    assert found.verdict == "supported"
    assert found.window == (1024, 8192)
    assert found.threshold == CLAIMS["linear-time"].threshold
    assert found.interval[0] < found.statistic < found.interval[1]
    # Every process times it, whoever else is measured there.
    assert {path.split("/")[1] for path in found.evidence} == {"hyenarec", "sasrec-math", "sasrec-sdpa", "gru4rec"}
    assert len(found.evidence) == 72


def test_linear_time_refuted_by_n_log_n(tmp_path):
    hyenarec = with_law("hyenarec", factories.log_law(0.0, 0.0, 1e-6))
    found = verdict(speed_study(tmp_path, truths=truths(hyenarec=hyenarec)), "linear-time").overall
    assert found.verdict == "refuted"
    assert found.statistic == pytest.approx(1.3, abs=0.02)


def test_linear_time_inconclusive_with_noise_says_how_many_processes(tmp_path):
    found = verdict(speed_study(tmp_path, noise={"process_noise": 0.3}), "linear-time").overall
    assert found.verdict == "inconclusive"
    assert found.sample_size > 3
    assert found.sample_unit == "processes"


def test_linear_time_inconclusive_with_two_processes(tmp_path):
    found = verdict(speed_study(tmp_path, replicates=2), "linear-time").overall
    assert (found.verdict, found.interval, found.sample_size) == ("inconclusive", None, 3)


def test_linear_time_needs_a_factor_of_eight(tmp_path):
    found = verdict(speed_study(tmp_path, lengths=(2048, 4096, 8192)), "linear-time").overall
    assert found.verdict == "inconclusive"
    assert "factor of eight" in found.detail


def test_linear_time_needs_the_challenge(tmp_path):
    # Level over the upper 8×, but far below where the law is fitted.
    def law(tokens, length):
        return 0.05 if length < 1024 else 0.1

    hyenarec = with_law("hyenarec", law)
    found = verdict(speed_study(tmp_path, truths=truths(hyenarec=hyenarec)), "linear-time").overall
    assert found.interval[1] <= CLAIMS["linear-time"].threshold
    assert found.verdict == "inconclusive"
    assert "challenge contradicted" in found.detail


def test_linear_time_missing_names_the_cells(tmp_path):
    absent = {("hyenarec", n) for n in factories.LENGTHS}
    found = verdict(speed_study(tmp_path, absent=absent), "linear-time").overall
    assert found.verdict == "missing"
    assert "18 speed cells of hyenarec" in found.missing[0]
