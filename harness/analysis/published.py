"""A published table of times or memory → a folder of records, so that the same rules decide on it.

A table is a JSON file: what was measured, by whom, and milliseconds or gigabytes per label and length at
a constant batch (`OOM` where memory ran out). A published number has no replicates. So an error is
assumed, the same for every point and independent between points, and each time becomes three processes
that have exactly that 95 % interval, the lengths of a column together; a peak of memory is one record,
as ours are, with the card's margin for its error. Every record says so in a flag.
`python -m harness verify FOLDER` and `analyse` then work as on records of our own.

    python -m harness.analysis.published TABLE FOLDER [SHORTEST_LENGTH]

TABLE is a file, or one of workflow/published by its name.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from harness.analysis.analyse import analyse
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES, MOST_BORROWED, t_quantile
from harness.analysis.results import ClaimVerdict
from harness.errors import USAGE, Parser, UserError, in_one_line, unknown
from harness.records import read_json
from harness.records.schema import (
    SCHEMA_VERSION,
    Block,
    Environment,
    MemoryUse,
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
from harness.study.check import names_a_file
from harness.study.claim import Card
from harness.study.find import named, resource
from harness.study.manifest import FILE_NAME, Manifest
from harness.study.schema import SpeedSection, Study, Sweep

FOLDER = "workflow/published"
SWEEP = "published"
MEMORY_SWEEP = "published-memory"
OOM: Literal["OOM"] = "OOM"
Value: TypeAlias = float | Literal["OOM"] | None
Quantity: TypeAlias = Literal["milliseconds", "gigabytes"]
# What a sweep holds, and how it differs from the other: a peak of memory is read once.
_SWEEPS: dict[str, tuple[Quantity, dict[str, Any]]] = {
    SWEEP: ("milliseconds", {"replicates": MINIMUM_PROCESSES, "measure": ["time"]}),
    MEMORY_SWEEP: ("gigabytes", {"replicates": 1, "measure": ["memory"]}),
}
# What each rule reads of a table; no other rule can decide over one.
_READS: dict[str, Quantity] = {
    "speedup": "milliseconds",
    "no-slower": "milliseconds",
    "long-sequences": "milliseconds",
    "linear-time": "milliseconds",
    "quadratic-attention": "milliseconds",
    "memory-saving": "gigabytes",
    "linear-memory": "gigabytes",
}
# Those of them that need the card's margin.
_WITH_MARGIN = ("memory-saving", "no-slower", "quadratic-attention")
# Log errors of three processes with mean 0 and the same spread, at right angles: the error of a ratio of
# two points is then that of independent ones.
_ERRORS = ((-1.0, 0.0, 1.0), (1 / math.sqrt(3), -2 / math.sqrt(3), 1 / math.sqrt(3)))


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The times or the memory of one label.

    Attributes:
        family: attention, recurrent, state_space or convolution.
        milliseconds: One per length; `OOM` where memory ran out, null where not published; empty: no times.
        gigabytes: Peak memory, 10⁹ bytes; likewise.
        backends: What ran, by operator, as published.
    """

    family: str
    milliseconds: list[Value] = []
    gigabytes: list[Value] = []
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
        columns: Label → times, memory.
        claims: What is to be ruled on.
        phase: What was timed: a training `step`, or a `forward` pass.
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
    phase: Literal["step", "forward"] = "step"

    def labels(self, quantity: Quantity) -> list[str]:
        """Columns that have times, or memory."""
        return [label for label, column in self.columns.items() if getattr(column, quantity)]


def table_names() -> list[str]:
    """Tables of workflow/published."""
    return named(FOLDER, ".json")


def find_table(name_or_path: str) -> Path:
    """The file of a table.

    Raises:
        UserError: It is neither a table of workflow/published nor a JSON file.
    """
    if name_or_path.endswith(".json"):
        return Path(name_or_path)
    if name_or_path not in table_names():
        raise unknown("table", name_or_path, table_names(), "Or give the path of a JSON file.")
    return resource(f"{FOLDER}/{name_or_path}.json")


