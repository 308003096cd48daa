"""How long the cells of a study take and how much memory they need, before they run. Imports no torch by itself.

First come records of a like machine: the same processor, as many usable cores, the same device. A cell that was
measured there takes what it took; one of the same model at another length is reckoned from its neighbours. For a model
without records a short calibration times it, and `cost()` carries that to other lengths.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.data import interactions
from harness.plan.data_places import FAR, place
from harness.records.environment import usable_cores
from harness.records.spec import ModelSpec, SpeedSpec, TrainingSpec
from harness.run.operator.bench import OperatorCell
from harness.run.past import Anchor, Basis, Identity, Known, identity
from harness.run.supervisor import run_cell
from harness.run.sweep import Task
from harness.run.workers import ForkServers, Fresh, can_fork
from harness.study.cells import Cell
from harness.study.schema import Study

# A longer one would itself take too long where attention is quadratic; beyond it the trend of the two lengths goes on.
_LONGEST, _TOKENS = 2048, 4096
# What a cell takes besides its steps, on any machine that we saw: to fork and build, and to start Python and torch.
_FORKED_SECONDS, _FRESH_SECONDS = 0.9, 2.4
_STREAM_SECONDS, _WARMUP_SECONDS = 0.9, 0.15
_HEAD_SECONDS = 0.7
_REFERENCE_SECONDS, _OPERATOR_SECONDS = 4.0, 60.0
# Forward, and twice as much backward.
_PASSES = 3.0


@dataclass(frozen=True)
class Forecast:
    """What one cell will take.

    Attributes:
        seconds: Wall time; None where nothing is known.
        peak_bytes: Most memory of its process, None where nothing is known.
        basis: What it rests on.
    """

    seconds: float | None
    peak_bytes: int | None
    basis: Basis


class Forecaster:
    """Forecasts cells of a study.

    Args:
        study: The study.
        found: What is known; `calibrate` adds to it.
        records_alone: A training without a record is unknown; else its data are prepared and its loss is timed here.
    """

    def __init__(self, study: Study, found: Known, *, records_alone: bool = False) -> None:
        self.study, self.known, self.records_alone = study, found, records_alone
        self._costs: dict[tuple[Identity, int], Any] = {}
        self._heads: dict[int, float] = {}
        self._sizes: dict[str, tuple[int, int, int] | None] = {}

    def unknown(self, tasks: Iterable[Task]) -> list[ModelSpec]:
        """Models of these cells without a record that tells their time."""
        found: dict[Identity, ModelSpec] = {}
        for task in tasks:
            if not isinstance(task, Cell) or task.spec.length is None or self._recorded(task):
                continue
            models = [task.spec.model, *([task.spec.partner] if isinstance(task.spec, SpeedSpec) else [])]
            for model in models:
                if not [anchor for anchor in self.known.anchors[identity(model)] if anchor.seconds is not None]:
                    found[identity(model)] = model
        return list(found.values())

    def calibrate(self, models: Sequence[ModelSpec], tasks: Sequence[Task]) -> list[str]:
        """Time each model at two lengths against itself, in processes of their own, and read its peak memory.

        Returns:
            What went wrong or disturbed it, a line each; a model that did not run stays unknown.
        """
        lengths = [t.spec.length for t in tasks if isinstance(t, Cell) and t.spec.length is not None]
        ends = sorted({min(lengths), max(min(max(lengths), _LONGEST), min(lengths))})
        problems = []
        with ForkServers() as servers, tempfile.TemporaryDirectory(prefix="plan-") as folder:
            workers = servers if can_fork() else Fresh()
            for number, model in enumerate(models):
                for length in ends:
                    spec = self._calibration(model, length, memory=length == ends[-1])
                    cell = Cell.of(spec, 0)
                    record = run_cell(self.study, cell, Path(folder) / f"{number}-{length}.json", workers=workers)
                    if record.status == "ok":
                        self.known.add(record, "calibration")
                        problems += [f"{model.label}: {f.partition(';')[0]}" for f in record.flags if "neighbours" in f]
                    else:
                        problems.append(f"{model.label} at {length:,} events: {record.status}: {record.detail}")
        return problems

    def _calibration(self, model: ModelSpec, length: int, *, memory: bool) -> SpeedSpec:
        return SpeedSpec(
            device=self.study.device_here(),
            precision=self.study.precision,
            threads=self.study.threads,
            timeout_seconds=60.0,
            model=model,
            partner=model,
            sweep="calibration",
            constant="tokens",
            length=length,
            batch=max(1, _TOKENS // length),
            replicate=0,
            measure=["time", "memory"] if memory else ["time"],
            phases=["step"],
            budget_seconds=1.0,
            minimum_seconds=0.1,
            minimum_steps=2,
            catalogue_items=10_000,
            negatives=256,
            learning_rate=1e-3,
            compile=False,
        )

    def _recorded(self, task: Cell) -> bool:
        return bool(self.known.elapsed.get((task.kind, task.digest)))

    def forecast(self, task: Task) -> Forecast:
        """What one cell will take."""
        if isinstance(task, OperatorCell):
            seconds = self.known.operator_seconds
            return Forecast(seconds or _OPERATOR_SECONDS, None, "records" if seconds else "assumed")
        own = self.known.elapsed.get((task.kind, task.digest))
        found = self._speed(task.spec) if isinstance(task.spec, SpeedSpec) else self._training(task.spec)
        if own:
            return Forecast(sum(own) / len(own), found.peak_bytes, "its record")
        return found

    def _speed(self, spec: SpeedSpec) -> Forecast:
        peak = self._peak(spec.model, spec.batch, spec.length)
        own = self._step(spec.model, spec.batch, spec.length)
        partner = self._step(spec.partner, spec.batch, spec.length)
        if own is None or partner is None:
            return Forecast(None, peak, "unknown")
        seconds = 0.0
        if "time" in spec.measure:
            seconds += _FORKED_SECONDS + sum(_phase_seconds(spec, phase, own[0], partner[0]) for phase in spec.phases)
        if "memory" in spec.measure:
            # Two steps for the small peak, three for the large one, and one that is looked at.
            seconds += _FRESH_SECONDS + 5 * own[0]
        basis: Basis = "calibration" if "calibration" in (own[1], partner[1]) else "records"
        return Forecast(seconds, peak, basis)

    def _training(self, spec: TrainingSpec) -> Forecast:
        if spec.length is None:
            found = self.known.references.get(spec.model.name)
            if found:
                return Forecast(sum(found) / len(found), None, "records")
            return Forecast(_REFERENCE_SECONDS, None, "assumed")
        key, epochs = identity(spec.model), spec.epochs or 1
        peaks = self.known.peaks.get((key, spec.length))
        peak = max(peaks) if peaks else self._peak(spec.model, spec.batch_size or 1, spec.length)
        seen = self.known.epochs.get((key, spec.dataset, spec.length, spec.batch_size))
        if seen:
            return Forecast(epochs * sum(seen) / len(seen), peak, "records")
        if self.records_alone:
            return Forecast(None, peak, "unknown")
        step, size = self._step(spec.model, spec.batch_size or 1, spec.length), self._size(spec)
        if step is None or size is None:
            return Forecast(None, peak, "unknown")
        positions, users, items = size
        position = step[0] / ((spec.batch_size or 1) * spec.length)
        head = self._head(items)
        evaluations = epochs / (spec.evaluate_every or 1) + 1
        # Ranking is a forward pass over the whole history of every user, and one row of scores.
        ranking = positions * position / _PASSES + users * head / _PASSES
        seconds = _FRESH_SECONDS + epochs * positions * (position + head) + evaluations * ranking
        return Forecast(seconds, peak, step[1])

    def _step(self, model: ModelSpec, batch: int, length: int) -> tuple[float, Basis] | None:
        """Seconds of a step: of the same point, or by the seconds an operation of the two nearest lengths."""
        anchors = [a for a in self.known.anchors[identity(model)] if a.seconds is not None]
        if not anchors:
            return None
        same = [a for a in anchors if (a.batch, a.length) == (batch, length)]
        if same:
            return sum(a.seconds or 0.0 for a in same) / len(same), same[0].basis
        work = self._operations(model, batch, length)
        # Seconds an operation change with the length where steps are short or follow one another; as a power of it.
        speeds: dict[int, list[float]] = defaultdict(list)
        for a in anchors:
            speeds[a.length].append(math.log((a.seconds or 0.0) / self._operations(model, a.batch, a.length)))
        near = sorted(speeds, key=lambda n: abs(math.log(n / length)))[:2]
        values = [sum(speeds[n]) / len(speeds[n]) for n in near]
        level = values[0]
        if len(near) == 2:
            slope = (values[1] - values[0]) / math.log(near[1] / near[0])
            level += slope * math.log(length / near[0])
        return work * math.exp(level), anchors[0].basis

    def _peak(self, model: ModelSpec, batch: int, length: int) -> int | None:
        """Peak bytes of a process: of the same point, else the nearest one's, what grows of it by `cost`'s bytes."""
        anchors = [a for a in self.known.anchors[identity(model)] if a.peak_bytes is not None]
        if not anchors:
            return None

        def distance(a: Anchor) -> float:
            return abs(math.log(a.length / length)) + abs(math.log(a.batch * a.length / (batch * length)))

        nearest = min(anchors, key=distance)
        peak: int = nearest.peak_bytes or 0
        if distance(nearest) == 0:
            return peak
        moved = float(self._cost(model, batch, length).bytes_moved)
        there = float(self._cost(model, nearest.batch, nearest.length).bytes_moved)
        return nearest.fixed_bytes + round((peak - nearest.fixed_bytes) * moved / there)

    def _operations(self, model: ModelSpec, batch: int, length: int) -> float:
        # The loss over the sampled items is the harness's, and in no model's prediction.
        return float(self._cost(model, batch, length).operations) + 2.0 * batch * length * 256 * 64

    def _cost(self, model: ModelSpec, batch: int, length: int) -> Any:
        key = identity(model), length
        if key not in self._costs:
            from models import registry

            cls: Any = registry.load(model.name)
            self._costs[key] = cls(cls.CONFIG(num_items=1, max_length=length, **model.options))
        return self._costs[key].cost(batch, length)

    def _head(self, items: int) -> float:
        """Seconds a position of the full cross-entropy over a catalogue, forward and backward.

        From trainings on a like machine, less what the model itself takes; without any, timed here.
        """
        threads = self.study.threads or usable_cores()
        if items not in self._heads:
            found = []
            for learning in self.known.learnings:
                step = self._step(learning.model, learning.batch, learning.length)
                if step is not None and learning.threads == threads:
                    own = learning.seconds - step[0] / (learning.batch * learning.length)
                    # The scores grow with the catalogue, and all else beside them with nothing.
                    found.append(max(0.0, own) * items / learning.items)
            if found:
                self._heads[items] = float(np.median(found))
        if items not in self._heads:
            import time

            import torch

            torch.set_num_threads(threads)
            width, positions = self.study.model.hidden_size, 256
            device = torch.device(self.study.device_here())
            hidden = torch.randn(positions, width, device=device, requires_grad=True)
            weight = torch.randn(items + 1, width, device=device, requires_grad=True)
            target = torch.randint(1, items + 1, (positions,), device=device)
            seconds: list[float] = []
            # Short and often, and the shortest counts: what else runs makes some of them longer.
            while len(seconds) < 5 or sum(seconds) < _HEAD_SECONDS:
                begin = time.perf_counter()
                torch.nn.functional.cross_entropy(hidden @ weight.T, target).backward()  # type: ignore[no-untyped-call]
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - begin)
            self._heads[items] = min(seconds) / positions
        return self._heads[items]

    def _size(self, spec: TrainingSpec) -> tuple[int, int, int] | None:
        """Training positions an epoch, users and items of a data set; None where it is not prepared yet."""
        key = f"{spec.dataset}-{spec.length}"
        if key not in self._sizes:
            self._sizes[key] = None
            folder = prepared(spec.dataset, self.study)
            if folder is not None:
                stored, _ = interactions.load(folder)
                lengths = np.diff(stored.offsets)
                positions = int(np.minimum(lengths, spec.length or 0).sum())
                self._sizes[key] = positions, int(lengths.size), int(stored.num_items)
        return self._sizes[key]


def prepared(dataset: str, study: Study) -> Path | None:
    """The prepared arrays of a data set that is at hand, made now where they are not; None where it must be got."""
    from harness.data.sources import prepare

    source = study.sources()[dataset]
    if place(dataset, source, study.data_folder).state in FAR:
        return None
    return prepare(dataset, source, study.data_folder).folder


def _phase_seconds(spec: SpeedSpec, phase: str, own: float, partner: float) -> float:
    """What a phase takes: warm-up, two cold steps, blocks within the budget, and a last step that is looked at."""
    if phase == "stream":
        return _STREAM_SECONDS
    share = {"step": 1.0, "forward": 1 / _PASSES, "rest": 0.3}[phase]
    own, partner = share * own, share * partner
    warm = sum(max(_WARMUP_SECONDS, 5 * side) for side in (own, partner))
    wanted = sum(max(spec.minimum_seconds, spec.minimum_steps * side) for side in (own, partner))
    measured = max(min(wanted, spec.budget_seconds), 2 * (own + partner))
    return warm + 2 * (own + partner) + measured
