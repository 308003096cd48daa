"""A published table of times → a folder of records, so that the same rules decide on it.

A table is a JSON file: what was timed, by whom, and milliseconds per label and length at a constant
batch (`OOM` where memory ran out). A published number has no replicates. So an error is assumed, the
same for every point and independent between points, and each point becomes three processes that have
exactly that 95 % interval, the lengths of a column together. Every record says so in a flag.
`python -m harness verify FOLDER` and `analyse` then work as on records of our own.

    python -m harness.analysis.published TABLE.json FOLDER [SHORTEST_LENGTH]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.analysis.estimates.statistics import MINIMUM_PROCESSES, MOST_BORROWED, t_quantile
from harness.errors import USAGE, Parser, UserError
from harness.records import read_json
from harness.records.schema import (
    SCHEMA_VERSION,
    Block,
    Environment,
    ModelFacts,
    Provenance,
    SpeedRecord,
    Timing,
    encode,
    write,
    write_atomic,
)
from harness.records.spec import ModelSpec, Published, SpeedSpec
from harness.study.cells import Cell
from harness.study.claim import Card
from harness.study.manifest import FILE_NAME, Manifest
from harness.study.schema import SpeedSection, Study, Sweep

SWEEP = "published"
OOM: Literal["OOM"] = "OOM"
# Log errors of three processes with mean 0 and the same spread, at right angles: the error of a ratio of
# two points is then that of independent ones.
_ERRORS = ((-1.0, 0.0, 1.0), (1 / math.sqrt(3), -2 / math.sqrt(3), 1 / math.sqrt(3)))


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The times of one label.

    Attributes:
        family: attention, recurrent, state_space or convolution.
        milliseconds: One per length; `OOM` where memory ran out, null where not published.
        backends: What ran, by operator, as published.
    """

    family: str
    milliseconds: list[float | Literal["OOM"] | None]
    backends: dict[str, str] = {}


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published table.

    Attributes:
        name: Letters, digits, `-`: the study's name.
        description: What was timed, and how, as far as published.
        source: Where it was published.
        machine: The device, or that it is not stated.
        batch: Sequences per step, the same at every length.
        partner: Column that the others are held against.
        assumed_error: Half the width of the assumed 95 % interval of a point, as a share of it.
        lengths: Increasing.
        columns: Label → times.
        claims: What is to be ruled on.
    """

    name: str
    description: str
    source: str
    machine: str
    batch: int
    partner: str
    assumed_error: float
    lengths: list[int]
    columns: dict[str, Column]
    claims: list[Card]


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        UserError: No such file, no JSON, or no table; the message says what is wrong.
    """
    table: Table = read_json.read(path, Table, "table", "docs/published.md shows one")
    if table.partner not in table.columns:
        raise UserError(f"{path}: partner '{table.partner}' is not a column; name one of {', '.join(table.columns)}")
    if table.lengths != sorted(set(table.lengths)) or not table.lengths or table.lengths[0] < 1 or table.batch < 1:
        raise UserError(f"{path}: lengths {table.lengths} must increase from 1 or more, and batch be at least 1")
    if not 0 < table.assumed_error < 1:
        raise UserError(f"{path}: assumed_error {table.assumed_error} must lie between 0 and 1, such as 0.05 for ±5 %")
    for label, column in table.columns.items():
        numbers = [v for v in column.milliseconds if isinstance(v, float)]
        if len(column.milliseconds) != len(table.lengths) or any(not 0 < v < math.inf for v in numbers):
            raise UserError(
                f"{path}: column '{label}' needs one entry per length ({len(table.lengths)}): "
                f'milliseconds above 0, "{OOM}" or null'
            )
    return table