def read_table(path: Path) -> Table:
    """Read a table.

    Raises:
        UserError: No such file, no JSON, or no table; the message says what is wrong.
    """
    table: Table = read_json.read(path, Table, "table", "docs/published.md shows one")
    try:
        _check_table(path, table)
    except UserError as error:
        # It may repeat a word of the file, with whatever is in it.
        raise UserError(in_one_line(error)) from None
    return table


def _check_table(path: Path, table: Table) -> None:
    if table.partner not in table.columns:
        raise UserError(f"{path}: partner '{table.partner}' is not a column; name one of {', '.join(table.columns)}")
    if table.lengths != sorted(set(table.lengths)) or not table.lengths or table.lengths[0] < 1 or table.batch < 1:
        raise UserError(f"{path}: lengths {table.lengths} must increase from 1 or more, and batch be at least 1")
    if not 0 < table.assumed_error < 1:
        raise UserError(f"{path}: assumed_error {table.assumed_error} must lie between 0 and 1, such as 0.05 for ±5 %")
    for label, column in table.columns.items():
        if not names_a_file(label):
            raise UserError(f"{path}: column '{label}' must be letters, digits, '.', '_' or '-', since it names files")
        given = [values for values in (column.milliseconds, column.gigabytes) if values]
        numbers = [v for values in given for v in values if isinstance(v, float)]
        whole = all(len(values) == len(table.lengths) for values in given)
        if not given or not whole or any(not 0 < v < math.inf for v in numbers):
            raise UserError(
                f"{path}: column '{label}' needs one entry per length ({len(table.lengths)}): "
                f'milliseconds or gigabytes above 0, "{OOM}" or null'
            )
    for card in table.claims:
        _check_claim(path, table, card)


def _check_claim(path: Path, table: Table, card: Card) -> None:
    """Refuse a claim on which no rule could rule over this table, whatever its numbers."""
    where = f"{path}: claim '{card.id}'"
    if card.rule not in _READS:
        raise UserError(f"{where}: rule '{card.rule}' reads more than a table holds; legal here: {', '.join(_READS)}")
    if not table.labels(quantity := _READS[card.rule]):
        raise UserError(f"{where}: rule '{card.rule}' needs {quantity}, and no column has any; add `{quantity}`")
    if quantity == "milliseconds" and card.phase != table.phase:
        raise UserError(f"{where} is about phase `{card.phase}`, the table about `{table.phase}`; set both alike")
    if card.challenger not in (None, table.partner):
        raise UserError(
            f"{where}: challenger '{card.challenger}' must be the table's partner, '{table.partner}', against "
            "which all columns are held"
        )
    if not any(isinstance(value, float) for value in getattr(table.columns[table.partner], quantity)):
        raise UserError(f"{where}: rule '{card.rule}' needs {quantity} of '{table.partner}', which has none")
    if card.rule in _WITH_MARGIN and card.margin is None:
        raise UserError(f"{where}: rule '{card.rule}' needs a `margin`, such as 0.05")
    for label in card.opponents or []:
        if label not in {*table.columns, *(column.family for column in table.columns.values())}:
            raise UserError(f"{where}: '{label}' is not a column or family; columns: {', '.join(table.columns)}")
    if not any(card.covers(length) for length in table.lengths):
        raise UserError(f"{where} is about no length of the table; these are {table.lengths}")


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
    sweeps = {}
    for name, (quantity, more) in _SWEEPS.items():
        if labels := table.labels(quantity):
            sweeps[name] = Sweep(lengths=[n for _, n in kept], batch=table.batch, models=labels, **more)
    section = SpeedSection(models=list(table.columns), sweeps=sweeps, phases=[table.phase])
    study = Study(
        name=table.name,
        description=f"{table.description} Source: {table.source}.",
        device="cuda",
        timing_partner=table.partner,
        variants={label: {"model": label} for label in table.columns},
        speed=section,
    )
    cells, records = [], []
    beside = table.columns[table.partner].milliseconds
    for name, sweep in sweeps.items():
        for label in sweep.models or []:
            values: list[Value] = getattr(table.columns[label], _SWEEPS[name][0])
            for place, length in kept:
                value, partner = values[place], beside[place] if beside else None
                for replicate in range(sweep.replicates):
                    spec = _spec(table, section, label, name, length, replicate)
                    cell = Cell.of(spec, replicate)
                    cells.append(cell)
                    if value is not None:
                        records.append((cell, _record(table, spec, value, partner)))
    write_atomic(folder / FILE_NAME, encode(Manifest(study=study, claims=table.claims, cells=cells)))
    for cell, record in records:
        write(record, folder / cell.path)
    return folder


