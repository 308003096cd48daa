"""From a study to its cells: every point of the grid with its resolved spec. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

import msgspec

from harness.data.catalogue import DataSource
from harness.errors import UserError, unknown
from harness.records.spec import CellSpec, ModelSpec, SourceSpec, SpeedSpec, TrainingSpec
from harness.study.claim import Card, load_cards, opponents
from harness.study.schema import SpeedSection, Study
from harness.study.training import TrainingSection
from harness.study.yaml_reading import Section
from models import registry


class Cell(Section, frozen=True):
    """One point of the grid = one job = one child process = one record.

    Attributes:
        kind: `speed` or `training`.
        label: Model as the study names it.
        coordinates: Readable point, such as `constant-tokens-L1024-r0`.
        digest: That of the spec.
        rank: Lower is more informative; cells of one rank run in shuffled order.
        spec: Everything that decides the result.
    """

    kind: Literal["speed", "training"]
    label: str
    coordinates: str
    digest: str
    rank: int
    spec: CellSpec

    @classmethod
    def of(cls, spec: CellSpec, rank: int) -> Cell:
        """The cell of a spec."""
        length = "all" if spec.length is None else f"L{spec.length}"
        return cls(
            kind="speed" if isinstance(spec, SpeedSpec) else "training",
            label=spec.model.label,
            coordinates=f"{spec.where}-{length}-{'r' if isinstance(spec, SpeedSpec) else 's'}{spec.number}",
            digest=spec.digest(),
            rank=rank,
            spec=spec,
        )

    @property
    def key(self) -> str:
        """`label/coordinates-digest`, how a command names a cell."""
        return f"{self.label}/{self.coordinates}-{self.digest}"

    @property
    def path(self) -> str:
        """Record path below the study's folder."""
        return f"{self.kind}/{self.key}.json"

    @property
    def shuffle(self) -> int:
        """Place in a shuffled, reproducible order, so that drift is not confounded with length."""
        return int(hashlib.sha256(self.path.encode()).hexdigest()[:8], 16)


def cells(study: Study) -> Iterator[Cell]:
    """All cells of a study."""
    shared: dict[str, Any] = {
        "device": study.device_here(),
        "precision": study.precision,
        "threads": study.threads,
        "memory_limit_bytes": study.memory_limit_bytes,
    }
    if study.speed:
        yield from _speed_cells(study, study.speed, shared)
    if study.training:
        yield from _training_cells(study, study.training, shared)


def meanings(study: Study, labels: Iterable[str]) -> dict[str, tuple[str, str | None]]:
    """Label → the registered name of its model and its family, by which a card may mean it too.

    Raises:
        UserError: Unknown model, option or option value.
    """
    models = {label: resolve_model(study, label).name for label in labels}
    return {label: (name, registry.family(name)) for label, name in models.items()}


def challenges(study: Study) -> dict[str, dict[str, list[Card]]]:
    """Labels to pair with each challenger of the study's claims, and for which; all are paired with the timing partner.

    Raises:
        UserError: An unknown claim, or a challenger or opponent that the study does not time.
    """
    cards = [card for card in load_cards(study.claims) if card.challenger not in (None, study.timing_partner)]
    if study.speed is None or not cards:
        return {}
    labels = meanings(study, [study.timing_partner, *study.speed.labels()])
    found: dict[str, dict[str, list[Card]]] = {}
    for card in cards:
        challenger = str(card.challenger)
        if challenger not in labels:
            raise unknown(f"challenger of claim '{card.id}'", challenger, labels, "It must be timed in this study.")
        attention = [label for label, names in labels.items() if "attention" in names]
        others = attention if card.opponents is None else opponents(card, labels)
        for label in (challenger, *others):
            found.setdefault(challenger, {}).setdefault(label, []).append(card)
    return found


def _partners(
    study: Study, others: dict[str, dict[str, list[Card]]], timed: Collection[str], label: str, length: int
) -> list[str]:
    """Whom a label is timed beside in a sweep: the timing partner, and its challengers there at the cards' lengths."""
    wanted = [
        challenger
        for challenger, labels in others.items()
        if challenger in timed and any(card.covers(length) for card in labels.get(label, ()))
    ]
    return [study.timing_partner, *wanted]


