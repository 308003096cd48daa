import dataclasses

import factories
import pytest

from claims.studies import speed_study, verdict


def watts(own, other):
    return {
        label: dataclasses.replace(factories.TRUTHS[label], watts=power)
        for label, power in (("hyenarec", own), ("sasrec-math", other))
    }


def test_energy_is_joules_a_step_not_watts(tmp_path):
    found = verdict(speed_study(tmp_path, truths=watts(300.0, 200.0)), "energy").overall
    hyenarec, attention = (factories.TRUTHS[k].law(8192, 8192) for k in ("hyenarec", "sasrec-math"))
    assert found.verdict == "supported"
    assert found.statistic == pytest.approx(attention * 200 / (hyenarec * 300), rel=1e-6)
    assert found.window == (8192, 8192)
    assert "batch 1 (8,192 tokens a batch)" in found.measured


def test_energy_refuted_where_the_challenger_takes_more(tmp_path):
    found = verdict(speed_study(tmp_path, truths=watts(9000.0, 200.0)), "energy").overall
    assert found.verdict == "refuted"
    assert found.interval[1] < 1


def test_energy_inconclusive_with_two_processes(tmp_path):
    found = verdict(speed_study(tmp_path, truths=watts(300.0, 200.0), replicates=2), "energy").overall
    assert (found.verdict, found.sample_size) == ("inconclusive", 3)


def test_energy_is_missing_on_a_cpu_and_says_what_counts_it(quiet):
    found = verdict(quiet, "energy").overall
    assert found.verdict == "missing"
    assert "from the counter of an NVIDIA GPU (NVML)" in found.missing[0]


def test_an_opponent_without_a_counter_is_missing_while_the_other_is_ruled_on(tmp_path):
    chosen = {**watts(300.0, 200.0), "sasrec-sdpa": factories.TRUTHS["sasrec-sdpa"]}
    found = verdict(speed_study(tmp_path, truths=chosen), "energy")
    assert {v.variant: v.verdict for v in found.variants} == {"sasrec-math": "supported", "sasrec-sdpa": "missing"}
    assert found.overall.verdict == "inconclusive"