@dataclass(frozen=True)
class Own:
    """What a published table says of a claim, by the same rule.

    Attributes:
        table: Its name in workflow/published.
        source: Where it was published.
    """

    table: str
    source: str
    overall: ClaimVerdict


def own_rulings(ids: Collection[str]) -> dict[str, list[Own]]:
    """Rulings of the tables of workflow/published on claims, by id; the claims of a table have the ids of the cards.

    Args:
        ids: Claims asked for; tables without any of them are not analysed.
    """
    if not ids:
        return {}
    found: dict[str, list[Own]] = {}
    for name in table_names():
        table = read_table(find_table(name))
        if not {card.id for card in table.claims} & set(ids):
            continue
        with tempfile.TemporaryDirectory() as folder:
            analysis = analyse(import_table(table, Path(folder)))
        for claim in analysis.claims:
            if claim.id in ids:
                found.setdefault(claim.id, []).append(Own(name, table.source, claim.overall))
    return found


def _spec(table: Table, section: SpeedSection, label: str, sweep: str, length: int, replicate: int) -> SpeedSpec:
    return SpeedSpec(
        **section.method(),
        device="cuda",
        precision="float32",
        threads=None,
        model=ModelSpec(label=label, name=label, options={}),
        partner=ModelSpec(label=table.partner, name=table.partner, options={}),
        sweep=sweep,
        constant="batch",
        length=length,
        batch=table.batch,
        replicate=replicate,
        measure=section.sweeps[sweep].measure,
        published=Published(source=table.source, assumed_error=table.assumed_error),
    )


def _record(table: Table, spec: SpeedSpec, value: float | Literal["OOM"], partner: Value) -> SpeedRecord:
    values: dict[str, Any] = {}
    if isinstance(value, str):
        values = {"status": "oom", "detail": f"published as out of memory: {table.source}"}
    elif spec.measure == ["memory"]:
        memory = MemoryUse(
            method="as published", baseline_bytes=0, tiny_peak_bytes=0, peak_bytes=round(1e9 * value), steps=1
        )
        values = {
            "status": "ok",
            "model": _facts(table, spec.model.label),
            "memory": memory,
            "flags": ["published, not measured here"],
        }
    else:
        deviation = _deviation(table, spec.model.label)
        blocks = [_block(table, "model", value, deviation * _ERRORS[0][spec.replicate])]
        if isinstance(partner, float):
            blocks.append(_block(table, "partner", partner, deviation * _ERRORS[1][spec.replicate]))
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
        sweep=spec.sweep,
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


def _block(table: Table, side: Literal["model", "partner"], milliseconds: float, error: float) -> Block:
    return Block(side=side, phase=table.phase, steps=1, seconds=1e-3 * milliseconds * math.exp(error))


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
    parser.add_argument("table", help=f"a JSON file, or one of {', '.join(table_names())}")
    parser.add_argument("folder", type=Path)
    parser.add_argument("shortest", type=int, nargs="?", default=1, help="leave out shorter lengths")
    options = parser.parse_args(arguments)
    try:
        import_table(read_table(find_table(options.table)), options.folder, options.shortest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    print(f"{options.folder}: `python -m harness verify {options.folder}` rules on it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
