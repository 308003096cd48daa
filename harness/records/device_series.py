"""What an accelerator did while one cell was measured: a time series in a file beside the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from harness.records import read_json
from harness.records.schema import SCHEMA_VERSION, write_atomic

SUFFIX = ".series.json"


class SeriesWindow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A timed region within a series; seconds as in the series."""

    phase: str
    start_seconds: float
    end_seconds: float


class DeviceSeries(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An accelerator over time, sampled on a thread; one value a sample, null where the driver does not say.

    Attributes:
        measure: The pass that was sampled: `time` or `memory`.
        device: UUID.
        period_seconds: Time between samples aimed at.
        baseline_bytes: Device memory in use before the first call into CUDA.
        seconds: When each sample was taken, since the first.
        throttle_reasons: What held the clocks back, by sample; idle and fixed clocks do not count.
        other_processes: Other processes on the device; null where they cannot be told.
        windows: The timed regions.
    """

    measure: str
    device: str
    period_seconds: float
    baseline_bytes: int | None
    seconds: list[float]
    memory_used_bytes: list[int | None]
    power_watts: list[float | None]
    sm_clock_hertz: list[float | None]
    memory_clock_hertz: list[float | None]
    temperature_celsius: list[float | None]
    utilisation_percent: list[float | None]
    throttle_reasons: list[list[str] | None]
    other_processes: list[int | None]
    windows: list[SeriesWindow]


class SeriesFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`<record>.series.json`: what the device did while one cell was measured, pass by pass."""

    schema_version: int
    label: str
    spec_digest: str
    passes: list[DeviceSeries]


def write(record_path: Path, label: str, spec_digest: str, passes: list[Any]) -> Path:
    """Write `<record>.series.json` beside a record; call it first, so that a record's series is complete.

    Args:
        record_path: Path of the record.
        label: Of the cell, as `spec_digest`.
        spec_digest: Ties the series to its record.
        passes: `DeviceSeries`, or what JSON makes of them.

    Returns:
        The path written.
    """
    path = record_path.with_suffix(SUFFIX)
    value = SeriesFile(
        schema_version=SCHEMA_VERSION,
        label=label,
        spec_digest=spec_digest,
        passes=msgspec.convert(msgspec.to_builtins(passes), list[DeviceSeries]),
    )
    # In one line: thousands of numbers, each on a line of its own, help no reader.
    write_atomic(path, msgspec.json.encode(value) + b"\n")
    return path


def read(path: Path) -> SeriesFile:
    """Read a `.series.json`.

    Raises:
        UserError: The file is not complete JSON, of another schema version, or does not fit the schema.
    """
    file: SeriesFile = read_json.read(
        path, SeriesFile, "series", "delete it with its record and measure again", version=SCHEMA_VERSION
    )
    return file
