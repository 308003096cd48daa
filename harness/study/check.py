"""Reading a study and refusing what cannot be meant, before anything is measured. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.data import formats
from harness.data.catalogue import SOURCES, SYNTHETIC
from harness.errors import UserError, in_one_line, unknown
from harness.study.cells import challenges, meanings, resolve_model
from harness.study.claim import load_cards, opponents
from harness.study.find import find_study
from harness.study.schema import Study
from harness.study.yaml_reading import read_yaml
from models import registry


def names_a_file(name: str) -> bool:
    """Whether a name can be that of a file or a folder, as the names of a study are."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def load_study(name_or_path: str) -> Study:
    """Read and validate a study.

    Raises:
        UserError: One line that names the value, the legal values and the remedy.
    """
    try:
        path = find_study(name_or_path)
        study: Study = read_yaml(path, Study)
        if study.claims is not None:
            study = msgspec.structs.replace(study, claims=[_beside(path, name) for name in study.claims])
        _validate(study, str(path))
    except UserError as error:
        # It may repeat a word of the file, with whatever is in it.
        raise UserError(in_one_line(error)) from None
    return study


def _beside(path: Path, name: str) -> str:
    """A file of cards that lies beside the study, from wherever the command is typed; any other name as it is."""
    beside = path.parent / name
    return str(beside) if name.endswith((".yaml", ".yml")) and beside.is_file() else name


def _validate(study: Study, where: str) -> None:
    def fail(message: str) -> UserError:
        return UserError(f"{where}: {message}")

    if study.speed is None and study.training is None:
        raise fail("there is nothing to measure; give it a 'speed' or a 'training' section")
    for what, names in (
        ("name", [study.name]),
        ("label in variants", study.variants),
        ("name in data", study.data),
        ("name in speed.sweeps", study.speed.sweeps if study.speed else ()),
    ):
        for name in names:
            if not names_a_file(name):
                raise fail(f"{what} '{name}' must be letters, digits, '.', '_' or '-', since it names files")
    labels = list(study.training.models) if study.training else []
    if study.speed:
        timed = study.speed.labels()
        for label in study.speed.first:
            if label not in timed:
                raise fail(str(unknown("label in speed.first", label, timed)))
        labels += [*timed, study.timing_partner]
    try:
        for label in [*labels, *study.variants]:
            resolve_model(study, label)
        for name, source in study.data.items():
            if source.format not in (legal := [SYNTHETIC, *formats.names()]):
                raise unknown(f"format of data set '{name}'", source.format, legal)
            source.check(name)
            if source.given and (words := formats.find_format(source.format).refuse(source.options)):
                raise UserError(f"data set '{name}' of format '{source.format}': {words}")
            if name in SOURCES:
                raise UserError(f"data set '{name}' is one of the catalogue; give yours another name")
        if study.training:
            for reference in study.training.references:
                if reference not in registry.names(reference=True):
                    raise unknown("reference", reference, registry.names(reference=True))
            for dataset in study.training.datasets:
                if dataset not in study.sources():
                    raise unknown("data set", dataset, study.sources())
                split = study.training.split
                if words := study.sources()[dataset].refuse_split(split):
                    raise UserError(f"data set '{dataset}' {words}")
            study.training.check()
        challenges(study)
        _check_cards(study)
    except UserError as error:
        raise fail(str(error)) from None
    for name, sweep in (study.speed.sweeps if study.speed else {}).items():
        if (sweep.tokens is None) == (sweep.batch is None):
            raise fail(f"speed.sweeps.{name} needs exactly one of 'tokens' and 'batch'")
        _distinct(fail, f"speed.sweeps.{name}.lengths", sweep.lengths)
        timed = sweep.models or (study.speed.models if study.speed else [])
        for label in sweep.replicates_of:
            if label not in timed:
                raise fail(f"speed.sweeps.{name}.replicates_of: {unknown('label', label, timed)}")
        if sweep.tokens is not None:
            for length in sweep.lengths:
                if sweep.tokens % length:
                    raise fail(f"speed.sweeps.{name}: {sweep.tokens} tokens are not a multiple of length {length}")
    for what, names in _lists(study):
        if len(set(names)) < len(names):
            # A repeated seed or model would pass for a replicate.
            raise fail(f"{what} = {names} names something twice; name each once")
    if study.speed and "step" not in study.speed.phases:
        raise fail(f"speed.phases = {study.speed.phases} must name 'step': every claim about training rests on it")
    if study.training:
        _distinct(fail, "training.lengths", study.training.lengths)


def _check_cards(study: Study) -> None:
    """What the study's cards name must be in it: found later, after measuring, it would be too late."""
    trained = list(study.training.models) if study.training else []
    timed = [study.timing_partner, *study.speed.labels()] if study.speed else []
    labels = meanings(study, dict.fromkeys([*timed, *trained]))
    labels |= {name: (name, registry.family(name)) for name in (study.training.references if study.training else ())}
    sets = list(study.training.datasets) if study.training else []
    for card in load_cards(study.claims):
        if card.challenger is not None and card.challenger not in labels:
            raise unknown(f"challenger of claim '{card.id}'", card.challenger, labels)
        opponents(card, labels)
        if card.dataset is not None and card.dataset not in sets:
            raise unknown(f"data set of claim '{card.id}'", card.dataset, sets)


def _lists(study: Study) -> Iterator[tuple[str, list[Any]]]:
    yield "claims", study.claims or []
    if study.speed:
        yield "speed.models", study.speed.models
        yield "speed.phases", study.speed.phases
        yield "speed.first", study.speed.first
        for name, sweep in study.speed.sweeps.items():
            yield f"speed.sweeps.{name}.models", sweep.models or []
            yield f"speed.sweeps.{name}.phases", sweep.phases or []
    if study.training:
        for field in ("models", "datasets", "references", "seeds"):
            yield f"training.{field}", getattr(study.training, field)
        for label, budget in study.training.budgets.items():
            yield f"training.budgets.{label}.seeds", budget.seeds or []


def _distinct(fail: Any, what: str, values: list[int]) -> None:
    if not values or len(set(values)) < len(values):
        raise fail(f"{what} = {values} must be distinct, and one at least")
