"""A device watched from a thread while a cell is measured: a time series, and what it says of the cell."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from harness.measure.device.nvml import Device, Sample
from harness.records.device_series import DeviceSeries, SeriesWindow

PERIOD_SECONDS = 0.1
# The list of processes is the dearest reading and the one that changes least.
_SAMPLES_PER_LIST = 10
_MEBIBYTE = 1 << 20
# Below these, memory in use is the driver's own bookkeeping, or this process's context and libraries.
_FOREIGN_BYTES = 256 * _MEBIBYTE
_CONTEXT_BYTES = 2048 * _MEBIBYTE


class Sampler:
    """Reads a device about ten times a second; without a device it does nothing.

    The thread runs from entering to leaving the context, so starting and ending it lie outside
    every timed region. Calls to the driver release the interpreter lock.

    Args:
        device: What to read; None on a machine without one.
        measure: The pass, `time` or `memory`.
        period_seconds: Time between samples.
        clock: Seconds; tests replace it.
    """

    def __init__(
        self,
        device: Device | None,
        measure: str,
        *,
        period_seconds: float = PERIOD_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device = device
        self.measure = measure
        self._period, self._clock, self._pid = period_seconds, clock, os.getpid()
        self._samples: list[tuple[float, Sample, int | None]] = []
        self._windows: list[SeriesWindow] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._start: float | None = None
        self._others: int | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Sampler:
        if self.device is not None:
            self.sample()
            self._thread = threading.Thread(target=self._run, name="device sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            if self._failure is not None and error is None:
                raise self._failure

    def sample(self) -> None:
        """Take one sample now, beside those of the thread."""
        if self.device is None:
            return
        with self._lock:
            now = self._clock()
            self._start = now if self._start is None else self._start
            if len(self._samples) % _SAMPLES_PER_LIST == 0:
                self._others = self.device.others(self._pid)
            self._samples.append((now - self._start, self.device.sample(), self._others))

    @contextmanager
    def window(self, phase: str) -> Iterator[None]:
        """Mark a timed region; throttling counts in there only."""
        begin = self._clock()
        yield
        if self._start is not None:
            self._windows.append(
                SeriesWindow(phase=phase, start_seconds=begin - self._start, end_seconds=self._clock() - self._start)
            )

    def peak_bytes(self) -> int | None:
        """Largest device memory seen, less that before the first call into CUDA; None where not known."""
        if self.device is None or self.device.baseline.used_bytes is None:
            return None
        used = [s.memory_used_bytes for _, s, _ in self._samples if s.memory_used_bytes is not None]
        return max(used) - self.device.baseline.used_bytes if used else None

    def flags(self, own_bytes: int | None = None) -> list[str]:
        """What a reader must know about the device while this cell was measured.

        Args:
            own_bytes: Most device memory that this process's allocator held, to judge by memory where
                processes cannot be told; None leaves that out.
        """
        if self.device is None:
            return []
        inside = [
            s.throttle_reasons for at, s, _ in self._samples if self._timed(at) and s.throttle_reasons is not None
        ]
        reasons = Counter(reason for found in inside for reason in found)
        raised = [
            f"device throttled while timing: {reason}, in {count} of {len(inside)} samples"
            for reason, count in reasons.items()
        ]
        before = self.device.baseline
        if before.processes or any(others for _, _, others in self._samples):
            raised.append("another process on the device")
        elif before.exact and before.used_bytes is not None and before.used_bytes > _FOREIGN_BYTES:
            raised.append(f"another process on the device, by {before.used_bytes // _MEBIBYTE} MiB in use beforehand")
        grown = self.peak_bytes()
        if own_bytes is not None and grown is not None and grown - own_bytes > _CONTEXT_BYTES:
            more = (grown - own_bytes) // _MEBIBYTE
            raised.append(f"device memory grew by {more} MiB more than this process allocated: another process?")
        return raised

    def series(self) -> list[DeviceSeries]:
        """All samples by column, as a list of one; empty without a device."""
        if self.device is None:
            return []
        samples = [s for _, s, _ in self._samples]
        return [
            DeviceSeries(
                measure=self.measure,
                device=self.device.uuid,
                period_seconds=self._period,
                baseline_bytes=self.device.baseline.used_bytes,
                seconds=[round(at, 4) for at, _, _ in self._samples],
                memory_used_bytes=[s.memory_used_bytes for s in samples],
                power_watts=[s.power_watts for s in samples],
                sm_clock_hertz=[s.sm_clock_hertz for s in samples],
                memory_clock_hertz=[s.memory_clock_hertz for s in samples],
                temperature_celsius=[s.temperature_celsius for s in samples],
                utilisation_percent=[s.utilisation_percent for s in samples],
                throttle_reasons=[s.throttle_reasons for s in samples],
                other_processes=[others for _, _, others in self._samples],
                windows=list(self._windows),
            )
        ]

    def _timed(self, at: float) -> bool:
        return any(w.start_seconds <= at <= w.end_seconds for w in self._windows)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._period):
                self.sample()
        # Raised again where the context ends: an error on a thread would only be printed.
        except BaseException as error:
            self._failure = error
