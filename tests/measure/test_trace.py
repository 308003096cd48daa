import ctypes
import json
from types import SimpleNamespace

import pytest
from traces import OURS, PATH, player, trace

from harness.errors import UserError
from harness.measure.device import nvml
from harness.measure.device import trace as traces_module
from harness.measure.device.trace import NVMLError, Player, Recorder


class Opaque(ctypes.Structure):
    pass


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class Driver:
    """Shaped as pynvml is: opaque pointers, structures, bytes, and errors with a code."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    used = 0

    def nvmlInit(self):  # noqa: N802
        pass

    nvmlShutdown = nvmlInit  # noqa: N815

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, _):  # noqa: N802
        # As the driver does: another wrapper each time around the same address.
        return ctypes.cast(ctypes.c_void_p(4096), ctypes.POINTER(Opaque))

    nvmlDeviceGetHandleByUUID = nvmlDeviceGetHandleByIndex  # noqa: N815

    def nvmlDeviceGetUUID(self, _):  # noqa: N802
        return b"GPU-1"

    def nvmlDeviceGetMemoryInfo(self, _):  # noqa: N802
        Driver.used += 100
        return Memory(total=1000, used=Driver.used)

    def nvmlDeviceGetComputeRunningProcesses(self, _):  # noqa: N802
        return [SimpleNamespace(pid=7, usedGpuMemory=None)]

    def __getattr__(self, name):
        if not name.startswith("nvml") or name == "nvmlMemory_v2":
            raise AttributeError(name)

        def unsupported(*_):
            raise NVMLError(3)

        return unsupported


def test_a_recording_replays_to_the_same_readings(tmp_path):
    Driver.used = 0
    recorder = Recorder(Driver(), "a stand-in")

    def read(api):
        with nvml.open_library(api) as library:
            library.survey()
            device = library.device("1")
            return device.baseline, [device.state(8) for _ in range(3)], device.others(7)

    first = read(recorder)
    recorder.write(tmp_path / "trace.json")
    assert read(Player.read(tmp_path / "trace.json")) == first
    assert first[0].used_bytes == 100
    assert first[1][0].memory_used_bytes < first[1][2].memory_used_bytes
    value = json.loads((tmp_path / "trace.json").read_text())
    assert value["description"] == "a stand-in"
    assert {c["error"] for c in value["calls"] if "error" in c} == {3}


def test_record_asks_for_all_that_a_cell_asks_for(tmp_path):
    traces_module.record(tmp_path / "t.json", seconds=0.05, api=player())
    called = {c["call"] for c in json.loads((tmp_path / "t.json").read_text())["calls"]}
    assert called >= {c["call"] for c in trace()["calls"] if c["call"] != "nvmlDeviceGetEnforcedPowerLimit"}
    with pytest.raises(UserError, match="no NVIDIA driver"):
        traces_module.record(tmp_path / "t.json", seconds=0.05, api=player(broken={"nvmlInit"}))
    with pytest.raises(UserError, match="knows no GPU"):
        traces_module.record(tmp_path / "t.json", seconds=0.05, api=player(broken={"nvmlDeviceGetCount"}))


def test_equal_calls_get_their_answers_in_order_and_the_last_again():
    value = {
        "format": 1,
        "constants": {},
        "calls": [{"call": "nvmlDeviceGetTemperature", "arguments": [0], "result": t} for t in (40, 41)],
    }
    api = Player(value)
    assert [api.nvmlDeviceGetTemperature(0) for _ in range(3)] == [40, 41, 41]
    with pytest.raises(NVMLError) as caught:
        api.nvmlDeviceGetTemperature(1)
    assert caught.value.value == 13


def test_a_wrong_trace_is_refused():
    with pytest.raises(UserError, match="format 2"):
        Player({"format": 2, "constants": {}, "calls": []})
    with pytest.raises(UserError, match="call 0"):
        Player({"format": 1, "constants": {}, "calls": [{"call": "nvmlInit", "arguments": []}]})


def test_the_trace_in_the_repository_says_that_it_is_synthetic():
    value = json.loads(PATH.read_text())
    assert value["description"].startswith("Synthetic")
    with nvml.open_library(Player(value)) as library:
        assert library.device(OURS).state(0).name.startswith("NVIDIA")


def test_the_constants_are_those_of_pynvml():
    real = nvml.driver()
    for name, number in json.loads(PATH.read_text())["constants"].items():
        assert getattr(real, name) == number
    for call in {c["call"] for c in trace()["calls"]}:
        assert callable(getattr(real, call))
