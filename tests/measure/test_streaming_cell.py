"""The streamed phase of a speed cell."""

import msgspec
import pytest
import specs
import torch

from harness.measure.speed import cell, streaming
from harness.records.environment import describe
from models import registry

SPEC = msgspec.structs.replace(specs.SPEC, length=600)


def build(name, length=600):
    kind = registry.load(name)
    return kind(kind.CONFIG(num_items=50, max_length=length, hidden_size=16, num_layers=1))


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, [1]), (3, [3]), (16, [4, 16]), (256, [64, 256]), (2048, [128, 512, 2048]), (8192, [128, 512, 2048, 8192])],
)
def test_histories_are_quarters_of_the_length(length, expected):
    assert streaming.histories(length) == expected


@pytest.mark.parametrize("length", [1, 2, 5, 20])
def test_short_cells_stream_too(length):
    blocks = streaming.measure(
        build("gru4rec", length), msgspec.structs.replace(SPEC, length=length), torch.device("cpu")
    )
    assert {b.history for b in blocks} == set(streaming.histories(length))


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_histories_take_turns_in_balanced_order(name, monkeypatch):
    monkeypatch.setattr(streaming, "_BUDGET_SECONDS", 0.05)
    model = build(name).train()
    blocks = streaming.measure(model, SPEC, torch.device("cpu"))
    order = [b.history for b in blocks]
    assert order[:4] == [150, 600, 600, 150]
    assert order == order[:4] * (len(order) // 4), "whole rounds, there and back"
    assert {(b.side, b.phase, b.steps) for b in blocks} == {("model", "stream", 64)}
    assert all(b.seconds > 0 for b in blocks)
    assert model.training


def test_a_block_stays_in_the_second_half_of_its_history(monkeypatch):
    model, ages = build("gru4rec"), []
    step = model.step

    def watched(items, state):
        ages.append(state["age"])
        return step(items, state)

    monkeypatch.setattr(streaming, "_MAXIMUM_ROUNDS", 16)
    monkeypatch.setattr(model, "step", watched)
    blocks = streaming.measure(model, SPEC, torch.device("cpu"))
    assert {b.history for b in blocks} == {150, 600}
    assert min(ages) == 75
    assert max(ages) < 600
    assert {age for age in ages if 150 <= age < 300} == set(), "neither history reaches there"


def test_a_long_history_is_timed_at_its_end(monkeypatch):
    model, ages = build("gru4rec", 3000), []
    step = model.step
    monkeypatch.setattr(model, "step", lambda items, state: ages.append(state["age"]) or step(items, state))
    streaming.measure(model, msgspec.structs.replace(SPEC, length=3000), torch.device("cpu"))
    late = [age for age in ages if age >= 750]
    assert min(late) == 3000 - 17 * 64
    assert max(late) < 3000


def test_a_cost_that_grows_is_seen():
    """A stand-in clock: every step takes as long as the state is old."""

    class Counting:
        def time(self, run, steps):
            before = self.age()
            for _ in range(steps):
                run()
            return float(sum(range(before, before + steps))), 0

    clock = Counting()
    model, items = build("gru4rec"), torch.ones(1, 600, dtype=torch.int64)
    seconds = []
    for history in (150, 600):
        stream = streaming._Stream(model.eval(), items, history, 25)
        clock.age = lambda own=stream: own.state.get("age", own.begin)
        stream.block(clock)
        block = stream.block(clock)
        seconds.append(block.seconds / block.steps)
    assert seconds[1] / seconds[0] > 2.5


CELL = msgspec.structs.replace(specs.SPEC, length=64, phases=["step", "stream"], budget_seconds=0.2)


def test_a_cell_streams_its_model_and_not_the_partner():
    blocks = cell.run(CELL, "time", describe(1, {}))["timing"].blocks
    assert {(b.side, b.history) for b in blocks if b.phase == "stream"} == {("model", 16), ("model", 64)}
    assert {b.history for b in blocks if b.phase == "step"} == {None}


def test_a_model_that_does_not_stream_has_no_such_blocks(monkeypatch):
    monkeypatch.setattr(cell, "StreamingModel", type("Another", (), {}))
    blocks = cell.run(CELL, "time", describe(1, {}))["timing"].blocks
    assert {b.phase for b in blocks} == {"step"}