def _speed_cells(study: Study, section: SpeedSection, shared: dict[str, Any]) -> Iterator[Cell]:
    others = challenges(study)
    models = {label: resolve_model(study, label) for label in [study.timing_partner, *section.labels()]}
    for sweep_name, sweep in section.sweeps.items():
        timed = sweep.models or section.models
        for label in timed:
            for length in sweep.lengths:
                partners = _partners(study, others, timed, label, length)
                for replicate in range(sweep.replicates_at(label)):
                    for partner in partners:
                        # A memory pass is of the label alone: once, but a challenger's own goes with its claims.
                        once = replicate == 0 and partner in (study.timing_partner, label)
                        measure = [m for m in sweep.measure if m == "time" or once]
                        if not measure:
                            continue
                        spec = SpeedSpec(
                            **shared,
                            **{**section.method(), "phases": sweep.phases or section.phases},
                            model=models[label],
                            partner=models[partner],
                            sweep=sweep_name,
                            constant=sweep.constant,
                            length=length,
                            batch=sweep.batch_at(length),
                            replicate=replicate,
                            measure=measure,
                        )
                        yield Cell.of(spec, section.rank(label, replicate))


def _training_cells(study: Study, section: TrainingSection, shared: dict[str, Any]) -> Iterator[Cell]:
    later = study.speed.delay() if study.speed else 0
    models = {label: resolve_model(study, label) for label in section.models}
    for dataset in section.datasets:
        source = study.sources()[dataset]
        common: dict[str, Any] = {
            **shared,
            "dataset": dataset,
            "source": _source_spec(source),
            "split": section.split,
            "seen_items": "filtered",
            "timed": section.timed,
            # Cells that run side by side would fight for the cores that null stands for.
            "threads": study.threads or (None if section.timed else 1),
            "timeout_seconds": section.timeout_seconds,
        }
        for label in section.references:
            model = ModelSpec(label=label, name=label, options={})
            yield Cell.of(TrainingSpec(**common, model=model, length=None, seed=0), 0)
        more = (seed for label in section.models for seed in section.seeds_of(label))
        for place, seed in enumerate(dict.fromkeys([*section.seeds, *more])):
            for label in (label for label in section.models if seed in section.seeds_of(label)):
                for length in section.lengths:
                    spec = TrainingSpec(
                        **{**common, **section.method(label)},
                        model=models[label],
                        length=length,
                        seed=seed,
                        objective="declared",
                    )
                    yield Cell.of(spec, later + place + 1)


def _source_spec(source: DataSource) -> SourceSpec:
    """A data source as a spec has it."""
    return SourceSpec(format=source.format, file=source.spoken, sha256=source.stated_sha256)


def resolve_model(study: Study, label: str) -> ModelSpec:
    """The model of a label, every option filled in but those that were added later and have their default.

    Raises:
        UserError: Unknown model, option or option value.
    """
    given = dict(study.variants.get(label, {"model": label}))
    trained = registry.names(reference=False)
    if "model" not in given:
        raise UserError(f"variant '{label}' needs a 'model': one of {', '.join(trained)}")
    name = given.pop("model")
    if name not in trained:
        legal = trained if label in study.variants else [*trained, *study.variants]
        raise unknown("model", str(name), legal)
    legal_options = registry.options(name)
    values: dict[str, Any] = {k: o.default for k, o in legal_options.items()}
    values.update(msgspec.structs.asdict(study.model))
    for key in given:
        if key not in legal_options:
            raise unknown(f"option of {name} in variant '{label}'", key, legal_options)
    values.update(given)
    where = f"of {name} in variant '{label}'" if label in study.variants else f"of {name}"
    for key, option in legal_options.items():
        if words := option.problem(values[key], values):
            raise UserError(f"{key} {where} is {values[key]!r}; {words}")
    left_out = {key for key, option in legal_options.items() if option.added and values[key] == option.default}
    return ModelSpec(label=label, name=name, options={k: values[k] for k in sorted(values) if k not in left_out})
