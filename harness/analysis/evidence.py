"""What the rules of the claims read: all rows of an analysis, for one challenger, some lengths and one phase."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from harness.analysis.estimates import (
    accuracy,
    circumstances,
    memory,
    paired_series,
    scaling,
    speedup,
    streams,
    timing,
)
from harness.analysis.estimates.accuracy import Runs
from harness.analysis.estimates.paired_series import Arm
from harness.analysis.estimates.scaling import Series
from harness.analysis.estimates.statistics import MINIMUM_PROCESSES
from harness.analysis.estimates.timing import Group
from harness.analysis.load import Counted, Folder
from harness.analysis.rows import (
    Censored,
    ControlPoint,
    Crossover,
    Law,
    MemoryPoint,
    NoiseFloor,
    ScalingLaw,
    SpeedupPoint,
    StreamPoint,
)
from harness.errors import UserError, unknown
from harness.records.schema import SpeedRecord
from harness.records.spec import SpeedSpec, TrainingSpec
from harness.study.cells import Cell
from harness.study.claim import Card, From, opponents
from models import registry

# Over 64 times the length softmax attention's declared operations per token grow several times.
_DECLARED_GROWTH = 0.02


@dataclass(frozen=True)
class Evidence:
    """All rows that a ruling may rest on, each made from the records when it is first asked for.

    Attributes:
        folder: What counts; its timing partner is the challenger.
        tolerances: Relative error that each law's challenge lets pass.
        phase: What was timed.
    """

    folder: Folder
    tolerances: Mapping[Law, float]
    phase: str = "step"

    @cached_property
    def groups(self) -> list[Group]:
        """Timed points, streamed ones among them."""
        return timing.groups(self.folder)

    @cached_property
    def series(self) -> dict[tuple[str, str, str], Series]:
        """Cost against length, by label, sweep and phase."""
        return paired_series.series(self.groups, self.challenger, self.together)

    @cached_property
    def together(self) -> dict[tuple[str, str], Arm]:
        """Whose processes count together for cost against length, by sweep and phase."""
        return paired_series.arms(self.groups, self.challenger)

    @cached_property
    def controls(self) -> list[ControlPoint]:
        """The challenger against itself."""
        return speedup.controls(self.groups, self.challenger, self.phase)

    @cached_property
    def floors(self) -> list[NoiseFloor]:
        """Noise floor of every sweep."""
        return speedup.noise_floors(self.controls)

    @cached_property
    def speedups(self) -> list[SpeedupPoint]:
        """The challenger over every other label."""
        return speedup.speedups(self.groups, self.challenger, self.floors, self.phase)

    @cached_property
    def arms(self) -> list[list[SpeedupPoint]]:
        """Speed-ups by label and sweep, lengths increasing."""
        keys = dict.fromkeys((p.label, p.sweep) for p in self.speedups)
        return [self.points(*key) for key in keys]

    @cached_property
    def crossovers(self) -> list[Crossover]:
        """Where the challenger becomes faster."""
        return [speedup.crossover(points) for points in self.arms]

    @cached_property
    def laws(self) -> list[ScalingLaw]:
        """How each label's cost grows, per sweep."""
        places = [(label, sweep) for label, sweep, phase in self.series if phase == self.phase]
        return [law for place in places if (law := self.law(*place)) is not None]

    @cached_property
    def memory(self) -> list[MemoryPoint]:
        """Peaks against length."""
        return memory.points(self.folder)

    @cached_property
    def censored(self) -> list[Censored]:
        """Cells that ended out of memory or time."""
        return timing.censored(self.folder)

    @cached_property
    def runs(self) -> list[Runs]:
        """Trainings, by data set, label and length."""
        return accuracy.runs(self.folder)

    @cached_property
    def streams(self) -> list[StreamPoint]:
        """Streamed steps by history."""
        return streams.points(self.groups)

    @property
    def challenger(self) -> str:
        """Label that the claims praise."""
        return self.folder.manifest.study.timing_partner

    def opponents(self, card: Card) -> list[str]:
        """Labels that a card compares with; where it names none, the kernels of attention."""
        if card.opponents is None:
            return [label for label in self.attention() if label != self.challenger]
        labels = {
            label: (self.model_name(label), self.family(label))
            for label in self.folder.labels()
            if label != self.challenger
        }
        return opponents(card, labels)

    def family(self, label: str) -> str | None:
        """Family of a label: that of its model, from its source or from any record of it.

        A record that ended out of memory says nothing of its model, and is a result all the same.
        """
        name = self.model_name(label)
        if name is not None and (known := registry.family(name)) is not None:
            return known
        families: dict[str, str] = {}
        for counted in self.folder.counted:
            if counted.record is not None and counted.record.model is not None:
                families[counted.cell.spec.model.name] = counted.record.model.family
        return None if name is None else families.get(name)

    def model_name(self, label: str) -> str | None:
        """Registered name of a label's model, from the study's cells."""
        return next((c.spec.model.name for c in self.folder.manifest.cells if c.label == label), None)

    def attention(self) -> list[str]:
        """Labels that claims about attention mean, one per kernel: all of the family but linear ones.

        Linear attention is of the family, but what is published about attention's cost is not
        about it. A label counts as linear by the cost its model declares.
        """
        family = [label for label in self.folder.labels() if self.family(label) == "attention"]
        return [label for label in family if not self._declared_linear(label)]

    def _declared_linear(self, label: str) -> bool:
        """Whether a model's declared operations per token are the same at all its measured lengths."""
        per_token: dict[int, float] = {}
        for counted in self.folder.counted:
            record = counted.record
            if not isinstance(record, SpeedRecord) or record.label != label or record.model is None:
                continue
            if record.model.operations is not None:
                per_token[record.length] = record.model.operations / (record.batch * record.length)
        if len(per_token) < 2:
            return False
        shortest, longest = min(per_token), max(per_token)
        return per_token[longest] <= (1 + _DECLARED_GROWTH) * per_token[shortest]

    def sweeps(self, label: str, constant: str, measure: str) -> list[str]:
        """Sweeps in which the study asks for a label."""
        return list(
            dict.fromkeys(
                c.spec.sweep
                for c in self.folder.manifest.cells
                if isinstance(c.spec, SpeedSpec)
                and c.label == label
                and c.spec.constant == constant
                and measure in c.spec.measure
            )
        )

    def named_arms(
        self, labels: Iterable[str], constant: str = "tokens", measure: str = "time"
    ) -> list[tuple[str, str, str]]:
        """(variant's name, label, sweep): the label alone where the study has it in one sweep only.

        Where a study times a label at a constant batch only (published tables do), that counts: the law
        holds per sequence too, and a speed-up is one at either.
        """
        found = []
        for label in labels:
            sweeps = self.sweeps(label, constant, measure)
            if not sweeps and (constant, measure) == ("tokens", "time"):
                sweeps = self.sweeps(label, "batch", measure)
            found += [(label if len(sweeps) == 1 else f"{label} ({sweep})", label, sweep) for sweep in sweeps]
        return found

    def points(self, label: str, sweep: str) -> list[SpeedupPoint]:
        """Speed-ups over one label in one sweep, lengths increasing."""
        return [p for p in self.speedups if (p.label, p.sweep) == (label, sweep)]

    def floor(self, sweep: str) -> float | None:
        """Noise floor of a sweep as a factor; None where there is no A/A control with an interval."""
        return next((f.factor for f in self.floors if f.sweep == sweep), None)

    def law(self, label: str, sweep: str) -> ScalingLaw | None:
        """Scaling law of one label in one sweep."""
        if (label, sweep) not in self._laws:
            own = self.series.get((label, sweep, self.phase))
            self._laws[label, sweep] = None if own is None else self._law(label, sweep, own)
        return self._laws[label, sweep]

    @cached_property
    def _laws(self) -> dict[tuple[str, str], ScalingLaw | None]:
        """Those that were asked for: thousands of resamples are fitted for each."""
        return {}

    def _law(self, label: str, sweep: str, own: Series) -> ScalingLaw | None:
        lost = {c.length for c in self.censored if (c.kind, c.label, c.where) == ("speed", label, sweep)}
        lengths = sorted(length for length in lost if length is not None)
        return scaling.scaling_law(label, sweep, own, tolerances=self.tolerances, censored_lengths=lengths)

    def paths(self, labels: Iterable[str], sweep: str) -> list[str]:
        """Paths of the records that timed these labels."""
        wanted = set(labels)
        found = [g for g in self.groups if g.label in wanted and g.sweep == sweep and g.phase == self.phase]
        return [path for g in found for path in g.paths]

    def beside(self, label: str, sweep: str) -> list[str]:
        """Labels whose processes a label's cost against length rests on: all that count together, or it alone."""
        arm = self.together.get((sweep, self.phase))
        return list(arm.partner) if arm is not None and arm.shared and label in arm.partner else [label]

    def batch(self, label: str, sweep: str, length: int) -> str:
        """The batch that a label was timed with at a length, in words: what a model gains by length it may by batch."""
        own = next(g for g in self.groups if (g.label, g.sweep, g.length) == (label, sweep, length))
        what = f"{own.batch * own.length:,} tokens a batch" if own.constant == "tokens" else "the same batch throughout"
        return f"batch {own.batch:,} ({what})"

    def ran(self, labels: Iterable[str], sweep: str) -> str:
        """A sentence on what ran in the cells that timed these labels."""
        wanted = set(labels)
        own = circumstances.changes(self._records(wanted, sweep, "time"))
        found = [circumstances.in_words(key[0], key[2], backends) for key, backends in own.items() if key[0] in wanted]
        return f" What ran: {'; '.join(found)}." if found else ""

    def obstacles(self, labels: Iterable[str], sweep: str, measure: str = "time") -> list[str]:
        """Why nothing can be ruled on across these cells: several machines, or other things ran than were asked for."""
        own = self._records(labels, sweep, measure)
        return [*circumstances.mixed(own), *circumstances.conflicts(own)]

    def _records(self, labels: Iterable[str], sweep: str, measure: str) -> list[SpeedRecord]:
        wanted = set(labels)
        return [
            r
            for _, r in self.folder.speed()
            if r.label in wanted and r.sweep == sweep and (r.timing if measure == "time" else r.memory) is not None
        ]

    def bias(self, sweep: str) -> float:
        """The factor that intervals of a speed-up give way by: the noise floor where the A/A control leaves 1, else 1.

        There one side is the slower one whatever model it is, by a factor that the floor contains.
        """
        floor = next((f for f in self.floors if f.sweep == sweep), None)
        return 1.0 if floor is None or floor.factor is None or floor.all_cover_one else floor.factor

    def gaps(self, label: str, sweep: str, measure: str = "time") -> list[str]:
        """Speed cells without a final record, one sentence; of the challenger those out of memory or time too.

        An opponent that runs out of memory bounds a speed-up; a challenger that does may be what its card denies.
        """
        own = [
            c
            for c in self.folder.counted
            if c.cell.kind == "speed" and (c.cell.label, c.cell.spec.where) == (label, sweep)
        ]
        lost = self._lost(label, sweep, measure)
        open_cells = [c for c in own if c.record is None or (label == self.challenger and c in lost)]
        return describe(open_cells, f"speed cells of {label} in {sweep}")

    def _lost(self, label: str, sweep: str, measure: str) -> list[Counted]:
        """Cells that ended out of memory or time, without what they were to measure."""
        return [
            c
            for c in self.folder.counted
            if isinstance(c.record, SpeedRecord)
            and (c.cell.label, c.cell.spec.where) == (label, sweep)
            and c.record.status != "ok"
            and (c.record.timing if measure == "time" else c.record.memory) is None
        ]

    def slower_than(self, label: str, sweep: str, factor: float) -> list[int]:
        """Lengths whose time-outs prove that a step takes over `factor` times as long as at the measured ones.

        A cell does the same number of steps of equally many tokens at every length. Proof are three processes of a
        length, all of them timed out, whose limit was over twice `factor` times the longest whole cell that ended:
        twice, since a longer model may take longer to build.
        """
        ended = [
            r.provenance.elapsed_seconds
            for r in self._records([label], sweep, "time")
            if r.provenance.elapsed_seconds is not None and r.spec.constant == "tokens"
        ]
        lost: dict[int, list[float]] = {}
        for counted in self._lost(label, sweep, "time"):
            spec = counted.cell.spec
            if counted.status == "timeout" and isinstance(spec, SpeedSpec):
                lost.setdefault(spec.length, []).append(spec.timeout_seconds)
        enough = [n for n, limits in lost.items() if len(limits) >= MINIMUM_PROCESSES]
        return [n for n in sorted(enough) if ended and min(lost[n]) > 2 * factor * max(ended)]

    def training_gaps(self, label: str, dataset: str) -> list[str]:
        """Training cells without a ranking, also those out of memory or time, or diverged; one sentence."""
        open_cells = [
            c
            for c in self.folder.counted
            if (c.record is None or c.record.status != "ok")
            and c.cell.kind == "training"
            and (c.cell.label, c.cell.spec.where) == (label, dataset)
        ]
        return describe(open_cells, f"training cells of {label} on {dataset}")

    def bounded(self, label: str, sweep: str) -> str:
        """A clause on lengths that ended in OOM or time-out, or nothing."""
        own = [c for c in self.censored if (c.kind, c.label, c.where) == ("speed", label, sweep)]
        if not own:
            return ""
        found = dict.fromkeys((c.length, c.status) for c in own)
        return f" Not measurable: {', '.join(f'length {length:,} ({status})' for length, status in found)}."


