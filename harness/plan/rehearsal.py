"""What a study can rule on, before anything is measured: the rules themselves decide over made-up records.

Each world is a truth that is as clear as can be, in favour of a claim's challenger or against it. A rule that decides
in no world cannot decide with these cells, whatever is measured, and says why. The records are never written or shown:
no number of theirs is a prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from harness.analysis.analyse import rule_on
from harness.analysis.load import Counted, Folder
from harness.analysis.results import ClaimVerdict
from harness.measure.speed import streaming
from harness.metrics import SELECTION
from harness.records import schema as records
from harness.records.environment import describe
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
)
from harness.records.spec import ModelSpec, SpeedSpec, TrainingSpec
from harness.study.cells import Cell
from harness.study.claim import Card
from harness.study.manifest import Manifest
from models import registry

# Little enough for two processes to decide, where two may.
_NOISE = 1e-3
_PAIRS = 6
_USERS, _EPOCHS = 2_000, 6
_GIB = 2**30


@dataclass(frozen=True)
class Prospect:
    """What a claim can become with the cells of a study.

    Attributes:
        supports, refutes: Whether there is a truth over which its rule would say so.
        why: Why not, in the rule's words; "" where both can be.
    """

    id: str
    sentence: str
    supports: bool
    refutes: bool
    why: str

    @property
    def decides(self) -> bool:
        """Whether the study can rule on it at all."""
        return self.supports or self.refutes


@dataclass(frozen=True)
class _World:
    """A truth. The challenger wins in it, or all others do.

    Attributes:
        faster: At which lengths the challenger's steps are the cheaper ones; None: at all.
        better: Whether it ranks better, by a fifth.
        ndcg: Test NDCG@10 of those who rank better.
    """

    faster: frozenset[int] | None
    better: bool
    ndcg: float = 0.2

    def is_faster(self, length: int) -> bool:
        """Whether the challenger's steps are the cheaper ones at a length."""
        return self.faster is None or length in self.faster


def prospects(manifest: Manifest) -> list[Prospect]:
    """What each claim of a study can become once all its cells are measured; in the order of the claims."""
    # Rules that ask who ranks better where it is faster look at the lengths that are trained alone.
    trained = frozenset(cell.spec.length for cell in manifest.cells if cell.kind == "training" and cell.spec.length)
    nowhere: frozenset[int] = frozenset()
    worlds = [_World(None, True), _World(nowhere, False), _World(trained, True), _World(trained, False)]
    published = [card.threshold for card in manifest.claims if card.rule == "published-accuracy" and card.threshold]
    worlds += [_World(None, True, share) for share in dict.fromkeys(published) if share < 1]
    # One card's challenger may be another's opponent: each has worlds of its own.
    rulings = {
        challenger: [_rule(manifest, world, challenger) for world in worlds]
        for challenger in dict.fromkeys(_challenger(card, manifest) for card in manifest.claims)
    }
    found = []
    for place, card in enumerate(manifest.claims):
        own = [ruling[place] for ruling in rulings[_challenger(card, manifest)]]
        words = {verdict.verdict for verdict in own}
        supports, refutes = "supported" in words, "refuted" in words
        short = [verdict for verdict in own if verdict.verdict not in ("supported", "refuted")] or own
        # In some worlds more is lacking than in others; what lacks in all of them is what the study lacks.
        why = "" if supports and refutes else _reason(min(short, key=lambda verdict: len(verdict.missing)))
        found.append(Prospect(card.id, card.sentence, supports, refutes, why))
    return found


def _reason(verdict: ClaimVerdict) -> str:
    """Why a rule did not decide; its numbers are made up, so only what is missing may be told."""
    if verdict.missing:
        more = f" and {len(verdict.missing) - 2} more" if len(verdict.missing) > 2 else ""
        return f"missing: {'; '.join(verdict.missing[:2])}{more}"
    if verdict.sample_size is not None:
        return f"at least {verdict.sample_size} {verdict.sample_unit} are needed"
    return "the lengths or models of this study cannot show it"


def _challenger(card: Card, manifest: Manifest) -> str:
    return card.challenger or manifest.study.timing_partner


def _rule(manifest: Manifest, world: _World, challenger: str) -> list[ClaimVerdict]:
    """The verdicts over all cells of a study, measured in a world that is clear about one challenger."""
    environment = describe(manifest.study.threads, {})
    counted = [
        Counted(cell, _record(cell, world, challenger, environment), "ok", None, stale=False) for cell in manifest.cells
    ]
    claims, _ = rule_on(Folder(manifest, counted, [], [], []), manifest.claims)
    return [claim.overall for claim in claims]


def _record(cell: Cell, world: _World, challenger: str, environment: Environment) -> Record:
    # A generator of each cell's own, so that no two records have the same samples and the order does not matter.
    rng = np.random.default_rng(cell.shuffle)
    spec = cell.spec
    common: dict[str, Any] = {
        "schema_version": records.SCHEMA_VERSION,
        "status": "ok",
        "study": "rehearsal",
        "label": cell.label,
        "spec_digest": cell.digest,
        "environment": environment,
        "provenance": Provenance(
            git_commit=None, git_dirty=None, started_at="2000-01-01T00:00:00+00:00", source_digest="", split_sha256="s"
        ),
        "device": spec.device,
        "precision": spec.precision,
        "model": _facts(spec.model),
    }
    praised = cell.label == challenger
    if isinstance(spec, SpeedSpec):
        faster = world.is_faster(spec.length)
        return _speed(spec, praised == faster, (spec.partner.label == challenger) == faster, rng, common)
    return _training(spec, praised == world.better, world, rng, common)


