from types import SimpleNamespace

import pytest

from harness.metering import nvml


class NVMLError(Exception):
    pass


class FakeApi:
    """The part of pynvml that is used; `broken` names functions the driver does not support."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, broken=(), reasons=0x1):
        self.broken, self.reasons, self.open, self.uuid = set(broken), reasons, 0, None

    def __getattribute__(self, name):
        if name.startswith("nvml") and name in object.__getattribute__(self, "broken"):

            def fail(*_):
                raise NVMLError(name)

            return fail
        return object.__getattribute__(self, name)

    def nvmlInit(self):  # noqa: N802
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self.uuid = uuid
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, _):  # noqa: N802
        return SimpleNamespace(used=5, total=10)

    def nvmlDeviceGetTotalEnergyConsumption(self, _):  # noqa: N802
        return 2500

    def nvmlDeviceGetName(self, _):  # noqa: N802
        return b"NVIDIA H200"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "580.1"

    def nvmlDeviceGetPowerUsage(self, _):  # noqa: N802
        return 300_000

    def nvmlDeviceGetEnforcedPowerLimit(self, _):  # noqa: N802
        return 700_000

    def nvmlDeviceGetClockInfo(self, _, kind):  # noqa: N802
        return 1980 if kind == 1 else 2619

    def nvmlDeviceGetTemperature(self, _, __):  # noqa: N802
        return 41

    def nvmlDeviceGetUtilizationRates(self, _):  # noqa: N802
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetCurrentClocksEventReasons(self, _):  # noqa: N802
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, _):  # noqa: N802
        return [SimpleNamespace(pid=7), SimpleNamespace(pid=8)]


def state(api, pid=7):
    with nvml.open_device("abc", api) as device:
        return device.state(pid)


def test_units():
    value = state(FakeApi())
    assert (value.name, value.uuid, value.driver) == ("NVIDIA H200", "GPU-abc", "580.1")
    assert value.power_watts == 300
    assert value.power_limit_watts == 700
    assert value.energy_joules == 2.5
    assert value.sm_clock_hertz == 1.98e9
    assert value.memory_clock_hertz == 2.619e9
    assert value.other_processes == 1


def test_in_a_container_other_processes_cannot_be_told():
    assert state(FakeApi(), pid=99).other_processes is None


def test_idle_is_no_throttling_but_heat_is():
    assert state(FakeApi(reasons=0x1)).throttle_reasons == []
    assert state(FakeApi(reasons=0x44)).throttle_reasons == ["software power cap", "hardware thermal slowdown"]


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_joules"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons"),
        ("nvmlDeviceGetComputeRunningProcesses", "other_processes"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
    ],
)
def test_an_unsupported_field_is_null_and_the_rest_stands(function, field):
    value = state(FakeApi({function}))
    assert getattr(value, field) is None
    assert value.temperature_celsius == 41


def test_no_gpu_and_no_driver():
    with nvml.open_device(None) as device:
        assert device is None
    with nvml.open_device("abc", FakeApi({"nvmlInit"})) as device:
        assert device is None


def test_a_device_unknown_to_the_driver_still_closes_the_library():
    api = FakeApi({"nvmlDeviceGetHandleByUUID"})
    with nvml.open_device("abc", api) as device:
        assert device is None
    assert api.open == 0


def test_the_real_module_without_a_driver_gives_no_device():
    with nvml.open_device("00000000-0000-0000-0000-000000000000") as device:
        assert device is None
