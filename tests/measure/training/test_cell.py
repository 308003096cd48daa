import copy
import math
import types

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from harness.data.catalogue import SOURCES
from harness.data.generated import synthetic
from harness.data.sources import prepare
from harness.errors import UserError
from harness.measure.training import cell, loop
from harness.measure.training.ranking import NotFiniteError
from harness.records import schema as record
from harness.records.environment import describe
from harness.records.spec import TrainingSpec
from harness.run.child import OBSERVERS
from models import registry
from models.base import Cost, Scorer, SequenceModel, initialise_embedding, register, register_reference


@register("stand-in", family="recurrent", causal=True, citation="none")
class StandIn(SequenceModel):
    def __init__(self, config):
        super().__init__(config)
        self.item_embedding = nn.Embedding(config.num_items + 1, config.hidden_size, padding_idx=0)
        initialise_embedding(self.item_embedding, 0.2)
        self.recurrence = nn.GRU(config.hidden_size, config.hidden_size, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, items, timestamps=None):
        return self.recurrence(self.dropout(self.item_embedding(items)))[0]

    def cost(self, batch, length):
        return Cost(1.0, 1.0, 1.0)


@register_reference("stand-in-reference", citation="none")
class StandInReference(Scorer):
    def fit(self, interactions):
        self.counts = np.bincount(interactions.items, minlength=interactions.num_items + 1)[1:].astype(float)

    def scores(self, items, lengths):
        return np.tile(self.counts, (len(items), 1))


@pytest.fixture(autouse=True)
def stage(tmp_path, monkeypatch):
    """Small synthetic data, and the stand-ins in the registry."""
    small = synthetic.Parameters(users=200, shortest=20, longest=40, topics=10, variants=10, moods=2)
    monkeypatch.setattr(synthetic, "generate", lambda generate=synthetic.generate: generate(small))
    monkeypatch.setattr(synthetic.Parameters, "num_items", small.num_items)
    monkeypatch.setenv("HYENAREC_CACHE", str(tmp_path / "cache"))
    classes = {"stand-in": StandIn, "stand-in-reference": StandInReference}
    entries = {
        name: types.SimpleNamespace(reference=issubclass(c, Scorer), module="models.base", distribution=None)
        for name, c in classes.items()
    }
    monkeypatch.setattr(registry, "entries", lambda: entries)
    monkeypatch.setattr(registry, "load", lambda name: classes[name])


def spec(**changes):
    values = {
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "kind": "training",
        "dataset": "synthetic",
        "source": {"format": "synthetic", "file": None, "sha256": None},
        "split": "leave-one-out",
        "seen_items": "filtered",
        "timed": True,
        "timeout_seconds": 60.0,
        "model": {
            "label": "mine",
            "name": "stand-in",
            "options": {"hidden_size": 16, "num_layers": 1, "dropout": 0.2},
        },
        "length": 32,
        "seed": 0,
        "objective": "declared",
        "optimiser": "adam",
        "epochs": 4,
        "patience": 4,
        "evaluate_every": 1,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "loss": {"name": "cross-entropy", "normalise": False, "temperature": 1.0},
        "compile": False,
        **changes,
    }
    return msgspec.convert(values, TrainingSpec)


REFERENCE = {"model": {"label": "r", "name": "stand-in-reference", "options": {}}, "length": None}
ENVIRONMENT = describe(1, {})


def arrays():
    return prepare("synthetic", SOURCES["synthetic"]).folder


def run(tmp_path, name="run", observer=None, **changes):
    fields = cell.run(spec(**changes), arrays(), tmp_path / f"{name}.ckpt", "sources", ENVIRONMENT, observer)
    # What else runs on the machine of the tests is no part of the run.
    fields["flags"] = [flag for flag in fields["flags"] if not flag.startswith("neighbours")]
    return fields


def without_times(fields):
    fields = copy.copy(fields)
    fields["epochs"] = [msgspec.structs.replace(e, train_seconds=0, evaluation_seconds=0) for e in fields["epochs"]]
    return {k: v for k, v in fields.items() if k not in {"training_seconds", "tokens_per_second", "memory", "resumed"}}


