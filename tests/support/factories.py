"""Builders of records and of whole record folders whose truth is known."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.records import schema as records
from harness.records.schema import (
    Block,
    Energy,
    Environment,
    Epoch,
    MemoryUse,
    ModelFacts,
    Provenance,
    Ranking,
    Record,
    SpeedRecord,
    Timing,
    TrainingRecord,
    Warmup,
    encode,
    write_atomic,
)
from harness.records.source_digest import Executed, cell_digest
from harness.records.spec import CellSpec, ModelSpec, SourceSpec, SpeedSpec, TrainingSpec
from harness.study.cells import Cell
from harness.study.claim import Card, load_cards
from harness.study.manifest import Manifest
from harness.study.schema import SpeedSection, Study, Sweep
from harness.study.training import TrainingSection

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
MEMORY_LENGTHS = (256, 512, 1024, 2048, 4096)
TOKENS = 8192
MEMORY_BATCH = 4
REFERENCES = {"popularity": 0.03, "markov": 0.08, "decayed-markov": 0.10}


@dataclass(frozen=True)
class Truth:
    """What the records of one label are made of.

    `law` gives the seconds of a step from (tokens, length); `memory` the bytes that grow with the
    batch from (batch, length); `ndcg` is the mean gain aimed at. With `event_seconds`, the seconds of one more event
    after a history, single events are timed too; with `watts` there is an energy counter.
    """

    name: str
    family: str
    law: Callable[[int, int], float]
    memory: Callable[[int, int], float] = lambda batch, length: 2e3 * batch * length
    ndcg: float = 0.12
    operations: Callable[[int, int], float] = lambda batch, length: 4e5 * batch * length
    options: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = True
    parameters: int = 750_000
    backends: Mapping[str, str] = field(default_factory=dict)
    event_seconds: Callable[[int], float] | None = None
    watts: float | None = None


def linear_law(fixed: float, per_token: float, growth: float = 0.0) -> Callable[[int, int], float]:
    """f + T·(u + v·L)."""
    return lambda tokens, length: fixed + tokens * (per_token + growth * length)


def log_law(fixed: float, per_token: float, growth: float) -> Callable[[int, int], float]:
    """f + T·(u + v·log₂ L)."""
    return lambda tokens, length: fixed + tokens * (per_token + growth * math.log2(length))


HYENAREC = Truth(
    name="hyenarec",
    family="convolution",
    law=linear_law(0.005, 1.1e-5),
    ndcg=0.15,
    options={"hidden_size": 64, "num_layers": 2, "kernel": "legendre"},
    backends={"convolution": "fft"},
)
TRUTHS: dict[str, Truth] = {
    "hyenarec": HYENAREC,
    "sasrec-math": Truth(
        name="sasrec",
        family="attention",
        law=linear_law(0.005, 7e-6, 2.2e-8),
        memory=lambda batch, length: 2e3 * batch * length + 16.0 * batch * length**2,
        operations=lambda batch, length: 3e5 * batch * length + 260.0 * batch * length**2,
        options={"hidden_size": 64, "num_layers": 2, "attention": "math"},
        backends={"attention": "math"},
        ndcg=0.14,
    ),
    "sasrec-sdpa": Truth(
        name="sasrec",
        family="attention",
        law=linear_law(0.005, 7e-6, 6e-9),
        operations=lambda batch, length: 3e5 * batch * length + 260.0 * batch * length**2,
        options={"hidden_size": 64, "num_layers": 2, "attention": "sdpa"},
        backends={"attention": "sdpa: flash (CPU)"},
        ndcg=0.14,
    ),
    "gru4rec": Truth(
        name="gru4rec",
        family="recurrent",
        law=linear_law(0.005, 5e-6, 1.4e-8),
        options={"hidden_size": 64, "num_layers": 1, "gru_hidden": 128},
        ndcg=0.11,
    ),
}


def environment(**changes: Any) -> Environment:
    """A plain two-core machine."""
    values: dict[str, Any] = {
        "cpu": "Example CPU at 3 GHz",
        "cores": 2,
        "cores_usable": 2,
        "memory_bytes": 8 << 30,
        "system": "Linux 6.1 x86_64",
        "python": "3.12.1",
        "packages": {"torch": "2.13.0", "numpy": "2.4.0"},
        "threads": 2,
        "allocator": {"MALLOC_MMAP_THRESHOLD_": "4294967296"},
    }
    return Environment(**{**values, **changes})


def provenance(spec: CellSpec, **changes: Any) -> Provenance:
    """Made from the sources as they stand, so not stale."""
    values: dict[str, Any] = {
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "started_at": "2026-01-02T03:04:05+00:00",
        "source_digest": _digest(spec),
        "data_sha256": "d" * 64,
        "split_sha256": "5" * 64,
        "elapsed_seconds": 12.5,
    }
    return Provenance(**{**values, **changes})


_DIGESTS: dict[Executed, str] = {}


def _digest(spec: CellSpec) -> str:
    # Asking for one looks at every source file: too long for thousands of records.
    executed = Executed.of(spec)
    if executed not in _DIGESTS:
        try:
            _DIGESTS[executed] = cell_digest(spec)
        except KeyError:
            # A model that exists in no registry.
            return "0" * 64
    return _DIGESTS[executed]


def facts(label: str, truth: Truth, batch: int | None = None, length: int | None = None) -> ModelFacts:
    """Facts of a model, with predictions where batch and length are given."""
    predict = batch is not None and length is not None
    return ModelFacts(
        label=label,
        name=truth.name,
        family=truth.family,
        causal=truth.causal,
        citation=f"Citation of {truth.name}",
        options=dict(truth.options),
        parameters=truth.parameters,
        operations=truth.operations(batch, length) if predict else None,
        bytes_moved=truth.operations(batch, length) / 10 if predict else None,
        state=4096.0,
        backends=dict(truth.backends),
    )


def _model(label: str, truth: Truth) -> ModelSpec:
    return ModelSpec(label=label, name=truth.name, options=dict(truth.options))


def speed_cell(
    label: str,
    truths: Mapping[str, Truth],
    sweep: str,
    constant: str,
    length: int,
    batch: int,
    replicate: int,
    measure: list[str],
) -> Cell:
    """One speed cell of a study whose section is as it comes."""
    spec = SpeedSpec(
        **SpeedSection(models=[label], sweeps={}).method(),
        device="cpu",
        precision="float32",
        threads=None,
        model=_model(label, truths[label]),
        partner=_model("hyenarec", truths["hyenarec"]),
        sweep=sweep,
        constant=constant,
        length=length,
        batch=batch,
        replicate=replicate,
        measure=measure,
    )
    return Cell.of(spec, replicate)


def training_cell(label: str, truth: Truth, dataset: str, length: int | None, seed: int) -> Cell:
    """One training cell; length None is a reference."""
    spec = TrainingSpec(
        device="cpu",
        precision="float32",
        threads=None,
        dataset=dataset,
        source=SourceSpec(
            # Of the data sets that tests make up, only this one is built in.
            format="synthetic" if dataset == "synthetic" else "ratings",
            file=None,
            sha256=None,
        ),
        split="leave-one-out",
        seen_items="filtered",
        timed=True,
        timeout_seconds=7200.0,
        model=_model(label, truth),
        length=length,
        seed=seed,
    )
    return Cell.of(spec, seed)


def blocks(
    rng: np.random.Generator,
    model_seconds: float,
    partner_seconds: float,
    *,
    pairs: int = 6,
    process_noise: float = 0.01,
    block_noise: float = 0.01,
    drift: float = 0.02,
    phase: str = "step",
) -> list[Block]:
    """Blocks in the order A B B A …: side noise per process, noise per block, and a drift common
    to both sides that pairing must cancel."""
    sides = {
        "model": model_seconds * math.exp(rng.normal(0, process_noise)),
        "partner": partner_seconds * math.exp(rng.normal(0, process_noise)),
    }
    steps = {"model": 2, "partner": 3}
    level = rng.normal(0, drift)
    found = []
    for pair in range(pairs):
        level += rng.normal(0, drift / 4)
        for side in ("model", "partner") if pair % 2 == 0 else ("partner", "model"):
            seconds = steps[side] * sides[side] * math.exp(level + rng.normal(0, block_noise))
            found.append(Block(side=side, phase=phase, steps=steps[side], seconds=seconds, minor_faults=12))
    return found


def stream_blocks(rng: np.random.Generator, event_seconds: Callable[[int], float], length: int) -> list[Block]:
    """Three rounds of eight events within each history up to a length."""
    return [
        Block(
            side="model",
            phase="stream",
            steps=8,
            seconds=8 * event_seconds(history) * math.exp(rng.normal(0, 0.01)),
            history=history,
        )
        for _ in range(3)
        for history in (128, 512, 2048, 8192)
        if history <= length
    ]


def timing(found: list[Block], *, paired: bool = True) -> Timing:
    """Timing with plain warm-ups around given blocks."""
    warmups = [
        Warmup(side=side, build_seconds=0.1, compile_seconds=0.05, steps=6, seconds=0.5, stable=True)
        for side in ("model", "partner")
    ]
    return Timing(paired=paired, warmups=warmups, blocks=found)


def speed_record(place: Cell, truths: Mapping[str, Truth], rng: np.random.Generator, **changes: Any) -> SpeedRecord:
    """The record of a speed cell. `changes` replace fields; `noise` goes to `blocks`."""
    spec, noise = place.spec, changes.pop("noise", {})
    length, batch = spec.length, spec.batch
    own, partner = truths[place.label], truths["hyenarec"]
    values: dict[str, Any] = {
        "schema_version": records.SCHEMA_VERSION,
        "status": "ok",
        "study": "factory",
        "label": place.label,
        "sweep": spec.sweep,
        "length": length,
        "batch": batch,
        "replicate": spec.replicate,
        "spec_digest": place.digest,
        "spec": spec,
        "environment": environment(),
        "provenance": provenance(spec, data_sha256=None, split_sha256=None),
        "device": "cpu",
        "precision": "float32",
    }
    if changes.get("status", "ok") == "ok":
        values["model"] = facts(place.label, own, batch, length)
        if "time" in spec.measure:
            tokens = batch * length
            values["partner"] = facts("hyenarec", partner, batch, length)
            found = blocks(rng, own.law(tokens, length), partner.law(tokens, length), **noise)
            if own.event_seconds is not None:
                found += stream_blocks(rng, own.event_seconds, length)
            values["timing"] = timing(found)
            if own.watts is not None:
                step = own.law(tokens, length)
                values["energy"] = Energy(seconds=10 * step, steps=10, energy_joules=10 * step * own.watts)
        if "memory" in spec.measure:
            tiny = 16 * truths[place.label].parameters
            values["memory"] = MemoryUse(
                method="VmHWM after clear_refs",
                baseline_bytes=200 << 20,
                tiny_peak_bytes=tiny,
                peak_bytes=tiny + round(own.memory(batch, length) * math.exp(rng.normal(0, 0.005))),
                steps=3,
            )
    return SpeedRecord(**{**values, **changes})


def ranks(rng: np.random.Generator, ndcg: float, users: np.ndarray[Any, Any]) -> list[float]:
    """Ranks whose mean NDCG@10 is close to `ndcg`; `users` in [0, 1) says how hard each user is.

    A hit falls on ranks 1 to 10 evenly (mean gain 0.4544), everything else beyond rank 20.
    """
    gain = float(np.mean(1 / np.log2(np.arange(1, 11) + 1)))
    own = 0.7 * users + 0.3 * rng.random(users.size)
    hit = own < np.quantile(own, min(1.0, ndcg / gain))
    return [float(r) for r in np.where(hit, rng.integers(1, 11, users.size), rng.integers(21, 900, users.size))]


def metrics(values: Sequence[float]) -> dict[str, float]:
    """All metrics from ranks, from their definitions."""
    rank = np.asarray(values)
    found = {}
    for k in (1, 5, 10, 20):
        hit = rank < k + 1
        found[f"hr@{k}"] = float(np.mean(hit))
        found[f"ndcg@{k}"] = float(np.mean(np.where(hit, 1 / np.log2(rank + 1), 0)))
        found[f"mrr@{k}"] = float(np.mean(np.where(hit, 1 / rank, 0)))
    return found


def training_record(
    place: Cell, truth: Truth, rng: np.random.Generator, users: np.ndarray[Any, Any], **changes: Any
) -> TrainingRecord:
    """The record of a training cell; `seed_noise` is the relative spread between seeds."""
    spec = place.spec
    trained = truth.family != "reference"
    seed_noise = changes.pop("seed_noise", 0.01)
    aim = truth.ndcg * (math.exp(rng.normal(0, seed_noise)) if trained else 1.0)
    values: dict[str, Any] = {
        "schema_version": records.SCHEMA_VERSION,
        "status": "ok",
        "study": "factory",
        "label": place.label,
        "dataset": spec.dataset,
        "length": spec.length,
        "seed": spec.seed,
        "spec_digest": place.digest,
        "spec": spec,
        "environment": environment(),
        "provenance": provenance(spec),
        "device": "cpu",
        "precision": "float32",
        "timed": True,
    }
    if changes.get("status", "ok") == "ok":
        found = changes.pop("ranks", None) or ranks(rng, aim, users)
        values |= {
            "model": facts(place.label, truth, 128 if trained else None, spec.length),
            "num_users": users.size,
            "num_items": 1000,
            "num_events": 60 * users.size,
            "training_seconds": 30.0 if trained else 0.4,
            "validation": Ranking(metrics={"ndcg@10": aim}, ranks=[]),
            "test": Ranking(metrics=metrics(found), ranks=found),
        }
        if trained:
            # No two trainings take equally long; a generator of their own leaves the truths' draws as they are.
            clock = np.random.default_rng(zlib.crc32(place.path.encode()))
            values |= {
                "epochs": [
                    Epoch(
                        epoch=number,
                        train_seconds=10.0 * math.exp(clock.normal(0, 1e-8)),
                        evaluation_seconds=1.0,
                        steps=50,
                        tokens=100_000,
                        loss=6.0 - number,
                        validation_ndcg10=aim * (0.7 + 0.1 * number),
                    )
                    for number in (1, 2, 3)
                ],
                "best_epoch": 3,
                "stopped_early": False,
                "tokens_per_second": 10_000.0,
            }
    return TrainingRecord(**{**values, **changes})


def make_folder(
    path: Path,
    *,
    truths: Mapping[str, Truth] | None = None,
    lengths: Sequence[int] = LENGTHS,
    replicates: int = 3,
    speed: bool = True,
    memory: bool = True,
    training: bool = True,
    training_lengths: Sequence[int] = (1024,),
    datasets: Sequence[str] = ("synthetic",),
    seeds: Sequence[int] = (0,),
    users: int = 400,
    rng_seed: int = 0,
    noise: Mapping[str, float] | None = None,
    seed_noise: float = 0.01,
    oom: Collection[tuple[str, int]] = (),
    timeout: Collection[tuple[str, int]] = (),
    failed: Collection[tuple[str, int]] = (),
    absent: Collection[tuple[str, int]] = (),
    unpaired: Collection[tuple[str, int]] = (),
    flags: Mapping[tuple[str, int], list[str]] | None = None,
    training_flags: Mapping[tuple[str, int], list[str]] | None = None,
    stale: Collection[str] = (),
    dirty: Collection[str] = (),
    claims: Sequence[Card] | None = None,
) -> Path:
    """Write study.json and records of a whole study.

    Args:
        path: Folder; created.
        truths: Label → truth; must hold `hyenarec`, the timing partner.
        oom: (label, length) of speed cells that end so, all replicates; `timeout` and `failed`
            (a `.failed.json`), `absent` (no file), `unpaired` and `flags` likewise.
        training_flags: (label, seed) → flags of training records.
        stale: Labels whose records carry another source digest; `dirty` another tree.
        claims: Default: those of workflow/claims/hyenarec.yaml.

    Returns:
        `path`.
    """
    chosen = dict(truths or TRUTHS)
    rng = np.random.default_rng(rng_seed)
    cells: list[Cell] = []
    found: dict[str, Record] = {}

    def keep(place: Cell, record: Record) -> None:
        cells.append(place)
        found[place.path] = record

    def marks(label: str, spec: CellSpec) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if label in stale:
            changes["source_digest"] = "f" * 64
        if label in dirty:
            changes["git_dirty"] = True
        return {"provenance": provenance(spec, **changes)} if changes else {}

    sweeps: dict[str, Sweep] = {}
    if speed:
        sweeps["constant-tokens"] = Sweep(lengths=list(lengths), tokens=TOKENS, replicates=replicates)
        for label in chosen:
            for length in lengths:
                for replicate in range(replicates):
                    place = speed_cell(
                        label, chosen, "constant-tokens", "tokens", length, TOKENS // length, replicate, ["time"]
                    )
                    key = (label, length)
                    changes = {**marks(label, place.spec), **_status(key, oom, timeout, failed)}
                    if flags and key in flags:
                        changes["flags"] = flags[key]
                    record = speed_record(place, chosen, rng, noise=dict(noise or {}), **changes)
                    if key in unpaired and record.timing is not None:
                        apart = sorted(record.timing.blocks, key=lambda b: b.side)
                        record = speed_record(
                            place, chosen, rng, timing=timing(apart, paired=False), flags=["unpaired: out of memory"]
                        )
                    if key in absent:
                        cells.append(place)
                    else:
                        keep(place, record)
    if memory:
        sweeps["constant-batch"] = Sweep(
            lengths=list(MEMORY_LENGTHS), batch=MEMORY_BATCH, replicates=1, measure=["memory"]
        )
        for label in chosen:
            for length in MEMORY_LENGTHS:
                place = speed_cell(label, chosen, "constant-batch", "batch", length, MEMORY_BATCH, 0, ["memory"])
                keep(place, speed_record(place, chosen, rng, **marks(label, place.spec)))
    if training:
        for dataset in datasets:
            hard = rng.random(users)
            for label, aim in REFERENCES.items():
                truth = Truth(name=label, family="reference", law=linear_law(0, 0), ndcg=aim, parameters=0)
                place = training_cell(label, truth, dataset, None, 0)
                keep(place, training_record(place, truth, rng, hard))
            for seed in seeds:
                for (label, truth), length in itertools.product(chosen.items(), training_lengths):
                    place = training_cell(label, truth, dataset, length, seed)
                    changes = marks(label, place.spec)
                    if training_flags and (label, seed) in training_flags:
                        changes["flags"] = training_flags[label, seed]
                    keep(place, training_record(place, truth, rng, hard, seed_noise=seed_noise, **changes))
    labels = list(chosen)
    study = Study(
        name="factory",
        description="Records with a known truth.",
        device="cpu",
        variants={label: {"model": t.name} for label, t in chosen.items() if label != t.name},
        speed=SpeedSection(models=labels, sweeps=sweeps) if sweeps else None,
        training=TrainingSection(
            models=labels,
            datasets=list(datasets),
            lengths=list(training_lengths),
            references=list(REFERENCES),
            seeds=list(seeds),
        )
        if training
        else None,
    )
    manifest = Manifest(study=study, claims=list(load_cards() if claims is None else claims), cells=cells)
    write_atomic(path / "study.json", encode(manifest))
    for name, record in found.items():
        records.write(record, path / name)
    return path


def _status(
    key: tuple[str, int],
    oom: Collection[tuple[str, int]],
    timeout: Collection[tuple[str, int]],
    failed: Collection[tuple[str, int]],
) -> dict[str, Any]:
    if key in oom:
        return {"status": "oom", "detail": "torch: not enough memory, tried to allocate 17 GiB"}
    if key in timeout:
        return {"status": "timeout", "detail": "no result within 600 s"}
    if key in failed:
        return {"status": "error", "detail": "RuntimeError: an example of a failure"}
    return {}