def _lengths(card: Card) -> str:
    if isinstance(card.lengths, From):
        return f"lengths from {card.lengths.start:,} on"
    return "all lengths" if card.lengths == "all" else f"length {card.lengths:,}"


def describe(cells: Sequence[Counted], what: str) -> list[str]:
    """One sentence that names cells without a result; empty for none."""
    if not cells:
        return []
    lengths = dict.fromkeys(c.cell.spec.length for c in cells if c.cell.spec.length is not None)
    at = f" at length {', '.join(f'{length:,}' for length in lengths)}" if lengths else ""
    states = ", ".join(dict.fromkeys(c.status for c in cells))
    return [f"{len(cells)} {what}{at} ({states}), for instance {cells[0].path}"]


def against(folder: Folder, card: Card | None = None) -> Folder:
    """The part of a folder that a card is about: cells of and paired with its challenger, of its lengths and data set.

    Of other labels also the cells that measure memory alone.

    Without a card: the timing partner's, at all lengths.
    """
    partner = challenger = folder.manifest.study.timing_partner
    if card is not None and card.challenger is not None:
        challenger = card.challenger
        if challenger not in folder.labels():
            raise unknown(f"challenger of claim '{card.id}'", challenger, folder.labels())
    if card is not None and card.dataset is not None:
        trained = [cell.spec.dataset for cell in folder.manifest.cells if isinstance(cell.spec, TrainingSpec)]
        if card.dataset not in trained:
            raise unknown(f"data set of claim '{card.id}'", card.dataset, trained)

    def counts(cell: Cell) -> bool:
        length = cell.spec.length
        if card is not None and length is not None and not card.covers(length):
            return False
        if card is not None and isinstance(cell.spec, TrainingSpec) and card.dataset not in (None, cell.spec.dataset):
            return False
        if not isinstance(cell.spec, SpeedSpec) or cell.spec.partner.label == challenger:
            return True
        # A memory pass is of its label alone, whoever stands beside it.
        alone = cell.spec.measure == ["memory"] and cell.spec.partner.label == partner
        return alone and cell.label != challenger

    study = msgspec.structs.replace(folder.manifest.study, timing_partner=challenger)
    cells = [cell for cell in folder.manifest.cells if counts(cell)]
    if card is not None and card.opponents is not None and not cells:
        raise UserError(f"claim '{card.id}' is about {_lengths(card)}, which no cell of this study has")
    manifest = msgspec.structs.replace(folder.manifest, study=study, cells=cells)
    return dataclasses.replace(folder, manifest=manifest, counted=[c for c in folder.counted if counts(c.cell)])
