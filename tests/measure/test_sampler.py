import time

import pytest
from traces import MIB, player

from harness.measure.device import nvml
from harness.measure.device.sampler import Sampler
from harness.records.device_series import DeviceSeries


def device_of(api, surveyed=True):
    with nvml.open_library(api) as library:
        if surveyed:
            library.survey()
        return library.device("6f0c1a52-0000-4000-8000-000000000001")


class Hand:
    """A clock that stands where it is put."""

    now = 100.0

    def __call__(self):
        return self.now


def by_hand(api, plan, windows=("step",)):
    """Samples at the planned seconds, one window from 1.5 to 3.5, no thread."""
    clock = Hand()
    sampler = Sampler(device_of(api), "time", clock=clock)
    for at in plan:
        clock.now = 100.0 + at
        sampler.sample()
    for phase in windows:
        clock.now = 101.5
        with sampler.window(phase):
            clock.now = 103.5
    return sampler


REASONS = "nvmlDeviceGetCurrentClocksEventReasons"


def test_throttling_counts_inside_the_timed_region_only():
    outside = by_hand(player(answers={REASONS: [0x4, 0x4, 0x0, 0x0, 0x8]}), [0, 1, 2, 3, 4])
    assert outside.flags() == []
    inside = by_hand(player(answers={REASONS: [0x0, 0x0, 0x4, 0x24, 0x0]}), [0, 1, 2, 3, 4])
    assert inside.flags() == [
        "device throttled while timing: software power cap, in 2 of 2 samples",
        "device throttled while timing: software thermal slowdown, in 1 of 2 samples",
    ]
    assert by_hand(player(answers={REASONS: [0x4]}), [0, 1, 2, 3, 4], windows=()).flags() == []


def test_a_driver_that_tells_no_reasons_raises_no_flag():
    assert by_hand(player(broken={REASONS}), [0, 1, 2, 3]).flags() == []


def test_columns_hold_one_value_a_sample():
    sampler = by_hand(player(), [0, 1, 2, 3, 4])
    (series,) = sampler.series()
    assert series.seconds == [0, 1, 2, 3, 4]
    assert series.memory_used_bytes == [m * MIB for m in (612, 612, 3180, 8412, 8412)]
    assert series.power_watts[-1] == pytest.approx(698.544)
    assert series.throttle_reasons == [[], [], [], ["software power cap"], ["software power cap"]]
    assert series.windows[0].start_seconds == pytest.approx(1.5)
    assert series.baseline_bytes == 3 * MIB
    columns = [n for n in DeviceSeries.__struct_fields__ if isinstance(getattr(series, n), list) and n != "windows"]
    assert {len(getattr(series, name)) for name in columns} == {5}


def test_peak_is_above_what_was_in_use_before():
    assert by_hand(player(), [0, 1, 2, 3]).peak_bytes() == (8412 - 3) * MIB
    clock = Hand()
    unknown = Sampler(device_of(player(), surveyed=False), "memory", clock=clock)
    unknown.sample()
    assert unknown.peak_bytes() is None


def memory(used):
    return {"fields": {"total": 81559 * MIB, "reserved": 636 * MIB, "free": 0, "used": used * MIB}}


def test_another_process_is_told_by_id_or_by_memory():
    lists = [[], [{"fields": {"pid": 1}}, {"fields": {"pid": 2}}]]
    assert by_hand(player(answers={"nvmlDeviceGetComputeRunningProcesses": lists}), [0]).flags() == [
        "another process on the device"
    ]
    hidden = {"nvmlDeviceGetComputeRunningProcesses"}
    full = player(broken=hidden, answers={"nvmlDeviceGetMemoryInfo": [memory(9000)]})
    assert by_hand(full, [0]).flags() == ["another process on the device, by 9000 MiB in use beforehand"]
    grown = player(broken=hidden, answers={"nvmlDeviceGetMemoryInfo": [memory(3), memory(9003)]})
    assert by_hand(grown, [0, 1]).flags(own_bytes=8500 * MIB) == []
    grown = player(broken=hidden, answers={"nvmlDeviceGetMemoryInfo": [memory(3), memory(9003)]})
    (flag,) = by_hand(grown, [0, 1]).flags(own_bytes=1000 * MIB)
    assert flag == "device memory grew by 8000 MiB more than this process allocated: another process?"


def test_the_thread_samples_from_start_to_end():
    with Sampler(device_of(player()), "time", period_seconds=0.01) as sampler:
        with sampler.window("step"):
            time.sleep(0.3)
        alive = sampler._thread
    assert not alive.is_alive()
    (series,) = sampler.series()
    # Others load this machine: a tenth of the samples is what must have come at the least.
    assert 4 <= len(series.seconds) <= 40
    assert sorted(series.seconds) == series.seconds
    taken = len(series.seconds)
    time.sleep(0.05)
    assert len(sampler.series()[0].seconds) == taken


def test_an_error_on_the_thread_is_not_lost():
    device = device_of(player())

    def broken():
        raise KeyError("sampled")

    def watched():
        with Sampler(device, "time", period_seconds=0.01) as sampler:
            device.sample = broken
            sampler._thread.join(timeout=5)

    with pytest.raises(KeyError, match="sampled"):
        watched()


def test_without_a_device_nothing_happens():
    with Sampler(None, "time") as sampler, sampler.window("step"):
        sampler.sample()
    assert sampler.series() == []
    assert sampler.flags(own_bytes=0) == []
    assert sampler.peak_bytes() is None