def test_fields_make_a_record(tmp_path):
    fields = run(tmp_path)
    split_sha256 = fields.pop("split_sha256")
    whole = record.TrainingRecord(
        schema_version=record.SCHEMA_VERSION,
        status="ok",
        study="s",
        label="mine",
        dataset="synthetic",
        length=32,
        seed=0,
        spec_digest="0",
        spec=spec(),
        provenance=record.Provenance(
            git_commit=None, git_dirty=None, started_at="", source_digest="", split_sha256=split_sha256
        ),
        device="cpu",
        precision="float32",
        timed=True,
        **fields,
    )
    path = record.write(whole, tmp_path / "record.json")
    assert record.read(path) == whole
    assert len(whole.test.ranks) == 200
    assert whole.validation.ranks == []
    assert [e.epoch for e in whole.epochs] == [1, 2, 3, 4]
    assert whole.epochs[-1].loss < whole.epochs[0].loss
    assert whole.training_seconds == sum(e.train_seconds for e in whole.epochs)
    assert whole.model.parameters > 0
    assert whole.memory.peak_bytes >= 0
    assert whole.environment.threads == 1
    assert len(split_sha256) == 64


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_a_continued_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, after):
    whole = run(tmp_path, "whole")
    saved = loop.checkpoint.save
    count = 0

    def save_then_die(*arguments):
        nonlocal count
        saved(*arguments)
        count += 1
        if count == after:
            raise _Killed

    monkeypatch.setattr(loop.checkpoint, "save", save_then_die)
    with pytest.raises(_Killed):
        run(tmp_path, "broken")
    monkeypatch.setattr(loop.checkpoint, "save", saved)
    continued = run(tmp_path, "broken")
    assert continued["resumed"] == 1
    assert len(continued["epochs"]) == 4
    assert without_times(continued) == without_times(whole)
    last = [torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state"] for name in ("whole", "broken")]
    for name, value in last[0]["model"].items():
        assert torch.equal(value, last[1]["model"][name])


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path)
    assert [e.train_seconds for e in again["epochs"]] == [e.train_seconds for e in first["epochs"]]
    assert again["test"] == first["test"]
    assert again["memory"] is None


def test_a_checkpoint_of_another_spec_is_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(UserError, match="checkpoint of run"):
        run(tmp_path, epochs=2)


def test_a_run_that_moved_says_so(tmp_path):
    run(tmp_path)
    elsewhere = msgspec.structs.replace(ENVIRONMENT, cpu="another one")
    assert "resumed-elsewhere" in cell.run(spec(), arrays(), tmp_path / "run.ckpt", "sources", elsewhere)["flags"]


def test_another_seed_gives_another_run(tmp_path):
    assert run(tmp_path, "a", epochs=1)["test"] != run(tmp_path, "b", epochs=1, seed=1)["test"]


def test_patience_and_best_epoch(tmp_path, monkeypatch):
    script = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    ranked = loop.rank_model

    def scripted(*arguments, **options):
        found = ranked(*arguments, **options)
        return msgspec.structs.replace(found, metrics={**found.metrics, "ndcg@10": next(script)})

    monkeypatch.setattr(loop, "rank_model", scripted)
    fields = run(tmp_path, epochs=5, patience=2)
    assert [e.validation_ndcg10 for e in fields["epochs"]] == [0.1, 0.3, 0.2, 0.25]
    assert fields["best_epoch"] == 2
    assert fields["stopped_early"]
    assert fields["validation"].metrics["ndcg@10"] == 0.3
    assert "still-improving" not in fields["flags"]


def test_best_weights_are_the_ones_tested(tmp_path, monkeypatch):
    one = run(tmp_path, "one", epochs=1)
    script = iter([0.9, 0.1, 0.1])
    ranked = loop.rank_model

    def scripted(*arguments, **options):
        found = ranked(*arguments, **options)
        return msgspec.structs.replace(found, metrics={**found.metrics, "ndcg@10": next(script)})

    monkeypatch.setattr(loop, "rank_model", scripted)
    assert run(tmp_path, "three", epochs=3)["test"] == one["test"]


def test_evaluation_every_second_epoch_and_after_the_last(tmp_path):
    fields = run(tmp_path, epochs=3, evaluate_every=2)
    assert [e.validation_ndcg10 is None for e in fields["epochs"]] == [True, False, False]


def test_flags(tmp_path):
    flags = run(tmp_path, "untrained", epochs=1, learning_rate=1e-9)["flags"]
    assert {"collapsed", "still-improving"} <= set(flags)
    assert "collapsed" not in run(tmp_path, "trained", epochs=8)["flags"]


def test_divergence_before_any_evaluation_is_a_result_without_a_ranking(tmp_path):
    fields = run(tmp_path, learning_rate=math.inf)
    assert fields["status"] == "diverged"
    assert "not finite" in fields["detail"]
    assert fields["flags"] == ["diverged"]
    assert "test" not in fields
    assert len(fields["split_sha256"]) == 64


def test_scores_that_cannot_be_ranked_end_a_run(tmp_path, monkeypatch):
    ranked, calls = loop.rank_model, iter([False, True])

    def failing(*arguments, **options):
        if next(calls):
            raise NotFiniteError("scores hold NaN")
        return ranked(*arguments, **options)

    monkeypatch.setattr(loop, "rank_model", failing)
    fields = run(tmp_path)
    assert "diverged" in fields["flags"]
    assert fields["best_epoch"] == 1


