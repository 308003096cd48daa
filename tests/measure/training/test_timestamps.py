"""Times reach a model from the file to the gradient, in training and in ranking."""

import msgspec
import numpy as np
import pytest
import torch

from harness.data.catalogue import DataSource
from harness.data.sources import prepare
from harness.measure.training import cell
from harness.records.environment import describe
from harness.records.spec import TrainingSpec
from models.hstu import HSTU

SPEC = msgspec.convert(
    {
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "kind": "training",
        "dataset": "toy",
        "source": {"format": "pairs", "file": "toy.txt", "sha256": None},
        "split": "leave-one-out",
        "seen_items": "filtered",
        "timed": True,
        "timeout_seconds": 60.0,
        "model": {"label": "hstu", "name": "hstu", "options": {"hidden_size": 16, "num_layers": 1, "dropout": 0.0}},
        "length": 12,
        "seed": 0,
        "objective": "declared",
        "optimiser": "adam",
        "epochs": 2,
        "patience": 2,
        "evaluate_every": 1,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "loss": {"name": "cross-entropy", "normalise": False, "temperature": 1.0},
        "compile": False,
    },
    TrainingSpec,
)


def events():
    """`user item rating seconds` of 20 users, in any order; user u's k-th event is at 1,000 u + 10 k seconds."""
    random = np.random.default_rng(0)
    rows = [
        (user, int(random.integers(1, 20)), 5, 1_000 * user + 10 * k)
        for user in range(20)
        for k in range(int(random.integers(4, 16)))
    ]
    return [rows[i] for i in random.permutation(len(rows))], rows


@pytest.mark.parametrize("form", ["ratings", "pairs"])
def test_a_model_is_told_the_time_where_the_data_has_it(tmp_path, monkeypatch, form):
    shuffled, ordered = events()
    lines = ["\t".join(map(str, row if form == "ratings" else row[:2])) for row in (shuffled, ordered)[form == "pairs"]]
    (tmp_path / "toy.txt").write_text("\n".join(lines))
    monkeypatch.setenv("HYENAREC_DATA", str(tmp_path))
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    seen, tables = [], []

    def forward(self, items, timestamps=None, forward=HSTU.forward):
        seen.append((self.training, items, timestamps))
        tables.append(self.blocks[0].time_bias.detach().clone())
        return forward(self, items, timestamps)

    monkeypatch.setattr(HSTU, "forward", forward)
    source = DataSource(format=form, file="toy.txt")
    arrays = prepare("toy", source).folder
    fields = cell.run(SPEC, arrays, tmp_path / "run.ckpt", "sources", describe(1, {}))
    assert {training for training, _, _ in seen} == {True, False}
    timed = form == "ratings"
    assert fields["model"].backends["bias"] == ("position and time" if timed else "position")
    assert torch.equal(tables[0], tables[-1]) is not timed
    for _, items, times in seen:
        assert (times is not None) is timed
        if timed:
            real = items[:, 1:] > 0
            assert bool((times.diff(dim=1)[real] == 10).all())
            assert bool((times[items == 0] == 0).all())
