"""Models that change the process they are measured in, or compute no numbers."""

import gc
import os

import msgspec
import numpy as np
import pytest
import torch
from specs import SPEC

from harness.measure import guard as guard_module
from harness.measure.guard import Guard
from harness.measure.speed import cell
from harness.records.environment import describe
from models.gru4rec import GRU4Rec

CHANGES = {
    "the number of CPU threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "the default type": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "whether gradients are computed": lambda: torch.set_grad_enabled(False),
    "the seed of torch's generator": lambda: torch.manual_seed(12345),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "the precision of float32 products": lambda: torch.set_float32_matmul_precision("medium"),
    "the kernels of attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "the flushing of denormal numbers": lambda: torch.set_flush_denormal(True),
    "the detection of anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "garbage collection": gc.disable,
    "the working folder": lambda: os.chdir("/"),
}
ELSEWHERE = {
    "deterministic algorithms": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "the precision of float32 products": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.fixture(autouse=True)
def tidy():
    """Whatever a test leaves is no other test's."""
    kept = Guard()
    yield
    kept.check("tidying up")


def test_every_state_has_a_change():
    assert CHANGES.keys() == guard_module._STATE.keys()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize(("name", "change"), [*CHANGES.items(), *ELSEWHERE.items()])
def test_what_was_changed_is_put_back_and_flagged(name, change):
    before = {key: read() for key, (read, _) in guard_module._STATE.items()}
    guard = Guard()
    guard.check("nothing")
    assert guard.flags == []
    change()
    guard.check("building mine")
    assert {key: read() for key, (read, _) in guard_module._STATE.items()} == before
    assert len(guard.flags) == 1
    assert guard.flags[0].startswith(f"building mine: {name} changed from ")
    assert guard.flags[0].endswith("take that out of the model, delete the record and measure again")
    guard.check("building mine")
    assert len(guard.flags) == 1
    # Does not raise: the older and the newer way to ask for the precision agree.
    assert not torch.backends.cuda.matmul.allow_tf32


def test_an_error_says_what_was_changed_before():
    def step():
        with Guard():
            torch.set_grad_enabled(False)
            torch.nn.Linear(1, 1)(torch.ones(1)).backward()

    with pytest.raises(RuntimeError) as caught:
        step()
    assert "whether gradients are computed changed from True to False" in caught.value.__notes__[0]


def speed_flags(measure="time", **changes):
    fields = cell.run(msgspec.structs.replace(SPEC, **changes), measure, describe(1, {}))
    return [flag for flag in fields["flags"] if "put back" in flag or "NaN" in flag]


def test_a_model_that_leaves_the_process_alone_has_no_such_flag():
    assert speed_flags(phases=["step", "forward", "rest", "stream"]) == []
    assert speed_flags("memory") == []


@pytest.mark.parametrize("measure", ["time", "memory"])
def test_a_constructor_that_changes_the_process_does_not_change_the_measurement(monkeypatch, measure):
    make = GRU4Rec.__init__
    types = []

    def changing(self, config):
        make(self, config)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(5)

    def loss(*arguments, loss=cell.sampled_softmax):
        types.append((torch.get_default_dtype(), torch.initial_seed()))
        return loss(*arguments)

    monkeypatch.setattr(GRU4Rec, "__init__", changing)
    monkeypatch.setattr(cell, "sampled_softmax", loss)
    flags = speed_flags(measure)
    assert [flag.partition(" changed")[0] for flag in flags] == [
        "building gru4rec: the default type",
        "building gru4rec: the seed of torch's generator",
    ]
    assert set(types) == {(torch.float32, 0)}


def test_a_forward_pass_that_changes_the_process_is_flagged_where_it_counts(monkeypatch):
    forward = GRU4Rec.forward

    def changing(self, items, timestamps=None):
        torch.set_num_threads(2)
        return forward(self, items, timestamps)

    monkeypatch.setattr(GRU4Rec, "forward", changing)
    flags = speed_flags()
    assert [flag.partition(" changed")[0] for flag in flags] == [
        "warming up the model's step: the number of CPU threads",
        "timing the step: the number of CPU threads",
    ]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("phase", ["step", "forward"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_computes_no_numbers_is_flagged(monkeypatch, phase, value):
    forward = GRU4Rec.forward
    monkeypatch.setattr(GRU4Rec, "forward", lambda self, items: forward(self, items) * value)
    (flag,) = speed_flags(phases=[phase])
    assert flag.startswith("gru4rec: its " + ("loss is" if phase == "step" else "hidden states are"))
    assert flag.endswith("delete the record and measure again")
    if phase == "step":
        assert speed_flags("memory") == [flag]