def _facts(model: ModelSpec) -> ModelFacts:
    family = _family(model.name)
    return ModelFacts(
        label=model.label,
        name=model.name,
        family=family,
        causal=True,
        citation="",
        options=model.options,
        parameters=0 if family == "reference" else 100_000,
    )


@cache
def _family(name: str) -> str:
    return registry.family(name) or "unknown"


def _step_seconds(spec: SpeedSpec, wins: bool) -> float:
    """Winners are cheap and linear; the others cost over ten times as much a token, and more with the length."""
    tokens = spec.batch * spec.length
    return 1e-6 * tokens * (1.0 if wins else 10.0 + spec.length)


def _speed(
    spec: SpeedSpec, wins: bool, partner_wins: bool, rng: np.random.Generator, common: dict[str, Any]
) -> SpeedRecord:
    fields: dict[str, Any] = {}
    own, partner = _step_seconds(spec, wins), _step_seconds(spec, partner_wins)
    if spec.model.label == spec.partner.label:
        partner = own
    if "time" in spec.measure:
        blocks = [b for phase in spec.phases for b in _blocks(phase, spec.length, own, partner, wins, rng)]
        sides: tuple[Literal["model", "partner"], ...] = ("model", "partner")
        warmups = [
            Warmup(side=side, build_seconds=0.1, compile_seconds=None, steps=5, seconds=0.1, stable=True)
            for side in sides
        ]
        fields |= {
            "timing": Timing(paired=True, warmups=warmups, blocks=blocks),
            "partner": _facts(spec.partner),
        }
        if spec.device == "cuda":
            fields["energy"] = Energy(seconds=1.0, steps=10, energy_joules=1e5 * own * _near(1.0, rng))
    if "memory" in spec.measure:
        grows = spec.batch * spec.length * (1.0 if wins else float(spec.length))
        fields["memory"] = MemoryUse(
            method="rehearsed",
            baseline_bytes=_GIB,
            tiny_peak_bytes=1 << 20,
            peak_bytes=(1 << 20) + round(1e3 * grows * _near(1.0, rng)),
            steps=3,
        )
    return SpeedRecord(
        **common,
        **fields,
        spec=spec,
        sweep=spec.sweep,
        length=spec.length,
        batch=spec.batch,
        replicate=spec.replicate,
    )


def _blocks(phase: Any, length: int, own: float, partner: float, wins: bool, rng: np.random.Generator) -> list[Block]:
    if phase == "stream":
        # A winner's event costs next to nothing, and no more after long histories.
        seconds = [(n, 1e-9 if wins else 1e-6 * n) for n in streaming.histories(length)]
        return [
            Block(side="model", phase=phase, steps=8, seconds=8 * _near(value, rng), history=history)
            for _ in range(3)
            for history, value in seconds
        ]
    sides = {"model": _near(own, rng), "partner": _near(partner, rng)}
    found = []
    for pair in range(_PAIRS):
        order: Sequence[Any] = ("model", "partner") if pair % 2 == 0 else ("partner", "model")
        found += [Block(side=side, phase=phase, steps=1, seconds=_near(sides[side], rng)) for side in order]
    return found


def _training(
    spec: TrainingSpec, wins: bool, world: _World, rng: np.random.Generator, common: dict[str, Any]
) -> TrainingRecord:
    reference = spec.length is None
    aim = world.ndcg * (0.3 if reference else 1.0 if wins else 0.8)
    ranks = _ranks(aim, rng)
    gain = float(np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0)))
    fields: dict[str, Any] = {}
    if not reference:
        fields["epochs"] = [
            Epoch(
                epoch=number,
                train_seconds=_near(1.0 if wins else 10.0, rng),
                evaluation_seconds=0.1,
                steps=10,
                tokens=10_000,
                loss=1.0 / number,
                validation_ndcg10=aim * (0.5 + 0.5 * number / _EPOCHS),
            )
            for number in range(1, _EPOCHS + 1)
        ]
        fields |= {"best_epoch": _EPOCHS, "stopped_early": False, "tokens_per_second": 10_000.0}
    return TrainingRecord(
        **common,
        **fields,
        spec=spec,
        dataset=spec.dataset,
        length=spec.length,
        seed=spec.seed,
        timed=spec.timed,
        num_users=_USERS,
        num_items=1_000,
        num_events=_USERS * 20,
        training_seconds=10.0,
        validation=Ranking(metrics={SELECTION: aim}, ranks=[]),
        test=Ranking(metrics={SELECTION: gain}, ranks=[float(rank) for rank in ranks]),
    )


def _ranks(aim: float, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Ranks whose mean NDCG@10 is near `aim`: the first users have rank 1, all others are beyond every cut-off."""
    hits = round(aim * _USERS) + int(rng.integers(-1, 2))
    ranks = np.full(_USERS, 500, dtype=np.int64)
    ranks[:hits] = 1
    # No two seeds put the same users last.
    ranks[hits:] += rng.integers(0, 100, _USERS - hits)
    return ranks


def _near(value: float, rng: np.random.Generator) -> float:
    return value * math.exp(rng.normal(0, _NOISE))
