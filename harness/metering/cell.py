"""One speed cell, inside its child process: build both sides, warm up, time, or read memory."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from harness import runtime
from harness.losses import sampled_softmax
from harness.memory import Peak
from harness.metering import nvml, stopwatch
from harness.record import Block, DeviceState, Energy, Environment, MemoryUse, ModelFacts, Timing, Warmup
from models.base import SequenceModel

_TINY_LENGTH = 16
_MEMORY_STEPS = 3
_SEED = 0


def run(spec: dict[str, Any], measure: str, environment: Environment) -> dict[str, Any]:
    """Measure `time` or `memory` of one cell.

    Args:
        spec: Resolved spec of a speed cell.
        measure: `time` or `memory`; each has a child and allocator settings of its own.
        environment: Machine and software; completed here with what only torch and NVML know.

    Returns:
        Fields of the SpeedRecord. Out of memory is left to the caller as the exception it is.
    """
    device = runtime.prepare(spec)
    uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    with nvml.open_device(uuid) as gpu:
        before = gpu.state(os.getpid()) if gpu else None
        fields = _memory(spec, device, gpu) if measure == "memory" else _time(spec, device, gpu)
        after = gpu.state(os.getpid()) if gpu else None
    flags = fields.get("flags", [])
    return {
        **fields,
        "flags": [*flags, *_device_flags(before, after)],
        "environment": runtime.complete(environment, device, before, after),
    }


class _Trainee:
    """A model with its optimiser and fixed inputs; `step` and `forward` are what is timed."""

    def __init__(self, spec: dict[str, Any], side: str, device: torch.device) -> None:
        begin = time.perf_counter()
        self.model: SequenceModel = runtime.build_model(
            spec[side], num_items=spec["catalogue_items"], max_length=spec["length"], seed=_SEED, device=device
        )
        # compile() in place keeps the module itself, and with it item_embedding and cost().
        if spec["compile"]:
            self.model.compile()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=spec["learning_rate"], fused=True)
        self.device, self.precision = device, spec["precision"]
        self.build_seconds = time.perf_counter() - begin

    def bind(self, inputs: _Inputs) -> None:
        """Set the tensors that the next steps run on."""
        self.inputs = inputs

    def step(self) -> None:
        """Forward, loss, backward, optimiser step."""
        inputs = self.inputs
        self.optimiser.zero_grad(set_to_none=True)
        with runtime.autocast(self.device, self.precision):
            hidden = self.model(inputs.items)
            loss = sampled_softmax(
                hidden.flatten(0, 1), self.model.item_embedding.weight, inputs.targets, inputs.negatives
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def forward(self) -> None:
        """Forward only, as when a full history is served."""
        self.model.eval()
        with torch.no_grad(), runtime.autocast(self.device, self.precision):
            self.model(self.inputs.items)
        self.model.train()


class _Inputs:
    """Random items of a full batch, on the device before any clock runs."""

    def __init__(self, spec: dict[str, Any], batch: int, length: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(_SEED)
        catalogue = spec["catalogue_items"]
        events = torch.randint(1, catalogue + 1, (batch, length + 1), generator=generator)
        self.items = events[:, :-1].contiguous().to(device)
        self.targets = events[:, 1:].flatten().to(device)
        self.negatives = torch.randint(1, catalogue + 1, (spec["negatives"],), generator=generator).to(device)


def _time(spec: dict[str, Any], device: torch.device, gpu: nvml.Device | None) -> dict[str, Any]:
    peak = Peak(device)
    peak.reset()
    inputs = _Inputs(spec, spec["batch"], spec["length"], device)
    extra: list[str] = []
    try:
        timing, facts, energy = _time_sides(spec, ("model", "partner"), inputs, device, gpu)
    except (RuntimeError, MemoryError) as error:
        if not runtime.is_out_of_memory(error):
            raise
        reason = (str(error) or "MemoryError").splitlines()[0]
        extra = [f"unpaired: the pair does not fit in memory, each alone does ({reason})"]
    # Outside the handler: inside it the exception's frames keep both models alive.
    if extra:
        _free(device)
        timing, facts, energy = _time_apart(spec, inputs, device, gpu)
    found = stopwatch.flags(
        timing.blocks,
        timing.warmups,
        _limits(spec),
        page_bytes=resource.getpagesize(),
        peak_bytes=peak.read(),
    )
    return {
        "timing": timing,
        "model": facts["model"],
        "partner": facts["partner"],
        "energy": energy,
        "flags": [*extra, *found],
    }


def _time_sides(
    spec: dict[str, Any],
    names: tuple[stopwatch.SideName, ...],
    inputs: _Inputs,
    device: torch.device,
    gpu: nvml.Device | None,
) -> tuple[Timing, dict[str, ModelFacts], Energy | None]:
    """Time one side alone or two alternately; all phases."""
    clock = stopwatch.Clock(device)
    trainees = {name: _Trainee(spec, name, device) for name in names}
    for trainee in trainees.values():
        trainee.bind(inputs)
    sides = {
        name: stopwatch.Side(name, {"step": t.step, "forward": t.forward}, t.build_seconds)
        for name, t in trainees.items()
    }
    warmups: list[Warmup] = []
    blocks: list[Block] = []
    energy = None
    for phase in spec["phases"]:
        seconds: dict[str, float] = {}
        for name, side in sides.items():
            warmup, seconds[name] = stopwatch.warm_up(side, phase, clock)
            warmups.append(warmup)
        limits = _limits(spec)
        if len(names) == 2:
            plan = stopwatch.plan(seconds["model"], seconds["partner"], limits)
            blocks += stopwatch.measure_pair(sides["model"], sides["partner"], phase, clock, plan, limits)
        else:
            alone = seconds[names[0]]
            plan = stopwatch.plan(alone, alone, limits)
            blocks += stopwatch.measure_alone(sides[names[0]], phase, clock, plan.model_steps, plan.pairs)
        if phase == "step" and gpu is not None and "model" in sides:
            energy = _energy(sides["model"].run["step"], seconds["model"], clock, gpu)
    batch, length = spec["batch"], spec["length"]
    facts: dict[str, ModelFacts] = {n: runtime.facts(spec[n], t.model, batch, length) for n, t in trainees.items()}
    return Timing(paired=len(names) == 2, warmups=warmups, blocks=blocks), facts, energy


def _limits(spec: dict[str, Any]) -> stopwatch.Limits:
    return stopwatch.Limits(**{name: spec[name] for name in stopwatch.Limits.__dataclass_fields__})


def _time_apart(
    spec: dict[str, Any], inputs: _Inputs, device: torch.device, gpu: nvml.Device | None
) -> tuple[Timing, dict[str, ModelFacts], Energy | None]:
    first, facts, energy = _time_sides(spec, ("model",), inputs, device, gpu)
    _free(device)
    second, more, _ = _time_sides(spec, ("partner",), inputs, device, None)
    timing = Timing(paired=False, warmups=[*first.warmups, *second.warmups], blocks=[*first.blocks, *second.blocks])
    return timing, {**facts, **more}, energy


def _energy(run: Callable[[], None], step_seconds: float, clock: stopwatch.Clock, gpu: nvml.Device) -> Energy | None:
    """Total-energy counter around a window of at least a second: it advances in steps of ~0.1 s."""
    steps = max(1, int(1.0 / step_seconds) + 1)
    before = gpu.energy_joules()
    seconds, _ = clock.time(run, steps)
    after = gpu.energy_joules()
    if before is None or after is None or after <= before:
        return None
    return Energy(seconds=seconds, steps=steps, energy_joules=after - before)


def _memory(spec: dict[str, Any], device: torch.device, gpu: nvml.Device | None) -> dict[str, Any]:
    device_before = gpu.memory_used_bytes() if gpu else None
    peak = Peak(device)
    if peak.method is None:
        return {"flags": ["memory not measured: /proc/self/clear_refs cannot be written here"]}
    trainee = _Trainee(spec, "model", device)
    trainee.bind(_Inputs(spec, 1, min(_TINY_LENGTH, spec["length"]), device))
    # Two steps, so that the optimiser's state exists when the peak is taken.
    trainee.step()
    peak.reset()
    trainee.step()
    tiny = peak.read()
    trainee.bind(_Inputs(spec, spec["batch"], spec["length"], device))
    peak.reset()
    for _ in range(_MEMORY_STEPS):
        trainee.step()
    top = peak.read()
    device_after = gpu.memory_used_bytes() if gpu else None
    if tiny is None or top is None:
        raise RuntimeError(f"peak memory could not be read ({peak.method})")
    used = device_after - device_before if device_after is not None and device_before is not None else None
    memory = MemoryUse(
        method=peak.method,
        baseline_bytes=peak.baseline_bytes,
        tiny_peak_bytes=tiny,
        peak_bytes=top,
        steps=_MEMORY_STEPS,
        reserved_bytes=torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        device_peak_bytes=used,
    )
    return {"memory": memory, "model": runtime.facts(spec["model"], trainee.model, spec["batch"], spec["length"])}


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _device_flags(before: DeviceState | None, after: DeviceState | None) -> list[str]:
    found = []
    if after is not None and after.throttle_reasons:
        found.append(f"device throttled: {', '.join(after.throttle_reasons)}")
    if (before is not None and before.other_processes) or (after is not None and after.other_processes):
        found.append("another process on the device")
    return found
