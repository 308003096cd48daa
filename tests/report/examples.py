"""Analyses for the tests of the report: what analysis makes of records with a known truth."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import factories
import msgspec
from factories import TRUTHS, Truth, linear_law
from operator_examples import operator_record

from harness.analysis.analyse import analyse
from harness.analysis.estimates.operator import operator_bench
from harness.analysis.results import Analysis

LENGTHS = (256, 1024, 4096, 8192)
PARTNER = "hyenarec"
# More labels than a figure names at its lines.
MODELS = {
    **TRUTHS,
    "lrurec": Truth(name="lrurec", family="state_space", law=linear_law(0.004, 1.3e-5), ndcg=0.135),
    "mamba4rec": Truth(name="mamba4rec", family="state_space", law=linear_law(0.005, 3.7e-5), ndcg=0.14),
    "hstu": Truth(name="hstu", family="attention", law=linear_law(0.005, 8e-6, 3e-8), ndcg=0.145),
}
FEW = ("hyenarec", "sasrec-math", "sasrec-sdpa", "gru4rec", "lrurec")
# Seconds of one more event after a history.
STREAMED = {"hyenarec": lambda n: 4.2e-4, "sasrec-sdpa": lambda n: 3.1e-4 + 6e-8 * n, "gru4rec": lambda n: 1.3e-4}


@functools.cache
def example(labels=FEW, *, energy=False, oom=("sasrec-math",), problems=True, operator=False, **contents):
    """An analysis of the given labels; `oom` labels run out of memory at the two longest lengths.

    `contents` go to `factories.make_folder`.
    """
    truths = {
        label: dataclasses.replace(MODELS[label], event_seconds=STREAMED.get(label), watts=300.0 if energy else None)
        for label in labels
    }
    defects = {}
    if problems:
        defects = {
            "failed": [(labels[-1], 256)],
            "stale": [labels[0]],
            "flags": {(labels[-1], 1024): ["first block slow"]},
        }
    with tempfile.TemporaryDirectory() as name:
        folder = factories.make_folder(
            Path(name),
            truths=truths,
            lengths=LENGTHS,
            users=200,
            oom=[(label, length) for label in oom for length in LENGTHS[-2:]],
            **{**defects, **contents},
        )
        if problems:
            (folder / "speed").mkdir(exist_ok=True)
            (folder / "speed" / "broken.json").write_text("{")
        found = analyse(folder)
    return msgspec.structs.replace(found, operator=operator_bench(operator_record())) if operator else found


def with_labels(analysis, replace):
    """The same analysis with labels renamed, everywhere they occur."""
    text = msgspec.json.encode(analysis).decode()
    for old, new in replace.items():
        text = text.replace(f'"{old}"', msgspec.json.encode(new).decode())
    return msgspec.json.decode(text.encode(), type=Analysis)
