"""NVML: the only file that touches pynvml (the module of nvidia-ml-py).

Every reading is optional: a field that the driver does not support is None, and a machine without
a driver has no library at all. Nothing here raises for what a driver cannot say.

A device is found by UUID, so CUDA_VISIBLE_DEVICES cannot lead to another one. In a MIG instance
memory and processes are the instance's own; clocks, temperature and throttle reasons are the
board's, and power and energy are None, since the board's would count the neighbours'.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from harness.records.schema import DeviceState
from models.ops.build import optional

# Bits of nvmlDeviceGetCurrentClocksEventReasons (NVML API reference, "Clocks event reasons").
# Idle (0x1) and application clock settings (0x2) say nothing about a measurement under load.
_THROTTLE_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
# The counter is refreshed every 20 to 100 ms, and power is a mean over up to a second.
LEAST_ENERGY_SECONDS = 1.0
NO_COUNTER = "the driver has no energy counter for this device"
_COUNTER_MODULUS = 1 << 32
# More than any board draws, where the driver does not tell the limit.
_LARGEST_WATTS = 3000.0


@dataclass(frozen=True)
class Baseline:
    """A device before this process used it.

    Attributes:
        used_bytes: Memory in use; null where the driver does not say.
        exact: Whether `used_bytes` leaves out what the driver reserves for itself.
        processes: Process ids with a context, as NVML sees them; in a container those of the host,
            or none.
    """

    used_bytes: int | None
    exact: bool
    processes: frozenset[int]


@dataclass(frozen=True)
class Sample:
    """One reading of what changes while a cell is measured."""

    memory_used_bytes: int | None
    power_watts: float | None
    sm_clock_hertz: float | None
    memory_clock_hertz: float | None
    temperature_celsius: float | None
    utilisation_percent: float | None
    throttle_reasons: list[str] | None


class Device:
    """One GPU, or one MIG instance of it.

    Args:
        api: The pynvml module, or a stand-in with the same functions.
        handle: NVML's handle of the GPU or the instance.
        uuid: Its UUID, with prefix.
        baseline: What was seen of it before the first call into CUDA.
    """

    def __init__(self, api: Any, handle: Any, uuid: str, baseline: Baseline | None = None) -> None:
        self._api = api
        self._handle = handle
        self.uuid = uuid
        self.baseline = baseline or Baseline(None, False, frozenset())
        self.is_instance = uuid.startswith("MIG-")
        board = _call(api, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) if self.is_instance else None
        self._board = handle if board is None else board

    def memory_used_bytes(self) -> int | None:
        """Memory in use by all processes."""
        found, _ = _memory(self._api, self._handle)
        return None if found is None else int(found.used)

    def energy_millijoules(self) -> int | None:
        """Energy since the driver was loaded; two readings around a window give the window's."""
        if self.is_instance:
            return None
        value = _call(self._api, "nvmlDeviceGetTotalEnergyConsumption", self._handle)
        return None if value is None else int(value)

    def power_limit_watts(self) -> float | None:
        """The limit that is enforced on the board."""
        return _number(self._api, "nvmlDeviceGetEnforcedPowerLimit", self._board, unit=1e-3)

    def others(self, own_pid: int) -> int | None:
        """Other processes on the device, or None where they cannot be told.

        NVML lists the host's process ids, which in a container are not this process's own. Those seen
        before this process used the device are others' all the same, and of the new ones only one is
        its own. An empty list while this process holds a context means that the driver hides them.
        """
        found = _processes(self._api, self._handle)
        if not found:
            return None
        if own_pid in found:
            return len(found) - 1
        old = found & self.baseline.processes
        return len(old) + max(0, len(found - old) - 1)

    def sample(self) -> Sample:
        """What changes while a cell is measured: seven calls to the driver."""
        api, handle, board = self._api, self._handle, self._board
        reasons = _call(api, "nvmlDeviceGetCurrentClocksEventReasons", board)
        utilisation = _call(api, "nvmlDeviceGetUtilizationRates", handle)
        return Sample(
            memory_used_bytes=self.memory_used_bytes(),
            power_watts=None if self.is_instance else _number(api, "nvmlDeviceGetPowerUsage", handle, unit=1e-3),
            sm_clock_hertz=_number(api, "nvmlDeviceGetClockInfo", board, api.NVML_CLOCK_SM, unit=1e6),
            memory_clock_hertz=_number(api, "nvmlDeviceGetClockInfo", board, api.NVML_CLOCK_MEM, unit=1e6),
            temperature_celsius=_number(api, "nvmlDeviceGetTemperature", board, api.NVML_TEMPERATURE_GPU),
            utilisation_percent=None if utilisation is None else float(utilisation.gpu),
            throttle_reasons=None
            if reasons is None
            else [text for bit, text in _THROTTLE_REASONS.items() if int(reasons) & bit],
        )

    def state(self, own_pid: int) -> DeviceState:
        """Everything the record keeps of the device at this moment."""
        api, now, energy = self._api, self.sample(), self.energy_millijoules()
        memory, _ = _memory(api, self._handle)
        return DeviceState(
            name=_text(_call(api, "nvmlDeviceGetName", self._handle)) or "unknown",
            uuid=self.uuid,
            driver=_text(_call(api, "nvmlSystemGetDriverVersion")),
            memory_total_bytes=None if memory is None else int(memory.total),
            power_limit_watts=self.power_limit_watts(),
            energy_joules=None if energy is None else energy / 1e3,
            other_processes=self.others(own_pid),
            **asdict(now),
        )