def import_table(table: Table, folder: Path, shortest: int = 1) -> Path:
    """Write a folder of records of a table, as `analyse`, `verify` and `report` read it.

    Args:
        table: The table.
        folder: Written to; created.
        shortest: Leave out shorter lengths, to ask what holds above one.

    Raises:
        UserError: No length is left.
    """
    kept = [(place, length) for place, length in enumerate(table.lengths) if length >= shortest]
    if not kept:
        raise UserError(f"no length of '{table.name}' reaches {shortest:,}; its longest is {table.lengths[-1]:,}")
    section = SpeedSection(
        models=list(table.columns),
        sweeps={SWEEP: Sweep(lengths=[n for _, n in kept], batch=table.batch, replicates=MINIMUM_PROCESSES)},
    )
    study = Study(
        name=table.name,
        description=f"{table.description} Source: {table.source}.",
        device="cuda",
        timing_partner=table.partner,
        variants={label: {"model": label} for label in table.columns},
        speed=section,
    )
    cells, records = [], []
    for label, column in table.columns.items():
        for place, length in kept:
            value, partner = column.milliseconds[place], table.columns[table.partner].milliseconds[place]
            for replicate in range(MINIMUM_PROCESSES):
                spec = _spec(table, section, label, length, replicate)
                cell = Cell.of(spec, replicate)
                cells.append(cell)
                if value is not None:
                    records.append((cell, _record(table, spec, value, partner)))
    write_atomic(folder / FILE_NAME, encode(Manifest(study=study, claims=table.claims, cells=cells)))
    for cell, record in records:
        write(record, folder / cell.path)
    return folder


def _spec(table: Table, section: SpeedSection, label: str, length: int, replicate: int) -> SpeedSpec:
    return SpeedSpec(
        **section.method(),
        device="cuda",
        precision="float32",
        threads=None,
        model=ModelSpec(label=label, name=label, options={}),
        partner=ModelSpec(label=table.partner, name=table.partner, options={}),
        sweep=SWEEP,
        constant="batch",
        length=length,
        batch=table.batch,
        replicate=replicate,
        measure=["time"],
        published=Published(source=table.source, assumed_error=table.assumed_error),
    )


def _record(
    table: Table, spec: SpeedSpec, value: float | Literal["OOM"], partner: float | Literal["OOM"] | None
) -> SpeedRecord:
    values: dict[str, Any] = {}
    if value == OOM:
        values = {"status": "oom", "detail": f"published as out of memory: {table.source}"}
    else:
        deviation = _deviation(table, spec.model.label)
        blocks = [_block("model", value, deviation * _ERRORS[0][spec.replicate])]
        if isinstance(partner, float):
            blocks.append(_block("partner", partner, deviation * _ERRORS[1][spec.replicate]))
        values = {
            "status": "ok",
            "model": _facts(table, spec.model.label),
            "partner": _facts(table, table.partner),
            # The two columns were timed one after the other, not in pairs.
            "timing": Timing(paired=False, warmups=[], blocks=blocks),
            "flags": [f"published, not measured here: ±{table.assumed_error:.0%} assumed"],
        }
    return SpeedRecord(
        schema_version=SCHEMA_VERSION,
        study=table.name,
        label=spec.model.label,
        sweep=SWEEP,
        length=spec.length,
        batch=table.batch,
        replicate=spec.replicate,
        spec_digest=spec.digest(),
        spec=spec,
        environment=Environment(
            cpu=table.machine,
            cores=0,
            cores_usable=0,
            memory_bytes=0,
            system="not stated",
            python="not stated",
            packages={},
        ),
        # When a published number was measured is not known; the report names the day of the import.
        provenance=Provenance(
            git_commit=None,
            git_dirty=None,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            source_digest="",
        ),
        device="cuda",
        precision="float32",
        **values,
    )


def _deviation(table: Table, label: str) -> float:
    """Spread of log seconds at which the 95 % interval of each length of a column has the assumed error."""
    points = sum(isinstance(value, float) for value in table.columns[label].milliseconds)
    own = MINIMUM_PROCESSES - 1
    # Half a t interval is quantile · deviation / √processes.
    return (
        math.log1p(table.assumed_error)
        * math.sqrt(MINIMUM_PROCESSES)
        / t_quantile(own + min(MOST_BORROWED, own * (points - 1)))
    )


def _block(side: Literal["model", "partner"], milliseconds: float, error: float) -> Block:
    return Block(side=side, phase="step", steps=1, seconds=1e-3 * milliseconds * math.exp(error))


def _facts(table: Table, label: str) -> ModelFacts:
    column = table.columns[label]
    return ModelFacts(
        label=label,
        name=label,
        family=column.family,
        causal=True,
        citation=table.source,
        options={},
        backends=column.backends,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command above; returns its exit code."""
    parser = Parser(prog="python -m harness.analysis.published", description="Import a table.")
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("shortest", type=int, nargs="?", default=1, help="leave out shorter lengths")
    options = parser.parse_args(arguments)
    try:
        import_table(read_table(options.table), options.folder, options.shortest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    print(f"{options.folder}: `python -m harness verify {options.folder}` rules on it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
