"""The parts of a speed cell that only rare machines reach."""

import gc
import weakref

import pytest
import torch
from specs import SPEC

from harness.measure.speed import cell
from harness.records.environment import describe


def test_a_pair_that_does_not_fit_is_timed_apart_with_only_one_model_alive(monkeypatch):
    alive = weakref.WeakSet()
    most_alive_alone = []
    make, time_sides = cell._Trainee.__init__, cell._time_sides

    def counted(self, *arguments):
        make(self, *arguments)
        alive.add(self)
        if len(most_alive_alone) == 0 and len(alive) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    def watched(spec, names, *arguments):
        if len(names) == 1:
            gc.collect()
            most_alive_alone.append(len(alive))
        return time_sides(spec, names, *arguments)

    monkeypatch.setattr(cell._Trainee, "__init__", counted)
    monkeypatch.setattr(cell, "_time_sides", watched)
    fields = cell.run(SPEC, "time", describe(1, {}))
    assert most_alive_alone == [0, 0]
    assert not fields["timing"].paired
    assert [b.side for b in fields["timing"].blocks] == sorted(b.side for b in fields["timing"].blocks)
    assert any(flag.startswith("unpaired") for flag in fields["flags"])


def test_any_other_error_is_not_taken_for_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cell, "_time_sides", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        cell.run(SPEC, "time", describe(1, {}))
