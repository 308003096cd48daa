"""How it was measured, on what machine, and which models."""

from __future__ import annotations

from typing import Any

from harness.analysis.results import Analysis, Machine
from harness.report.numbers import counted, duration, exact, storage
from harness.report.section import Section
from harness.study.schema import SpeedSection
from harness.study.training import TrainingSection


def data(analysis: Analysis) -> dict[str, Any]:
    """The protocol of speed and of training cells in sentences, the sweeps and the machines as rows of words."""
    speed, training = analysis.study.speed, analysis.study.training
    return {
        "speed": "" if speed is None else _speed(speed, analysis.study.timing_partner, analysis.study.precision),
        "sweeps": [] if speed is None else _sweeps(speed),
        "training": "" if training is None else _training(training),
        "machines": [_machine(machine) for machine in analysis.machines],
    }


def _speed(speed: SpeedSection, partner: str, precision: str) -> str:
    compiled = "; models are compiled" if speed.compile else ""
    return (
        "A step is forward pass, loss, backward pass and optimiser step, on tensors that already lie on the device. "
        f"The loss is sampled softmax with {speed.negatives:,} shared negatives over {speed.catalogue_items:,} items, "
        "so that the head does not hide the mixer. Each cell is a process of its own, in shuffled order, and times its "
        f"model and {partner} alternately, block by block, in balanced order (A B B A …), on the same inputs: machines "
        "drift by more than the effects reported here, and in the ratio of neighbouring blocks drift cancels. The "
        f"cells of {partner} itself time it against a second copy of itself, which gives the noise floor. "
        f"Construction, warm-up and compilation lie outside the timed region{compiled}. Each side measures at least "
        f"{exact(speed.minimum_seconds)} s and {counted(speed.minimum_steps, 'step', 'steps')}, both together at most "
        f"{exact(speed.budget_seconds)} s a phase; a cell is given up after {duration(speed.timeout_seconds)}. "
        f"Precision: {precision}. In the cell of length L every model is built for L."
    )


def _sweeps(speed: SpeedSection) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"batch of {sweep.batch:,}" if sweep.tokens is None else f"{sweep.tokens:,} tokens",
            " · ".join(f"{length:,}" for length in sweep.lengths),
            "; ".join([f"{sweep.replicates:,}", *(f"{n:,} of {label}" for label, n in sweep.replicates_of.items())]),
            ", ".join(sweep.phases if sweep.phases and sweep.measure == ["time"] else sweep.measure),
        )
        for name, sweep in speed.sweeps.items()
    ]


def _training(training: TrainingSection) -> str:
    loss: str = "the one that each declares" if training.loss == "declared" else training.loss
    options = {
        "negatives": training.negatives,
        "temperature": training.temperature,
        "calibration": training.calibration,
    }
    loss += "".join(f", {name} {exact(value)}" for name, value in options.items() if value is not None)
    held_out = {
        "leave-one-out": "Leave-one-out; the last event of every user is",
        "global-temporal": "Global temporal split; a user's events in the last tenth of all, by time, are each",
        "given": "Split as the files of the data set give it; a user's events in the file of test are each",
    }
    sentences = [
        f"{held_out[training.split]} ranked against the whole catalogue, items already seen "
        "filtered out; rank = 1 + items scored higher + half the ties.",
        f"All models share one loss ({loss}{', cosines' if training.normalise else ''}), batches of "
        f"{training.batch_size:,}, Adam at {exact(training.learning_rate)}, the tied head and the evaluation.",
        f"Up to {counted(training.epochs, 'epoch', 'epochs')}, stopped after "
        f"{counted(training.patience, 'evaluation', 'evaluations')} without a better validation NDCG@10; the best "
        "epoch on validation is tested.",
    ]
    if own := [label for label, budget in training.budgets.items() if budget.of_each_training()]:
        sentences.append(f"Budgets of their own have {', '.join(own)}.")
    more = [
        f"{len(seeds)} for {label}"
        for label in training.budgets
        if len(seeds := training.seeds_of(label)) != len(training.seeds)
    ]
    sentences.append(f"{', '.join([counted(len(training.seeds), 'seed', 'seeds'), *more])}.")
    if training.compile:
        sentences.append("Models are compiled.")
    if not training.timed:
        sentences.append("Cells ran side by side and are barred from every time figure.")
    return " ".join(sentences)


def _machine(machine: Machine) -> list[tuple[str, str]]:
    accelerator = [
        machine.accelerator,
        machine.accelerator_memory_bytes and storage(machine.accelerator_memory_bytes),
        machine.driver and f"driver {machine.driver}",
        machine.power_limit_watts and f"power limit {exact(machine.power_limit_watts)} W",
        None if machine.tf32 is None else f"TF32 {'on' if machine.tf32 else 'off'}",
    ]
    pinned = "thread" if machine.threads == [1] else "threads"
    threads = f", {' or '.join(map(str, machine.threads))} {pinned} pinned" if machine.threads else ""
    allocator = ", ".join(f"{name}={value}" for name, value in machine.allocator.items())
    cores = f"{machine.cores_usable} of {counted(machine.cores, 'core', 'cores')} usable"
    return [
        ("processor", f"{machine.cpu}, {cores}, {storage(machine.memory_bytes)}"),
        ("accelerator", ", ".join(a for a in accelerator if a) if machine.accelerator else "none"),
        ("system", machine.system + threads),
        ("allocator", allocator or "system default"),
        ("records", f"{machine.records:,}"),
    ]


SECTION = Section(order=14, data=data)
