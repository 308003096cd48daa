"""Two folders of records, of two machines or two commits: what changed beyond noise.

A cell is the same in both when kind, label, sweep or data set, length, replicate or seed, and whom it was timed
beside are. Times are compared per point, over its processes beside the timing partner; beside another challenger
of the study's claims its speed-ups alone. A row of time or speed-up counts as changed when its interval,
simultaneous over the lengths of its label and sweep, leaves out 1 and its ratio exceeds the larger A/A
noise floor of the two sets; without both floors nothing is said of it (null). Step times drift from one
session to the next, by up to a tenth on the machines at hand, which no interval of a session shows: they
count as changed only beyond `SESSION_DRIFT`. The speed-up over the timing partner, measured in pairs, does
not drift, and stands beside them. A peak of memory is read once, so a fixed tolerance stands in for its
noise. Accuracy is compared seed by seed on the same split, simultaneous over the rows of a data set; one
seed decides nothing, unless it gave the same ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from harness.analysis.compare_sets import Difference, Set, Where, differences, read_set
from harness.analysis.estimates import accuracy, memory, speedup, statistics, timing
from harness.analysis.estimates.statistics import Estimate
from harness.analysis.estimates.timing import Group
from harness.analysis.results import AccuracyDifference, RefusedFile
from harness.analysis.rows import Interval, Row
from harness.errors import UserError
from harness.metrics import SELECTION

COMPARISON_SCHEMA = 1
# The usual tolerance between two replications of one result.
MEMORY_TOLERANCE = 0.05
# Factor that a step's absolute time may differ by between two sessions of one commit on one machine.
SESSION_DRIFT = 1.15
PHASES = ("step", "forward")
# Sweep → A/A noise floor.
_Floors = dict[str, float | None]
Quantity = Literal["step-seconds", "forward-seconds", "speed-up", "peak-bytes", "ndcg@10", "status"]


class Change(Row, frozen=True):
    """One quantity of one point in both sets.

    Attributes:
        quantity: `step-seconds`, `forward-seconds`, `speed-up` (of `partner` over `label`),
            `peak-bytes` (less that at a tiny batch), `ndcg@10` (test) or `status` of a cell.
        where: Sweep, or data set.
        first: Value in the first set; `second` in the second; null for `status`.
        counts: Processes or seeds in the two sets.
        ratio: second / first; for `ndcg@10` null, see `difference`.
        difference: second − first of NDCG@10, over the seeds in both.
        interval: 95 % of the ratio or the difference; null with fewer than three processes.
        simultaneous: 95 % for all lengths of this label and sweep, or all rows of this data set, together
            (Bonferroni).
        floor: Factor within which a ratio is noise.
        changed: Beyond noise; null where the records cannot tell.
        detail: Why they cannot tell, or what changed.
        partner: Whose speed-up it is, or beside whom a cell was timed; null: the timing partner.
    """

    quantity: Quantity
    label: str
    where: str
    length: int | None
    counts: tuple[int, int]
    changed: bool | None
    first: float | None = None
    second: float | None = None
    ratio: float | None = None
    difference: float | None = None
    interval: Interval | None = None
    simultaneous: Interval | None = None
    floor: float | None = None
    detail: str = ""
    partner: str | None = None


class SetRow(Row, frozen=True):
    """One of the two sets.

    Attributes:
        name: Folder, as given.
        cells: Cells with a final record.
        noise_floors: Sweep → A/A noise floor as a factor; null without a control that has an interval.
        refused: Files that could not be counted.
        non_causal: Labels of models that see the future.
    """

    name: str
    study: str
    cells: int
    noise_floors: dict[str, float | None]
    refused: list[RefusedFile]
    non_causal: list[str]


class Comparison(Row, frozen=True):
    """All that `compare --json` prints.

    Attributes:
        schema: Version of this schema; it rises when a field goes or changes its meaning.
        changed: Number of rows that changed beyond noise; `undecided` of those that cannot tell.
        common: Number of cells in both; `only_first` and `only_second` list the others.
        environment: What differs between the sets besides the numbers.
    """

    schema: int
    first: SetRow
    second: SetRow
    changed: int
    undecided: int
    common: int
    only_first: list[Where]
    only_second: list[Where]
    environment: list[Difference]
    changes: list[Change]


def compare(first: Path, second: Path) -> Comparison:
    """What changed between two folders of records.

    Raises:
        UserError: One of them is no folder of records, or they have no cell in common.
    """
    one, two = read_set(first), read_set(second)
    common = [where for where in one.cells if where in two.cells]
    if not common:
        raise UserError(
            f"{first} and {second} have no cell in common: same label, sweep or data set, length, and replicate or "
            "seed; name two folders of one study, such as results/cpu and results/reference/cpu-2core"
        )
    floors = [_floors(own, own.partner) for own in (one, two)]
    changes = [
        *_status(one, two, common),
        *_times(one, two, floors),
        *_beside(one, two),
        *_memory(one, two),
        *_accuracy(one, two),
    ]
    return Comparison(
        schema=COMPARISON_SCHEMA,
        first=_row(first, one, floors[0]),
        second=_row(second, two, floors[1]),
        changed=sum(1 for c in changes if c.changed),
        undecided=sum(1 for c in changes if c.changed is None),
        common=len(common),
        only_first=[where for where in one.cells if where not in two.cells],
        only_second=[where for where in two.cells if where not in one.cells],
        environment=differences(one, two, common),
        changes=changes,
    )


def _row(path: Path, own: Set, floors: dict[str, float | None]) -> SetRow:
    return SetRow(
        name=str(path),
        study=own.folder.manifest.study.name,
        cells=len(own.cells),
        noise_floors=floors,
        refused=own.folder.refused,
        non_causal=sorted(_non_causal(own)),
    )


def _non_causal(own: Set) -> set[str]:
    records = [counted.record for counted in own.folder.counted if counted.record is not None]
    return {record.label for record in records if record.model is not None and not record.model.causal}


def _floors(own: Set, partner: str) -> _Floors:
    found = speedup.controls(own.groups(partner), partner)
    return {floor.sweep: floor.factor for floor in speedup.noise_floors(found)}


def _status(one: Set, two: Set, common: Sequence[Where]) -> Iterator[Change]:
    for where in common:
        before, after = one.cells[where].status, two.cells[where].status
        if before != after:
            yield Change(
                quantity="status",
                label=where.label,
                where=where.where,
                length=where.length,
                counts=(1, 1),
                changed=True,
                detail=f"{before} before, {after} after ({'replicate' if where.kind == 'speed' else 'seed'} "
                f"{where.number})",
                partner=where.beside,
            )


# --- time ----------------------------------------------------------------------------------------


def _times(one: Set, two: Set, floors: Sequence[_Floors]) -> Iterator[Change]:
    for label, sweep, phase, own in _arms(one.groups(one.partner), two.groups(two.partner)):
        floor = _greater(floors, sweep)
        drift = None if floor is None else max(floor, SESSION_DRIFT)
        yield from _ratios("step-seconds" if phase == "step" else "forward-seconds", own, _seconds, drift)
        if phase == "step" and label not in (one.partner, two.partner) and one.partner == two.partner:
            yield from _ratios("speed-up", own, speedup.log_estimate, floor)


def _beside(one: Set, two: Set) -> Iterator[Change]:
    """Speed-ups of the other challengers, each over the labels that were timed beside it."""
    for challenger in one.challengers():
        if challenger not in two.challengers():
            continue
        floors = [_floors(own, challenger) for own in (one, two)]
        for label, sweep, phase, own in _arms(one.groups(challenger), two.groups(challenger)):
            if phase == "step" and label != challenger:
                for change in _ratios("speed-up", own, speedup.log_estimate, _greater(floors, sweep)):
                    yield msgspec.structs.replace(change, partner=challenger)


def _arms(one: Sequence[Group], two: Sequence[Group]) -> Iterator[tuple[str, str, str, list[tuple[Group, Group]]]]:
    """Label, sweep and phase, with their points in both."""
    pairs = [(a, b) for a in one for b in two if _point(a) == _point(b) and a.phase in PHASES]
    for key in dict.fromkeys((a.label, a.sweep, a.phase) for a, _ in pairs):
        yield *key, [(a, b) for a, b in pairs if (a.label, a.sweep, a.phase) == key]


def _greater(floors: Sequence[_Floors], sweep: str) -> float | None:
    """The greater noise floor of the two sets; None where one has none."""
    found = [given.get(sweep) for given in floors]
    return None if None in found else max(f for f in found if f is not None)


def _point(group: Group) -> tuple[str, str, str, int]:
    return group.label, group.sweep, group.phase, group.length


def _seconds(group: Group) -> Estimate:
    return timing.series([group]).logs[0]


def _ratios(
    quantity: Quantity,
    pairs: Sequence[tuple[Group, Group]],
    value: Callable[[Group], Estimate | None],
    floor: float | None,
) -> Iterator[Change]:
    known = [(a, b, x, y) for a, b in pairs if (x := value(a)) is not None and (y := value(b)) is not None]
    for a, b, before, after in known:
        found = statistics.combine([1.0, -1.0], [after, before])
        simultaneous = statistics.exponential(found.interval(len(known)))
        changed: bool | None = None
        if a.batch != b.batch:
            detail = f"batch {a.batch} before, {b.batch} after: another amount of work"
        elif simultaneous is None:
            detail = f"fewer than {statistics.MINIMUM_PROCESSES} processes in one of the sets"
        elif floor is None:
            detail = "no A/A control with an interval in one of the sets"
        else:
            detail = ""
            changed = not simultaneous[0] <= 1 <= simultaneous[1] and abs(found.mean) > math.log(floor)
        yield Change(
            quantity=quantity,
            label=a.label,
            where=a.sweep,
            length=a.length,
            first=math.exp(before.mean),
            second=math.exp(after.mean),
            counts=(before.count, after.count),
            ratio=math.exp(found.mean),
            interval=statistics.exponential(found.interval()),
            simultaneous=simultaneous,
            floor=floor,
            changed=changed,
            detail=detail,
        )


# --- memory and accuracy -------------------------------------------------------------------------


def _memory(one: Set, two: Set) -> Iterator[Change]:
    after = {(p.label, p.sweep, p.length): p for p in memory.points(two.beside(two.partner))}
    for before in memory.points(one.beside(one.partner)):
        other = after.get((before.label, before.sweep, before.length))
        if other is None:
            continue
        same = before.batch == other.batch
        detail = "" if same else f"batch {before.batch} before, {other.batch} after: another amount of work"
        if before.method != other.method:
            same, detail = False, f"read in another way: {before.method} before, {other.method} after"
        ratio = other.net_bytes / before.net_bytes if before.net_bytes > 0 and other.net_bytes > 0 else None
        if ratio is None:
            detail = detail or "no peak above that at a tiny batch in one of the sets"
        yield Change(
            quantity="peak-bytes",
            label=before.label,
            where=before.sweep,
            length=before.length,
            first=float(before.net_bytes),
            second=float(other.net_bytes),
            counts=(1, 1),
            ratio=ratio,
            floor=1 + MEMORY_TOLERANCE,
            changed=abs(math.log(ratio)) > math.log1p(MEMORY_TOLERANCE) if same and ratio is not None else None,
            detail=detail,
        )


def _accuracy(one: Set, two: Set) -> Iterator[Change]:
    pairs: dict[str, list[tuple[accuracy.Runs, accuracy.Runs]]] = {}
    for before in accuracy.runs(one.folder):
        for after in accuracy.runs(two.folder):
            key = (before.dataset, before.label, before.length)
            if key != (after.dataset, after.label, after.length):
                continue
            if (change := _collapsed(before, after)) is not None:
                yield change
            if not (before.records and after.records):
                continue
            if before.split != after.split:
                yield Change(
                    quantity=SELECTION,
                    label=before.label,
                    where=before.dataset,
                    length=before.length,
                    counts=(len(before.records), len(after.records)),
                    changed=None,
                    detail="records of different splits do not compare",
                )
                continue
            pairs.setdefault(before.dataset, []).append((before, after))
    for own in pairs.values():
        found = [(a, b, result) for a, b in own if (result := accuracy.difference(b, a)) is not None]
        for before, after, (row, estimate, _) in found:
            yield _difference(before, after, row, estimate, len(found))


def _collapsed(before: accuracy.Runs, after: accuracy.Runs) -> Change | None:
    """Seeds in both that collapsed in one set alone; these stand in no mean."""
    lost = [{r.seed for r in own.collapsed} for own in (before, after)]
    common = (lost[0] | set(before.seeds)) & (lost[1] | set(after.seeds))
    first, second = (sorted(own & common) for own in lost)
    if first == second:
        return None
    words = [f"seed {', '.join(map(str, seeds))}" if seeds else "none" for seeds in (first, second)]
    return Change(
        quantity="status",
        label=before.label,
        where=before.dataset,
        length=before.length,
        counts=(len(before.records), len(after.records)),
        changed=True,
        detail=f"collapsed: {words[0]} before, {words[1]} after",
    )


def _difference(
    before: accuracy.Runs, after: accuracy.Runs, row: AccuracyDifference, estimate: Estimate, comparisons: int
) -> Change:
    common = set(before.seeds) & set(after.seeds) or {0}
    ranks = [{r.seed: r.test.ranks for r in own.records if r.test is not None} for own in (before, after)]
    identical = bool(row.users) and all(ranks[0].get(seed) == ranks[1].get(seed) for seed in common)
    simultaneous = estimate.interval(comparisons)
    changed: bool | None = None
    detail = ""
    if identical:
        changed, detail = False, "the same rank for every user"
    elif before.reference:
        # Counting has no seed and no noise.
        changed, detail = True, "an untrained reference gives the same ranks every time"
    elif row.seeds < 2:
        detail = "one seed decides nothing"
    elif simultaneous is not None:
        changed = not simultaneous[0] <= 0 <= simultaneous[1]
    else:
        detail = f"no interval: {row.method}"
    values = [[r.test.metrics[SELECTION] for r in own.records if r.test] for own in (before, after)]
    return Change(
        quantity=SELECTION,
        label=before.label,
        where=before.dataset,
        length=before.length,
        first=sum(values[0]) / len(values[0]),
        second=sum(values[1]) / len(values[1]),
        counts=(len(values[0]), len(values[1])),
        difference=row.difference,
        interval=estimate.interval(),
        simultaneous=simultaneous,
        changed=changed,
        detail=detail,
    )


def document(comparison: Comparison) -> str:
    """The comparison as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode()
