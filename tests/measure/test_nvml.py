import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import HOST_PID, MIB, OURS, UUIDS, player

from harness.measure.device import nvml
from harness.measure.device.nvml import energy_used

BOARD, INSTANCES = {"handle": 1}, [{"handle": 10}, {"handle": 11}]
MIG_UUIDS = ("MIG-aaaa0000-0000-5000-8000-000000000010", "MIG-aaaa0000-0000-5000-8000-000000000011")


def opened(api, uuid=OURS, visible=None):
    """The library of a player, surveyed, and a device of it."""
    with nvml.open_library(api) as library:
        library.survey()
        return library.device(uuid, visible)


def mig(**changes):
    """The trace's second GPU cut into two instances; what a driver does not say of an instance is left out."""
    added = [
        {"call": "nvmlDeviceGetMaxMigDeviceCount", "arguments": [BOARD], "result": 3},
        {"call": "nvmlDeviceGetMigDeviceHandleByIndex", "arguments": [BOARD, 2], "error": 6},
    ]
    for index, (handle, uuid) in enumerate(zip(INSTANCES, MIG_UUIDS, strict=True)):
        added += [
            {"call": "nvmlDeviceGetMigDeviceHandleByIndex", "arguments": [BOARD, index], "result": handle},
            {"call": "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "arguments": [handle], "result": BOARD},
            {"call": "nvmlDeviceGetUUID", "arguments": [handle], "result": uuid},
            {"call": "nvmlDeviceGetHandleByUUID", "arguments": [uuid], "result": handle},
            {
                "call": "nvmlDeviceGetMemoryInfo",
                "arguments": [handle],
                "result": {"fields": {"total": 9856 * MIB, "free": 0, "used": (index + 1) * 100 * MIB}},
            },
        ]
    return player(answers={"nvmlDeviceGetMigMode": [[1, 1]], **changes.pop("answers", {})}, added=added, **changes)


def test_units_and_names():
    value = opened(player()).state(own_pid=HOST_PID)
    assert (value.name, value.uuid, value.driver) == ("NVIDIA H100 80GB HBM3", UUIDS[1], "580.65.06")
    assert value.power_watts == pytest.approx(82.14)
    assert value.power_limit_watts == pytest.approx(700)
    assert value.energy_joules == pytest.approx(5_284_117.903)
    assert value.sm_clock_hertz == 345e6
    assert value.memory_clock_hertz == 2.619e9
    assert value.temperature_celsius == 34
    assert value.memory_total_bytes == 81559 * MIB


def test_a_device_is_found_by_its_uuid_whatever_its_place_and_prefix():
    assert opened(player()).baseline.used_bytes == 3 * MIB
    assert opened(player(), f"GPU-{OURS}").uuid == UUIDS[1]
    assert opened(player(), UUIDS[0]).baseline.used_bytes == 30_000 * MIB
    assert opened(player(), "00000000-0000-0000-0000-000000000000") is None


def test_without_a_driver_there_is_no_library():
    api = player(broken={"nvmlInit"})
    with nvml.open_library(api) as library:
        assert library is None
    assert api.open == 0


def test_the_library_is_closed_also_after_an_error():
    api = player()

    def failing():
        with nvml.open_library(api):
            assert api.open == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert api.open == 0


def test_the_real_module_on_a_machine_without_a_driver_gives_no_library():
    with nvml.open_library() as library:
        assert library is None or library.device("00000000-0000-0000-0000-000000000000") is None


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_joules"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons"),
        ("nvmlDeviceGetComputeRunningProcesses", "other_processes"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
        ("nvmlDeviceGetUtilizationRates", "utilisation_percent"),
        ("nvmlDeviceGetPowerUsage", "power_watts"),
        ("nvmlDeviceGetClockInfo", "sm_clock_hertz"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlSystemGetDriverVersion", "driver"),
    ],
)
def test_an_unsupported_field_is_null_and_the_rest_stands(function, field):
    value = opened(player(broken={function})).state(own_pid=HOST_PID)
    assert getattr(value, field) is None
    assert value.temperature_celsius == 34


