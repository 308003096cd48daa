"""NVML: the only file that touches pynvml (the module of nvidia-ml-py).

Every reading is optional: a field that the driver does not support is None, and a machine without
a driver has no device at all. Nothing here raises for what a driver cannot say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from harness.record import DeviceState

# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference, "Clocks event reasons").
# Idle (0x1) and application clock settings (0x2) say nothing about a measurement under load.
_THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}

_T = TypeVar("_T")


class Device:
    """One GPU.

    Args:
        uuid: UUID as torch or `nvidia-smi -L` prints it (with or without the `GPU-` prefix), so
            that CUDA_VISIBLE_DEVICES cannot lead to another device.
        api: The pynvml module, or a stand-in with the same functions.
    """

    def __init__(self, uuid: str, api: Any) -> None:
        self._api = api
        full = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._handle = api.nvmlDeviceGetHandleByUUID(full)
        self.uuid = full

    def memory_used_bytes(self) -> int | None:
        """Memory in use on the whole device, by all processes."""
        return self._read(lambda: int(self._api.nvmlDeviceGetMemoryInfo(self._handle).used))

    def energy_joules(self) -> float | None:
        """Energy since the driver was loaded; two readings around a window give the window's."""
        return self._read(lambda: float(self._api.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3)

    def state(self, own_pid: int | None = None) -> DeviceState:
        """Everything the record keeps of the device at this moment."""
        api, handle = self._api, self._handle
        memory = self._read(lambda: api.nvmlDeviceGetMemoryInfo(handle))
        reasons = self._read(lambda: int(api.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        processes = self._read(lambda: api.nvmlDeviceGetComputeRunningProcesses(handle))
        return DeviceState(
            name=self._read(lambda: _text(api.nvmlDeviceGetName(handle))) or "unknown",
            uuid=self.uuid,
            driver=self._read(lambda: _text(api.nvmlSystemGetDriverVersion())),
            memory_total_bytes=None if memory is None else int(memory.total),
            memory_used_bytes=None if memory is None else int(memory.used),
            power_watts=self._read(lambda: api.nvmlDeviceGetPowerUsage(handle) / 1e3),
            power_limit_watts=self._read(lambda: api.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
            energy_joules=self.energy_joules(),
            sm_clock_hertz=self._clock(api.NVML_CLOCK_SM),
            memory_clock_hertz=self._clock(api.NVML_CLOCK_MEM),
            temperature_celsius=self._read(
                lambda: float(api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU))
            ),
            utilisation_percent=self._read(lambda: float(api.nvmlDeviceGetUtilizationRates(handle).gpu)),
            throttle_reasons=None if reasons is None else [t for bit, t in _THROTTLE_REASONS.items() if reasons & bit],
            other_processes=_others([p.pid for p in processes or []], own_pid),
        )

    def _clock(self, kind: int) -> float | None:
        return self._read(lambda: float(self._api.nvmlDeviceGetClockInfo(self._handle, kind)) * 1e6)

    def _read(self, reading: Callable[[], _T]) -> _T | None:
        try:
            return reading()
        except self._api.NVMLError:
            return None


@contextlib.contextmanager
def open_device(uuid: str | None, api: Any = None) -> Iterator[Device | None]:
    """The device with this UUID while the context lasts; None without one, or without a driver.

    Args:
        uuid: The device; None on a machine without a GPU.
        api: A stand-in for pynvml.
    """
    if uuid is None:
        yield None
        return
    if api is None:
        import pynvml

        api = pynvml
    try:
        api.nvmlInit()
    except api.NVMLError:
        yield None
        return
    try:
        try:
            device: Device | None = Device(uuid, api)
        except api.NVMLError:
            device = None
        yield device
    finally:
        api.nvmlShutdown()


def _others(pids: list[int], own: int | None) -> int | None:
    # In a container NVML lists the host's process ids: who is who cannot be told then.
    return sum(pid != own for pid in pids) if own in pids else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
