import math

import pytest
import torch

from harness.measure.speed import stopwatch
from harness.measure.speed.stopwatch import Clock, Limits, Plan, Side
from harness.records.schema import Block, Warmup

NONE = Limits(minimum_seconds=0.0, minimum_steps=1, budget_seconds=60.0)
LIMITS = Limits(minimum_seconds=1.0, minimum_steps=5, budget_seconds=8.0)


@pytest.mark.parametrize("model", [1e-5, 1e-3, 0.01, 0.1, 0.5, 1.5])
@pytest.mark.parametrize("partner", [1e-5, 1e-3, 0.01, 0.1, 0.5])
def test_plan_sizes_blocks_so_that_both_sides_reach_their_minimum(model, partner):
    plan = stopwatch.plan(model, partner, LIMITS)
    needed = [max(5, math.ceil(1.0 / t)) for t in (model, partner)]
    for steps, least in zip((plan.model_steps, plan.partner_steps), needed, strict=True):
        assert least <= plan.pairs * steps < least + 2 * plan.pairs
    assert plan.pairs % 2 == 0
    assert plan.pairs <= stopwatch.MAXIMUM_PAIRS


@pytest.mark.parametrize(("model", "partner"), [(0.5, 0.5), (0.01, 0.5), (1.5, 0.1), (4.0, 3.0), (1e-3, 1e-3)])
def test_the_budget_is_kept_while_measuring(model, partner):
    class TwoClocks(Clock):
        def time(self, run, steps):
            return steps * run(), 0

    sides = [Side("model", {"step": lambda: model}, 0.0), Side("partner", {"step": lambda: partner}, 0.0)]
    plan = stopwatch.plan(model, partner, LIMITS)
    found = stopwatch.measure_pair(*sides, "step", TwoClocks(torch.device("cpu")), plan, LIMITS)
    total = sum(b.seconds for b in found)
    assert total <= 8.0 or len(found) == 4
    for side, steps in zip(sides, (plan.model_steps, plan.partner_steps), strict=True):
        own = [b for b in found if b.side == side.name]
        assert all(b.steps == steps for b in own)
        enough = sum(b.steps for b in own) >= 5 and sum(b.seconds for b in own) >= 0.999
        pair = plan.model_steps * model + plan.partner_steps * partner
        assert enough or total + pair > 8.0
    alone = stopwatch.measure_alone(sides[0], "step", TwoClocks(torch.device("cpu")), plan, LIMITS)
    assert sum(b.seconds for b in alone) <= 4.0 or len(alone) == 2


def test_plan_of_equal_sides_is_balanced():
    plan = stopwatch.plan(0.09, 0.09, LIMITS)
    assert plan.pairs % 2 == 0
    assert plan.model_steps == plan.partner_steps


def test_blocks_alternate_in_balanced_order_and_run_the_planned_steps():
    calls = []
    model = Side("model", {"step": lambda: calls.append("A")}, 0.0)
    partner = Side("partner", {"step": lambda: calls.append("B")}, 0.0)
    blocks = stopwatch.measure_pair(model, partner, "step", Clock(torch.device("cpu")), Plan(4, 1, 2), NONE)
    # One step of each that is not kept, then the blocks.
    assert "".join(calls) == "AB" + "ABB" + "BBA" + "ABB" + "BBA"
    assert [b.side for b in blocks] == ["model", "partner", "partner", "model"] * 2
    assert all(b.seconds > 0 for b in blocks)


class FakeClock(Clock):
    """Step times from a list; the last one repeats."""

    def __init__(self, times):
        super().__init__(torch.device("cpu"))
        self.times = list(times)

    def time(self, run, steps):
        total = 0.0
        for _ in range(steps):
            total += self.times.pop(0) if len(self.times) > 1 else self.times[0]
        return total, 0


def test_warm_up_goes_on_until_the_step_time_is_stable():
    warmup, seconds = stopwatch.warm_up(
        Side("model", {"step": lambda: None}, 0.1), "step", FakeClock([1, 0.5, 0.2, 0.1])
    )
    assert warmup.stable
    assert seconds == pytest.approx(0.1)
    assert warmup.steps >= 5
    assert warmup.compile_seconds == pytest.approx(0.9)


def test_a_plan_from_a_wrong_estimate_is_mended_while_measuring():
    side = {"step": lambda: None}
    # The warm-up saw 3 s a step and planned two pairs; the step takes 0.5 s.
    blocks = stopwatch.measure_pair(
        Side("model", side, 0.0), Side("partner", side, 0.0), "step", FakeClock([0.5]), Plan(2, 1, 1), LIMITS
    )
    assert len(blocks) == 2 * 5
    # And the other way round: 3 s a step where 0.1 s was seen; two pairs are the least.
    blocks = stopwatch.measure_pair(
        Side("model", side, 0.0), Side("partner", side, 0.0), "step", FakeClock([3.0]), Plan(10, 1, 1), LIMITS
    )
    assert len(blocks) == 2 * 2


def test_slow_steps_that_start_slower_still_settle():
    warmup, seconds = stopwatch.warm_up(
        Side("model", {"step": lambda: None}, 0.1), "step", FakeClock([4.6, 3.1, 1.3, 1.3])
    )
    assert warmup.stable
    assert seconds == pytest.approx(1.3)


def test_one_disturbed_window_does_not_plan_the_blocks():
    times = [1.0, 0.1, 0.2, 0.1, 0.2, 0.1, 2.0]
    _, seconds = stopwatch.warm_up(Side("model", {"step": lambda: None}, 0.1), "step", FakeClock(times))
    assert seconds < 0.5


def test_warm_up_gives_up_in_the_end_and_says_so():
    times = [0.3 * (1.5 if i % 2 else 1) for i in range(1000)]
    warmup, _ = stopwatch.warm_up(Side("model", {"step": lambda: None}, 0.1), "step", FakeClock(times))
    assert not warmup.stable
    assert warmup.seconds < 5


def blocks(times, side="model", faults=0):
    return [Block(side=side, phase="step", steps=1, seconds=t, minor_faults=faults) for t in times]


def found(values, warmups=(), peak=None):
    return stopwatch.flags(values, warmups, LIMITS, page_bytes=4096, peak_bytes=peak)


def test_a_quiet_series_has_no_flag():
    assert found(blocks([0.2, 0.21, 0.2, 0.19, 0.2, 0.2])) == []


@pytest.mark.parametrize(
    ("times", "word"),
    [
        ([0.2, 0.3, 0.2, 0.3, 0.2, 0.3], "quartiles"),
        ([0.2, 0.2, 0.2, 0.2, 0.2, 0.5], "off the median"),
        ([0.25, 0.2, 0.2, 0.2, 0.2, 0.2], "first block"),
        ([0.2, 0.2, 0.2], "fitted the budget"),
    ],
)
def test_flags_name_what_is_wrong(times, word):
    assert any(word in flag for flag in found(blocks(times)))


def test_an_unsettled_warm_up_is_flagged():
    warmup = Warmup(side="partner", build_seconds=0, compile_seconds=0, steps=9, seconds=2.0, stable=False)
    (flag,) = found(blocks([0.2] * 6), [warmup])
    assert flag.startswith("partner: warm-up did not settle within 10%; close other programs, delete the record")


def test_page_faults_that_amount_to_a_tenth_of_the_peak_are_flagged():
    assert found(blocks([0.2] * 6, faults=1000), peak=100_000_000) == []
    assert "allocator" in found(blocks([0.2] * 6, faults=10_000), peak=100_000_000)[0]
