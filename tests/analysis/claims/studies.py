import dataclasses

import factories

from harness.analysis.analyse import analyse
from harness.study.claim import load_cards

QUIET = {"process_noise": 0.002, "block_noise": 0.002, "drift": 0.002}
CLAIMS = {c.id: c for c in load_cards()}


def verdict(found, claim):
    return next(c for c in found.claims if c.id == claim)


def truths(**changes):
    """The factory's truths with some replaced; None leaves a label out."""
    chosen = {**factories.TRUTHS, **changes}
    return {label: t for label, t in chosen.items() if t is not None}


def with_law(label, law):
    return dataclasses.replace(factories.TRUTHS[label], law=law)


def speed_study(path, **options):
    options = {"memory": False, "training": False, "noise": QUIET, **options}
    return analyse(factories.make_folder(path, **options))


def accuracy_study(path, aims, **options):
    chosen = {}
    for label, aim in aims.items():
        base = factories.TRUTHS.get(label.split(" ")[0], factories.HYENAREC)
        chosen[label] = dataclasses.replace(base, ndcg=aim)
    options = {
        "seeds": tuple(range(5)),
        "users": 2000,
        "seed_noise": 0.005,
        "noise": QUIET,
        "memory": False,
        "datasets": ("real",),
        **options,
    }
    return analyse(factories.make_folder(path, truths=chosen, **options))


GOOD = {"hyenarec": 0.25, "sasrec-math": 0.18, "sasrec-sdpa": 0.17, "gru4rec": 0.12}
BAD = {"hyenarec": 0.15, "sasrec-math": 0.22, "sasrec-sdpa": 0.13, "gru4rec": 0.12}
LEVEL = {"hyenarec": 0.18, "sasrec-math": 0.18, "sasrec-sdpa": 0.18, "gru4rec": 0.12}