class Library:
    """NVML while it is open.

    Args:
        api: The pynvml module, or a stand-in with the same functions.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._baselines: dict[str, Baseline] = {}

    def survey(self) -> None:
        """Note every device's memory and processes; call it before the first call into CUDA."""
        for index in range(_call(self._api, "nvmlDeviceGetCount") or 0):
            board = _call(self._api, "nvmlDeviceGetHandleByIndex", index)
            if board is None:
                continue
            for handle in [board, *self._instances(board)]:
                uuid = _text(_call(self._api, "nvmlDeviceGetUUID", handle))
                if uuid is not None:
                    found, exact = _memory(self._api, handle)
                    used = None if found is None else int(found.used)
                    self._baselines[uuid] = Baseline(used, exact, _processes(self._api, handle))

    def uuids(self) -> list[str]:
        """The devices that the survey found, in the driver's order."""
        return list(self._baselines)

    def device(self, uuid: str, visible: str | None = None) -> Device | None:
        """The device that CUDA uses; None where the driver does not know it.

        Args:
            uuid: UUID as torch or `nvidia-smi -L` prints it, with or without a prefix.
            visible: CUDA_VISIBLE_DEVICES. It names the MIG instance where CUDA reports only its board;
                where it does not either, that is the first instance, the only one that CUDA then shows.
        """
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        for name in (f"GPU-{bare}", f"MIG-{bare}"):
            handle = _call(self._api, "nvmlDeviceGetHandleByUUID", name)
            if handle is not None:
                break
        else:
            return None
        instances = list(self._instances(handle)) if name.startswith("GPU-") else []
        if instances:
            chosen = next((v.strip() for v in (visible or "").split(",") if v.strip().startswith("MIG-")), None)
            found = None if chosen is None else _call(self._api, "nvmlDeviceGetHandleByUUID", chosen)
            handle = instances[0] if found is None else found
            name = _text(_call(self._api, "nvmlDeviceGetUUID", handle)) or chosen or f"MIG-of-{name}"
        return Device(self._api, handle, name, self._baselines.get(name))

    def _instances(self, board: Any) -> Iterator[Any]:
        """Handles of a board's MIG instances; none where it is not partitioned."""
        mode = _call(self._api, "nvmlDeviceGetMigMode", board)
        if mode is None or not mode[0]:
            return
        for index in range(_call(self._api, "nvmlDeviceGetMaxMigDeviceCount", board) or 0):
            handle = _call(self._api, "nvmlDeviceGetMigDeviceHandleByIndex", board, index)
            if handle is not None:
                yield handle


def driver() -> Any:
    """The pynvml module; it loads the driver's library only when it is opened."""
    import pynvml

    return pynvml


@contextlib.contextmanager
def open_library(api: Any = None) -> Iterator[Library | None]:
    """NVML while the context lasts; None without a driver, or without a pynvml that can be imported.

    Args:
        api: A stand-in for pynvml.
    """
    if api is None and not optional.imports("pynvml"):
        yield None
        return
    api = driver() if api is None else api
    try:
        api.nvmlInit()
    except api.NVMLError:
        yield None
        return
    try:
        yield Library(api)
    finally:
        api.nvmlShutdown()


def energy_used(
    before: int | None, after: int | None, seconds: float, limit_watts: float | None
) -> tuple[float | None, str | None]:
    """Joules between two readings of the energy counter in mJ, and what there is to say about them.

    A reading below the one before it is taken for a wrap of 32 bits where that gives a power the
    board can draw, else for a driver that was loaded again.

    Args:
        before: Reading before the window; None where it is not supported.
        after: Reading after it.
        seconds: Length of the window.
        limit_watts: The board's power limit, if known.
    """
    if before is None or after is None:
        return None, NO_COUNTER
    if seconds < LEAST_ENERGY_SECONDS:
        return None, f"a window of {seconds:.2f} s is too short for the energy counter"
    if after == before:
        return None, f"the energy counter stood still for {seconds:.1f} s"
    if after > before:
        return (after - before) / 1e3, None
    joules = (after - before + _COUNTER_MODULUS) / 1e3
    # Boards overshoot their limit for moments, never for a second.
    if 0 < joules / seconds <= (1.5 * limit_watts if limit_watts else _LARGEST_WATTS):
        return joules, "the energy counter wrapped within the window"
    return None, "the energy counter went back: the driver was loaded again"


def _memory(api: Any, handle: Any) -> tuple[Any | None, bool]:
    """Memory, and whether `used` leaves out what the driver reserves, which older drivers cannot."""
    version = getattr(api, "nvmlMemory_v2", None)
    found = None if version is None else _call(api, "nvmlDeviceGetMemoryInfo", handle, version)
    return (found, True) if found is not None else (_call(api, "nvmlDeviceGetMemoryInfo", handle), False)


def _processes(api: Any, handle: Any) -> frozenset[int]:
    found = _call(api, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    return frozenset(int(process.pid) for process in found)


def _number(api: Any, name: str, *arguments: Any, unit: float = 1.0) -> float | None:
    value = _call(api, name, *arguments)
    return None if value is None else float(value) * unit


def _call(api: Any, name: str, *arguments: Any) -> Any | None:
    """What the driver answers, or None where it cannot."""
    try:
        return getattr(api, name)(*arguments)
    except api.NVMLError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
