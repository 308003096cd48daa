"""What to see in each figure, a sentence with the numbers of the analysis."""

import re

import pytest
from committed import analysis_of
from examples import example

from harness.report.section import draw, figure_names, seen


def test_the_sentences_of_a_committed_set():
    committed = analysis_of("cpu-2core")
    said = seen(committed)
    at = {(p.label, p.length): p.speedup for p in committed.speedups}
    largest = max((value, label) for (label, length), value in at.items() if length == 8192)
    assert f"{largest[0]:.3g} times as fast as {largest[1]}" in said["speedup"]
    assert said["speedup"].startswith("At 8,192 events hyenarec trains ")
    assert said["time"].startswith("From 128 to 8,192 events the time of a token becomes ")
    memory = {p.label: p.net_bytes for p in committed.memory if p.constant == "batch" and p.length == 4096}
    assert f"{min(memory, key=memory.get)} takes least" in said["memory"]
    assert f"{max(memory, key=memory.get)} most" in said["memory"]
    assert said["streaming"].startswith("After 8,192 events one more takes hyenarec ")


def test_accuracy_names_the_best_and_the_partners_place():
    found = analysis_of("accuracy-ml-1m")
    said = seen(found)["accuracy"]
    rows = [r for r in found.accuracy if not r.is_reference and r.length == max(r.length or 0 for r in found.accuracy)]
    ordered = sorted(rows, key=lambda r: -r.metrics["ndcg@10"].mean)
    place = next(n for n, r in enumerate(ordered, 1) if r.label == "hyenarec")
    assert f"On ml-1m {ordered[0].label} ranks best of the trained" in said
    assert place == 1 or f"hyenarec is number {place} of {len(ordered)}" in said


@pytest.mark.parametrize(
    "contents",
    [
        {"speed": False, "memory": False, "training": False, "problems": False, "oom": ()},
        {"labels": ("hyenarec",), "oom": ()},
        {"oom": ("hyenarec", "sasrec-math")},
        {"training": False},
        {"energy": True, "operator": True, "training_lengths": (64, 128), "datasets": ("ml-1m", "beauty")},
        {"labels": ("hyenarec", "gru4rec"), "memory": False, "oom": ()},
    ],
    ids=["nothing", "one-model", "out-of-memory", "no-accuracy", "everything", "two-models"],
)
def test_awkward_records_say_little_and_nothing_wrong(contents):
    analysis = example(**contents)
    drawn = {name for name in figure_names() if draw(analysis, name) is not None}
    assert drawn == set(seen(analysis))
    for name, sentence in seen(analysis).items():
        assert name in figure_names()
        assert draw(analysis, name) is not None
        assert re.search(r"\d", sentence)
        assert sentence.endswith(".")
        assert "nan" not in sentence