def test_an_older_driver_has_one_memory_reading_and_the_baseline_says_so():
    calls = [
        {
            "call": "nvmlDeviceGetMemoryInfo",
            "arguments": [BOARD],
            "result": {"fields": {"total": 10, "free": 5, "used": 5}},
        }
    ]
    api = player(broken={"nvmlDeviceGetMemoryInfo"}, added=calls)
    device = opened(api)
    assert device.memory_used_bytes() == 5
    assert not device.baseline.exact


@pytest.mark.parametrize(("mask", "reasons"), [(0x1, []), (0x2, []), (0x44, 2), (0x4, ["software power cap"])])
def test_idle_and_chosen_clocks_are_no_throttling(mask, reasons):
    found = opened(player(answers={"nvmlDeviceGetCurrentClocksEventReasons": [mask]})).sample().throttle_reasons
    assert found == reasons or len(found) == reasons


def processes(*pids):
    return [{"fields": {"pid": pid, "usedGpuMemory": None}} for pid in pids]


@pytest.mark.parametrize(
    ("before", "during", "own", "others"),
    [
        ([], [5], 5, 0),
        ([], [5, 6], 5, 1),
        # Host ids in a container: one new process is this one.
        ([], [77001], 5, 0),
        ([], [77001, 77002], 5, 1),
        ([4242], [4242, 77001], 5, 1),
        ([4242], [77001], 5, 0),
        # Hidden altogether.
        ([], [], 5, None),
    ],
)
def test_other_processes_by_id_or_by_what_was_there_before(before, during, own, others):
    lists = [processes(*before), processes(*during)]
    device = opened(player(answers={"nvmlDeviceGetComputeRunningProcesses": lists}))
    assert device.others(own) == others


def test_a_mig_instance_has_its_own_memory_the_boards_clocks_and_no_energy():
    device = opened(mig(), MIG_UUIDS[1])
    value = device.state(own_pid=HOST_PID)
    assert value.uuid == MIG_UUIDS[1]
    assert device.baseline.used_bytes == value.memory_used_bytes == 200 * MIB
    assert value.sm_clock_hertz == 345e6
    assert value.power_watts is None
    assert value.energy_joules is None


@pytest.mark.parametrize(
    ("visible", "uuid"), [(None, MIG_UUIDS[0]), (MIG_UUIDS[1], MIG_UUIDS[1]), ("1", MIG_UUIDS[0]), ("", MIG_UUIDS[0])]
)
def test_where_cuda_names_the_board_the_instance_is_the_visible_one(visible, uuid):
    assert opened(mig(), OURS, visible).uuid == uuid


def test_energy_of_a_window():
    assert energy_used(1_000, 701_000, 1.0, 700.0) == (700.0, None)


@pytest.mark.parametrize(
    ("before", "after", "seconds", "words"),
    [
        (None, 5, 2.0, "no energy counter"),
        (5, None, 2.0, "no energy counter"),
        (5, 900_000, 0.4, "too short"),
        (5, 5, 2.0, "stood still"),
        (9_000_000, 5, 2.0, "went back"),
    ],
)
def test_no_energy_says_why(before, after, seconds, words):
    joules, detail = energy_used(before, after, seconds, 700.0)
    assert joules is None
    assert words in detail


@given(
    before=st.integers(0, 2**32 - 1),
    watts=st.floats(1, 700),
    seconds=st.floats(1.0, 20.0),
    limit=st.sampled_from([None, 700.0]),
)
def test_a_counter_that_wraps_gives_the_same_energy(before, watts, seconds, limit):
    used = round(watts * seconds * 1e3)
    joules, detail = energy_used(before, (before + used) % 2**32, seconds, limit)
    assert joules == pytest.approx(used / 1e3)
    assert (detail is not None) == (before + used >= 2**32)
