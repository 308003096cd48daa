"""One table of metrics: what is named there is in the analysis, the document, and for older records too."""

import json

import factories
import numpy as np
import pytest
from typst_words import words_of

from harness import cli, metrics
from harness.analysis.analyse import analyse
from harness.report.document import assemble


def test_gains_by_hand():
    ranks = np.array([1.0, 2.0, 10.5, 11.0])
    assert metrics.gains("hr@10", ranks).tolist() == [1, 1, 1, 0], "half a tie counts"
    assert metrics.gains("mrr@10", ranks) == pytest.approx([1, 1 / 2, 1 / 10.5, 0])
    assert metrics.gains("ndcg@10", ranks) == pytest.approx([1, 1 / np.log2(3), 1 / np.log2(11.5), 0])
    assert metrics.ndcg(ranks, 10) == pytest.approx(metrics.gains(metrics.SELECTION, ranks).mean())
    assert metrics.SELECTION in metrics.names()


def test_a_metric_added_to_the_table_is_everywhere(tmp_path, monkeypatch, capsys):
    folder = factories.make_folder(tmp_path / "records")
    monkeypatch.setitem(metrics.GAINS, "linear", lambda ranks: 1 - ranks / 100)
    analysis = analyse(folder)
    rows = [r for r in analysis.accuracy if r.metrics]
    assert rows
    assert all("linear@20" in r.metrics and r.metrics["linear@20"].interval is not None for r in rows)
    assert cli.main(["analyse", str(folder), "--output", str(tmp_path / "analysis.json")]) == 0
    assert "linear@5" in json.loads((tmp_path / "analysis.json").read_text())["accuracy"][0]["metrics"]
    assert "LINEAR" in words_of(assemble(analysis, tmp_path), "table")
