"""One speed cell, inside its child process: build both sides, warm up, time, or read memory."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.measure import runtime
from harness.measure.device import nvml
from harness.measure.device.sampler import Sampler
from harness.measure.guard import Guard
from harness.measure.losses import sampled_softmax
from harness.measure.neighbours import Neighbours
from harness.measure.peak_memory import Peak
from harness.measure.speed import stopwatch, streaming
from harness.measure.speed.layerless import Rest
from harness.records.schema import Block, Energy, Environment, MemoryUse, ModelFacts, Timing, Warmup
from harness.records.spec import ModelSpec, Phase, SpeedSpec
from models.base import SequenceModel, StreamingModel

_TINY_LENGTH = 16
_MEMORY_STEPS = 3
_ENERGY_ATTEMPTS = 3
_SEED = 0
_MEND = "correct the model, or lower learning_rate in the study, delete the record and measure again"


def run(spec: SpeedSpec, measure: str, environment: Environment) -> dict[str, Any]:
    """Measure `time` or `memory` of one cell.

    Args:
        spec: Resolved spec of a speed cell.
        measure: `time` or `memory`; each has a child and allocator settings of its own.
        environment: Machine and software; completed here with what only torch and NVML know.

    Returns:
        Fields of the SpeedRecord. Out of memory is left to the caller as the exception it is.
    """
    with nvml.open_library() if spec.device == "cuda" else contextlib.nullcontext() as library:
        # Before torch touches a device, so that what others hold there is told from what this process takes.
        if library is not None:
            library.survey()
        device = runtime.prepare(spec.device, spec.threads)
        gpu = library.device(_uuid(device), os.environ.get("CUDA_VISIBLE_DEVICES")) if library is not None else None
        before = gpu.state(os.getpid()) if gpu else None
        with Sampler(gpu, measure) as sampler, Guard() as guard:
            neighbours = Neighbours()
            run_pass = _memory if measure == "memory" else _time
            fields = run_pass(spec, device, sampler, guard)
            # Memory does not depend on who else runs.
            flags = neighbours.flags() if measure == "time" else []
        after = gpu.state(os.getpid()) if gpu else None
    own = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
    return {
        **fields,
        "flags": [*fields.get("flags", []), *flags, *guard.flags, *sampler.flags(own)],
        "series": sampler.series(),
        "environment": runtime.complete(environment, device, before, after),
    }


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


class _Trainee:
    """A model with its optimiser and fixed inputs; `step`, `forward` and `rest` are what is timed."""

    def __init__(self, spec: SpeedSpec, side: stopwatch.SideName, device: torch.device, guard: Guard) -> None:
        begin = time.perf_counter()
        self.label = _model(spec, side).label
        self.model: SequenceModel = runtime.build_model(
            _model(spec, side),
            num_items=spec.catalogue_items,
            max_length=spec.length,
            seed=_SEED,
            device=device,
            guard=guard,
        )
        # compile() in place keeps the module itself, and with it item_embedding and cost().
        if spec.compile:
            self.model.compile()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=spec.learning_rate, fused=True)
        self.device, self.precision = device, spec.precision
        self.build_seconds = time.perf_counter() - begin
        self._learning_rate = spec.learning_rate
        self._rest: Rest | None = None

    def bind(self, inputs: _Inputs) -> None:
        """Set the tensors that the next steps run on."""
        self.inputs = inputs

    def step(self) -> None:
        """Forward, loss, backward, optimiser step."""
        self.optimiser.zero_grad(set_to_none=True)
        self._loss().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _loss(self) -> Tensor:
        inputs = self.inputs
        with runtime.autocast(self.device, self.precision):
            hidden = self.model(inputs.items)
            return sampled_softmax(
                hidden.flatten(0, 1), self.model.item_embedding.weight, inputs.targets, inputs.negatives
            )

    def forward(self) -> None:
        """Forward only, as when a full history is served."""
        self._served()

    def _served(self) -> Tensor:
        self.model.eval()
        with torch.no_grad(), runtime.autocast(self.device, self.precision):
            hidden: Tensor = self.model(self.inputs.items)
        self.model.train()
        return hidden

    def flags(self, phase: Phase) -> list[str]:
        """Whether the model still computes numbers after a phase was measured; computes once more what was."""
        compute = {"step": self._loss, "forward": self._served}.get(phase)
        if compute is None or runtime.is_finite(compute().detach()):
            return []
        what = "loss is" if phase == "step" else "hidden states are"
        return [f"{self.label}: its {what} NaN or infinite, so this is not the cost of a model that works; {_MEND}"]

    def rest(self) -> None:
        """A step of the embedding, the loss and the optimiser alone."""
        # Made when it first runs: the memory pass, and all that is timed before, must not hold it.
        self._rest = self._rest or Rest(self.model, self._learning_rate)
        with runtime.autocast(self.device, self.precision):
            self._rest.step(self.inputs.items, self.inputs.targets, self.inputs.negatives)


class _Inputs:
    """Random items of a full batch, on the device before any clock runs."""

    def __init__(self, spec: SpeedSpec, batch: int, length: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        catalogue = spec.catalogue_items
        events = torch.randint(1, catalogue + 1, (batch, length + 1), generator=generator)
        self.items = events[:, :-1].contiguous().to(device)
        self.targets = events[:, 1:].flatten().to(device)
        self.negatives = torch.randint(1, catalogue + 1, (spec.negatives,), generator=generator).to(device)


def _time(spec: SpeedSpec, device: torch.device, sampler: Sampler, guard: Guard) -> dict[str, Any]:
    peak = Peak(device)
    peak.reset()
    inputs = _Inputs(spec, spec.batch, spec.length, device)
    extra: list[str] = []
    try:
        timing, facts, energy = _time_sides(spec, ("model", "partner"), inputs, device, sampler, guard)
    except (RuntimeError, MemoryError) as error:
        if not runtime.is_out_of_memory(error):
            raise
        reason = (str(error) or "MemoryError").splitlines()[0]
        extra = [f"unpaired: the pair does not fit in memory, each alone does ({reason})"]
    # Outside the handler: inside it the exception's frames keep both models alive.
    if extra:
        _free(device)
        timing, facts, energy = _time_apart(spec, inputs, device, sampler, guard)
    found = stopwatch.flags(
        [block for block in timing.blocks if block.phase != "stream"],
        timing.warmups,
        _limits(spec),
        page_bytes=resource.getpagesize(),
        peak_bytes=peak.read(),
    )
    return {
        "timing": timing,
        "model": facts["model"],
        "partner": facts["partner"],
        **energy,
        "flags": [*extra, *found],
    }


def _time_sides(
    spec: SpeedSpec,
    names: tuple[stopwatch.SideName, ...],
    inputs: _Inputs,
    device: torch.device,
    sampler: Sampler,
    guard: Guard,
) -> tuple[Timing, dict[str, ModelFacts], dict[str, Any]]:
    """Time one side alone or two alternately; all phases."""
    clock = stopwatch.Clock(device)
    trainees = {name: _Trainee(spec, name, device, guard) for name in names}
    for trainee in trainees.values():
        trainee.bind(inputs)
    sides = {
        name: stopwatch.Side(name, {"step": t.step, "forward": t.forward, "rest": t.rest}, t.build_seconds)
        for name, t in trainees.items()
    }
    warmups: list[Warmup] = []
    blocks: list[Block] = []
    energy: dict[str, Any] = {}
    for phase in spec.phases:
        if phase == "stream":
            if "model" in trainees and isinstance(model := trainees["model"].model, StreamingModel):
                with sampler.window(phase):
                    blocks += streaming.measure(model, spec, device)
                guard.check("timing single events")
            continue
        seconds: dict[str, float] = {}
        for name, side in sides.items():
            warmup, seconds[name] = stopwatch.warm_up(side, phase, clock)
            warmups.append(warmup)
            guard.check(f"warming up the {name}'s {phase}")
        limits = _limits(spec)
        plan = stopwatch.plan(seconds[names[0]], seconds[names[-1]], limits)
        with sampler.window(phase):
            if len(names) == 2:
                blocks += stopwatch.measure_pair(sides["model"], sides["partner"], phase, clock, plan, limits)
            else:
                blocks += stopwatch.measure_alone(sides[names[0]], phase, clock, plan, limits)
        if phase == "step" and sampler.device is not None and "model" in sides:
            energy = _energy(sides["model"].run["step"], seconds["model"], clock, sampler, sampler.device)
        guard.flags += [flag for trainee in trainees.values() for flag in trainee.flags(phase)]
        guard.check(f"timing the {phase}")
    batch, length = spec.batch, spec.length
    facts: dict[str, ModelFacts] = {
        name: runtime.facts(_model(spec, name), trainee.model, batch, length) for name, trainee in trainees.items()
    }
    return Timing(paired=len(names) == 2, warmups=warmups, blocks=blocks), facts, energy


def _limits(spec: SpeedSpec) -> stopwatch.Limits:
    return stopwatch.Limits(spec.minimum_seconds, spec.minimum_steps, spec.budget_seconds)


def _model(spec: SpeedSpec, side: stopwatch.SideName) -> ModelSpec:
    return spec.model if side == "model" else spec.partner


def _time_apart(
    spec: SpeedSpec, inputs: _Inputs, device: torch.device, sampler: Sampler, guard: Guard
) -> tuple[Timing, dict[str, ModelFacts], dict[str, Any]]:
    first, facts, energy = _time_sides(spec, ("model",), inputs, device, sampler, guard)
    _free(device)
    second, more, _ = _time_sides(spec, ("partner",), inputs, device, sampler, guard)
    timing = Timing(paired=False, warmups=[*first.warmups, *second.warmups], blocks=[*first.blocks, *second.blocks])
    return timing, {**facts, **more}, energy


def _energy(
    run: Callable[[], None], step_seconds: float, clock: stopwatch.Clock, sampler: Sampler, gpu: nvml.Device
) -> dict[str, Any]:
    """Energy counter around a window that is long enough, or why there is no energy."""
    if gpu.energy_millijoules() is None:
        return {"energy_detail": nvml.NO_COUNTER}
    seconds, steps = 0.0, math.ceil(1.1 * nvml.LEAST_ENERGY_SECONDS / step_seconds)
    for _ in range(_ENERGY_ATTEMPTS):
        before = gpu.energy_millijoules()
        with sampler.window("energy"):
            seconds, _ = clock.time(run, steps)
        joules, detail = nvml.energy_used(before, gpu.energy_millijoules(), seconds, gpu.power_limit_watts())
        if joules is not None:
            break
        # A window that was too short, or one in which the counter stood still.
        steps = math.ceil(1.5 * steps * max(1.0, nvml.LEAST_ENERGY_SECONDS / seconds))
    energy = None if joules is None else Energy(seconds=seconds, steps=steps, energy_joules=joules)
    return {"energy": energy, "energy_detail": detail}


def _memory(spec: SpeedSpec, device: torch.device, sampler: Sampler, guard: Guard) -> dict[str, Any]:
    peak = Peak(device)
    if peak.method is None:
        return {"flags": ["memory not measured: /proc/self/clear_refs cannot be written here"]}
    trainee = _Trainee(spec, "model", device, guard)
    trainee.bind(_Inputs(spec, 1, min(_TINY_LENGTH, spec.length), device))
    # Two steps, so that the optimiser's state exists when the peak is taken.
    trainee.step()
    peak.reset()
    trainee.step()
    tiny = peak.read()
    trainee.bind(_Inputs(spec, spec.batch, spec.length, device))
    peak.reset()
    for _ in range(_MEMORY_STEPS):
        trainee.step()
        sampler.sample()
    top = peak.read()
    guard.flags += trainee.flags("step")
    guard.check("steps for their peak")
    if tiny is None or top is None:
        raise RuntimeError(f"peak memory could not be read ({peak.method})")
    memory = MemoryUse(
        method=peak.method,
        baseline_bytes=peak.baseline_bytes,
        tiny_peak_bytes=tiny,
        peak_bytes=top,
        steps=_MEMORY_STEPS,
        reserved_bytes=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        device_peak_bytes=sampler.peak_bytes(),
    )
    return {"memory": memory, "model": runtime.facts(spec.model, trainee.model, spec.batch, spec.length)}


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
