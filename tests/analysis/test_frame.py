"""harness.load: one tidy frame a folder, whose numbers are the records' and the analysis's."""

import re
import subprocess
import sys
from pathlib import Path

import factories
import numpy as np
import pytest

import harness
from harness import metrics
from harness.analysis.analyse import analyse
from harness.analysis.frame import TABLES
from harness.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TRUTHS = {label: factories.TRUTHS[label] for label in ("hyenarec", "sasrec-sdpa")}
LENGTHS = (256, 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return factories.make_folder(
        tmp_path_factory.mktemp("frame") / "study",
        truths=TRUTHS,
        lengths=LENGTHS,
        seeds=(0, 1),
        users=200,
        oom=[("sasrec-sdpa", 1024)],
        absent=[("hyenarec", 256)],
        flags={("sasrec-sdpa", 256): ["one", "two"]},
        stale=["sasrec-sdpa"],
    )


@pytest.fixture(scope="module")
def cells(folder):
    return harness.load(folder)


def test_a_row_a_cell_measured_or_not(folder, cells):
    analysis = analyse(folder)
    assert list(cells["path"]) == [r.path for r in analysis.records]
    assert list(cells["status"]) == [r.status for r in analysis.records]
    counts = cells.groupby("status").size()
    assert (counts["oom"], counts["missing"]) == (3, 3)
    absent = cells[cells["status"] == "missing"]
    assert absent["step_seconds"].isna().all()
    assert absent["stale"].isna().all()
    assert set(absent["model"]) == {"hyenarec"}


def test_times_are_those_of_the_analysis(folder, cells):
    analysis = analyse(folder)
    (own,) = [p for p in analysis.times if (p.label, p.length, p.phase) == ("sasrec-sdpa", 256, "step")]
    rows = cells[(cells["label"] == "sasrec-sdpa") & (cells["sweep"] == "constant-tokens") & (cells["length"] == 256)]
    assert list(rows["step_seconds"]) == pytest.approx(own.process_seconds)
    assert (rows["tokens"] == own.tokens).all()
    assert list(rows["token_seconds"] * own.tokens) == pytest.approx(own.process_seconds)
    assert (rows["token_seconds"] * rows["tokens_per_second"]).tolist() == pytest.approx([1.0] * 3)
    (faster,) = [p for p in analysis.speedups if (p.label, p.length) == ("sasrec-sdpa", 256)]
    assert list(rows["speedup"]) == pytest.approx(faster.process_speedups)
    assert set(rows["flags"]) == {"one; two"}
    assert rows["stale"].all()
    assert set(rows["partner"]) == {"hyenarec"}


def test_accuracy_and_memory_are_those_of_the_analysis(folder, cells):
    analysis = analyse(folder)
    for row in analysis.accuracy:
        own = cells[(cells["kind"] == "training") & (cells["label"] == row.label)]
        for name in metrics.names():
            assert own[name].mean() == pytest.approx(row.metrics[name].mean)
    for point in analysis.memory:
        (net,) = cells[
            (cells["label"] == point.label) & (cells["sweep"] == point.sweep) & (cells["length"] == point.length)
        ]["net_bytes"]
        assert net == point.net_bytes


def test_samples_are_the_blocks_and_epochs_the_epochs(folder, cells):
    samples = harness.load(folder, "samples")
    medians = (
        samples[(samples["side"] == "model") & (samples["phase"] == "step")]
        .groupby("path")["seconds_per_step"]
        .median()
    )
    steps = cells.dropna(subset=["step_seconds"]).set_index("path")["step_seconds"]
    assert medians.to_dict() == pytest.approx(steps.to_dict())
    epochs = harness.load(folder, "epochs")
    totals = epochs.groupby("path")["train_seconds"].sum()
    trained = cells[cells["epochs"].fillna(0) > 0].set_index("path")["training_seconds"]
    assert totals.to_dict() == pytest.approx(trained.to_dict())


def test_verdicts_are_those_of_the_analysis_and_their_parts(folder):
    verdicts, claims = harness.load(folder, "verdicts"), analyse(folder).claims
    overall = verdicts[verdicts["variant"] == ""].set_index("claim")
    assert list(overall["verdict"]) == [claim.overall.verdict for claim in claims]
    assert len(verdicts) == sum(1 + len(claim.variants) for claim in claims)
    decided = [claim.overall for claim in claims if claim.overall.interval is not None]
    assert decided
    for ruling in decided:
        row = overall.loc[ruling.id]
        assert [None if np.isnan(end) else end for end in (row["lower"], row["upper"])] == list(ruling.interval)
        assert (row["statistic"], row["measured"]) == (ruling.statistic, ruling.measured)
        assert (row["from_length"], row["to_length"]) == ruling.window


def test_numbers_that_may_be_missing_stay_numbers(cells):
    assert cells["length"].dtype == "Int64"
    assert cells["stale"].dtype == "boolean"
    assert cells["step_seconds"].dtype == np.float64
    assert cells["ndcg@10"].dtype == np.float64


@pytest.mark.parametrize("table", TABLES)
def test_the_page_names_every_column_and_no_other(folder, table):
    text = (ROOT / "docs" / "frame.md").read_text()
    parts = dict(zip(TABLES, text.split("\n## ")[1:], strict=True))
    named = {
        name
        for cell in re.findall(r"^\| (`.*?) \|", parts[table], re.MULTILINE)
        for name in re.findall("`(.*?)`", cell)
    }
    columns = set(harness.load(folder, table))
    shared = set(harness.load(folder, "cells")) if table != "cells" else set(metrics.names())
    assert named <= columns
    assert columns - shared <= named


def test_the_example_of_the_page_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    example = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "frame.md").read_text(), re.DOTALL)[0]
    exec(compile(example, "docs/frame.md", "exec"), {})
    assert "hyenarec" in capsys.readouterr().out


def test_importing_the_package_stays_light():
    code = "import sys, harness; print([m for m in ('pandas', 'numpy', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, harness; harness.load(sys.argv[1]); print('torch' in sys.modules)"
    argument = str(ROOT / "results" / "reference" / "cpu-2core-linear-time")
    assert subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True).stdout == "False\n"


def test_what_is_not_there_is_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="cell"):
        harness.load(folder, "cels")
    with pytest.raises(UserError, match=r"study\.json"):
        harness.load(tmp_path)
