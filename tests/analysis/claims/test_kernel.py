import dataclasses

import factories
import pytest

from claims.studies import verdict
from harness.analysis.analyse import analyse


def kernels(own, fourier, mlp):
    base = factories.HYENAREC
    chosen = {"hyenarec": dataclasses.replace(base, ndcg=own)}
    for label, kernel, aim in (("hyenarec-fourier", "fourier-mlp", fourier), ("hyenarec-mlp", "legendre-mlp", mlp)):
        chosen[label] = dataclasses.replace(base, ndcg=aim, options={**base.options, "kernel": kernel})
    return chosen


@pytest.mark.parametrize(
    ("own", "fourier", "expected"), [(0.25, 0.15, "supported"), (0.15, 0.25, "refuted"), (0.2, 0.2, "inconclusive")]
)
def test_kernel(tmp_path, own, fourier, expected):
    folder = factories.make_folder(
        tmp_path,
        truths=kernels(own, fourier, 0.3),
        speed=False,
        memory=False,
        seeds=range(5),
        users=2000,
        seed_noise=0.005,
        datasets=("real",),
    )
    found = analyse(folder)
    own_verdict = verdict(found, "kernel").overall
    assert own_verdict.verdict == expected
    assert "hyenarec-mlp" not in own_verdict.detail, "another reading of the Legendre kernel"
    assert verdict(found, "accuracy").overall.verdict == "missing", "variants of the partner are no baselines"


def test_kernel_missing(quiet):
    assert verdict(quiet, "kernel").overall.verdict == "missing"
