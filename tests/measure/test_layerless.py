import msgspec
import pytest
import specs
import torch

from harness.measure import runtime
from harness.measure.guard import Guard
from harness.measure.speed import cell
from harness.measure.speed.layerless import Rest
from harness.records.environment import describe

SPEC = msgspec.structs.replace(specs.SPEC, phases=["step", "rest"])


def build():
    return runtime.build_model(
        SPEC.model, num_items=50, max_length=16, seed=0, device=torch.device("cpu"), guard=Guard()
    )


def test_a_cell_times_the_rest_of_both_sides_as_a_phase_of_its_own():
    found = cell.run(SPEC, "time", describe(1, {}))["timing"].blocks
    for phase in ("step", "rest"):
        assert {b.side for b in found if b.phase == phase} == {"model", "partner"}


def test_the_model_is_left_alone_and_the_optimiser_steps_over_as_many_numbers():
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rest = Rest(model, 1e-3)
    assert sum(p.numel() for g in rest._optimiser.param_groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )
    items = torch.randint(1, 51, (2, 16))
    embedding = rest._embedding.weight.detach().clone()
    for _ in range(3):
        rest.step(items, items.flatten(), torch.arange(1, 9))
    assert not torch.equal(rest._embedding.weight, embedding)
    assert all(p.grad is not None and bool(p.grad.all()) for p in rest._others)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_layers_are_not_run(monkeypatch):
    model = build()
    rest = Rest(model, 1e-3)
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("the model ran"))
    items = torch.randint(1, 51, (2, 16))
    rest.step(items, items.flatten(), torch.arange(1, 9))