def test_divergence_later_keeps_the_best_epoch(tmp_path, monkeypatch):
    stepper = loop._stepper

    def breaking(*arguments):
        step, count = stepper(*arguments), 0

        def broken(batch, rate):
            nonlocal count
            count += 1
            return step(batch, rate) * (math.nan if count > 15 else 1)

        return broken

    monkeypatch.setattr(loop, "_stepper", breaking)
    fields = run(tmp_path)
    assert "diverged" in fields["flags"]
    assert len(fields["epochs"]) == 2


def test_a_reference(tmp_path):
    fields = run(tmp_path, **REFERENCE)
    assert fields["model"].family == "reference"
    assert fields["model"].parameters == 0
    assert len(fields["test"].ranks) == 200
    assert fields["training_seconds"] >= 0
    assert not (tmp_path / "run.ckpt").exists()


class Killer(loop.Observer):
    """Ends a run in the middle, after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def step(self, epoch, step, steps):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


RECIPE = {
    "optimiser": "adamw",
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_steps": 5,
    "gradient_clip": 0.5,
    "loss": {"name": "bce", "normalise": False, "temperature": 1.0, "negatives": 2},
}


def test_a_run_killed_at_any_step_goes_on_bit_for_bit(tmp_path):
    whole = run(tmp_path, "whole", **RECIPE)
    steps = sum(e.steps for e in whole["epochs"])
    random = np.random.default_rng(0)
    for point in range(20):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, f"killed-{point}", observer=Killer(random.integers(0, steps)), **RECIPE)
        assert without_times(run(tmp_path, f"killed-{point}", **RECIPE)) == without_times(whole)


@pytest.mark.parametrize("change", [{"weight_decay": 0.0}, {"schedule": "constant"}, {"warmup_steps": 0}])
def test_every_part_of_a_recipe_changes_the_run(tmp_path, change):
    found = run(tmp_path, "found", **RECIPE)
    other = run(tmp_path, "other", **{**RECIPE, **change})
    assert [e.loss for e in found["epochs"]] != [e.loss for e in other["epochs"]]


def test_an_observer_is_told_everything_and_changes_nothing(tmp_path):
    told = []

    class Disturbing(loop.Observer):
        def step(self, epoch, step, steps):
            told.append((epoch, step, steps))

        def epoch(self, model, outcome, settings):
            told.append(outcome.epochs[-1].epoch)
            model.eval()
            torch.manual_seed(7)

    found = run(tmp_path, "found", observer=Disturbing(), epochs=2)
    steps = found["epochs"][0].steps
    assert told == [x for e in (1, 2) for x in [*((e, k, steps) for k in range(1, steps + 1)), e]]
    assert without_times(found) == without_times(run(tmp_path, "alone", epochs=2))


def test_padding_is_the_share_of_positions_without_an_event(tmp_path):
    found = run(tmp_path, epochs=2)
    tokens, positions = (sum(getattr(e, name) for e in found["epochs"]) for name in ("tokens", "positions"))
    assert found["padding"] == pytest.approx(1 - tokens / positions)
    assert 0 < found["padding"] < 0.1


def test_progress_goes_to_stderr(tmp_path, capsys):
    run(tmp_path, epochs=2, observer=OBSERVERS["lines"]())
    captured = capsys.readouterr()
    assert captured.out == ""
    for part in ("epoch 2/2", "loss", "NDCG@10", "tokens/s", "min left"):
        assert part in captured.err


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_on_a_gpu(tmp_path, precision):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    fields = run(tmp_path, device="cuda", precision=precision, epochs=8)
    assert "collapsed" not in fields["flags"]
    assert fields["memory"].peak_bytes > 0
    assert fields["environment"].cuda


def test_a_model_that_changes_the_process_is_put_right_and_flagged(tmp_path, monkeypatch):
    plain = run(tmp_path, "plain", epochs=2)
    make = StandIn.__init__

    def changing(self, config):
        make(self, config)
        torch.set_num_threads(2)

    monkeypatch.setattr(StandIn, "__init__", changing)
    changed = run(tmp_path, "changed", epochs=2)
    assert changed["test"] == plain["test"]
    assert changed["environment"].threads == 1
    (flag,) = set(changed["flags"]) - set(plain["flags"])
    assert flag.startswith("building mine: the number of CPU threads changed from 1 to 2")


def test_a_reference_that_changes_the_process_is_flagged(tmp_path, monkeypatch):
    monkeypatch.setattr(
        StandInReference,
        "fit",
        lambda self, events, fit=StandInReference.fit: [torch.manual_seed(7), fit(self, events)],
    )
    (flag,) = run(tmp_path, **REFERENCE)["flags"]
    assert flag.startswith("fitting and ranking: the seed of torch's generator changed")
