"""One side of a comparison: the cells of a folder that have a record, and where they were measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.analysis.estimates import timing
from harness.analysis.estimates.timing import Group
from harness.analysis.load import Folder, load
from harness.analysis.rows import Row
from harness.records.environment import cpu_name
from harness.records.schema import Record
from harness.records.spec import SpeedSpec

# What a spec says of the point itself; all else in it is how the point was measured.
_COORDINATES = {"kind", "sweep", "dataset", "length", "replicate", "seed"}


class Where(Row, frozen=True):
    """What makes a cell the same in two sets.

    Attributes:
        where: Sweep, or data set.
        number: Replicate, or seed.
        beside: Whom a speed cell's label was timed beside; null: the study's timing partner, and for trainings.
    """

    kind: Literal["speed", "training"]
    label: str
    where: str
    length: int | None
    number: int
    beside: str | None = None


class Difference(Row, frozen=True):
    """A fact about machine, software, sources or spec that differs between the sets.

    Attributes:
        field: Such as `cpu`, `packages.torch`, `threads`, `source_digest`, `spec.budget_seconds`.
        first: Values in the first set, of the cells in both; `second` in the second.
        cells: Number of cells in both that differ in it.
    """

    field: str
    first: list[str]
    second: list[str]
    cells: int


@dataclass(frozen=True)
class Set:
    """A folder with its records by what makes them the same."""

    folder: Folder
    cells: dict[Where, Record]

    @property
    def partner(self) -> str:
        """Label of the timing partner."""
        return self.folder.manifest.study.timing_partner

    def challengers(self) -> list[str]:
        """Labels that others were timed beside, the timing partner not among them."""
        return list(dict.fromkeys(where.beside for where in self.cells if where.beside is not None))

    def beside(self, partner: str) -> Folder:
        """The folder without the speed cells that were timed beside another label than this."""
        counted = [
            c
            for c in self.folder.counted
            if not isinstance(c.cell.spec, SpeedSpec) or c.cell.spec.partner.label == partner
        ]
        return dataclasses.replace(self.folder, counted=counted)

    def groups(self, partner: str) -> list[Group]:
        """The points that were timed beside one label."""
        return timing.groups(self.beside(partner))


def read_set(path: Path) -> Set:
    """Read one folder.

    Raises:
        UserError: It has no readable study.json.
    """
    folder = load(path)
    partner = folder.manifest.study.timing_partner
    found = {}
    for counted in folder.counted:
        if counted.record is not None:
            spec = counted.cell.spec
            where = Where(
                kind=counted.cell.kind,
                label=counted.cell.label,
                where=spec.where,
                length=spec.length,
                number=spec.number,
                beside=spec.partner.label if isinstance(spec, SpeedSpec) and spec.partner.label != partner else None,
            )
            found[where] = counted.record
    return Set(folder, found)


def differences(one: Set, two: Set, common: Sequence[Where]) -> list[Difference]:
    """What differs in the circumstances of the cells in both, by field."""
    rows: dict[str, tuple[dict[str, None], dict[str, None], int]] = {}
    for where in common:
        before, after = _circumstances(one.cells[where]), _circumstances(two.cells[where])
        for field in dict.fromkeys([*before, *after]):
            old, new = before.get(field, "not stated"), after.get(field, "not stated")
            if old != new:
                values = rows.get(field, ({}, {}, 0))
                rows[field] = ({**values[0], old: None}, {**values[1], new: None}, values[2] + 1)
    return [
        Difference(field=field, first=list(first), second=list(second), cells=count)
        for field, (first, second, count) in rows.items()
    ]


def _circumstances(record: Record) -> dict[str, str]:
    own = record.environment
    device = own.device_before or own.device_after
    facts: dict[str, Any] = {
        "cpu": cpu_name(own, record.provenance.processor),
        "cores": own.cores,
        "cores_usable": own.cores_usable,
        "memory_bytes": own.memory_bytes,
        "system": own.system,
        "accelerator": device.name if device else None,
        "driver": device.driver if device else None,
        "python": own.python,
        **{f"packages.{name}": version for name, version in own.packages.items()},
        "cuda": own.cuda,
        "tf32": own.tf32,
        "threads": own.threads,
        "allocator": ", ".join(f"{k}={v}" for k, v in sorted(own.allocator.items())),
        "device": record.device,
        "precision": record.precision,
        "git_commit": record.provenance.git_commit,
        "source_digest": record.provenance.source_digest[:12],
        "data_sha256": record.provenance.data_sha256,
        "split_sha256": record.provenance.split_sha256,
        **{
            f"spec.{name}": value
            for name, value in _flat(msgspec.to_builtins(record.spec)).items()
            if name not in _COORDINATES
        },
    }
    return {field: str(value) for field, value in facts.items() if value is not None}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found
