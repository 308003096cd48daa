"""Claims: published sentences as cards over rules. Imports no torch.

A rule is a file in harness/analysis/claims, or in its folder cost; a card says which rule decides a sentence, about
whom, at which lengths, and against which number. Cards lie in workflow/claims/*.yaml, one file a paper.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from harness.doors import Door
from harness.errors import UserError, in_one_line, unknown
from harness.study.find import named, resource
from harness.study.yaml_reading import Count, Section, read_yaml

Verdict = Literal["supported", "refuted", "inconclusive", "missing"]

FOLDER = "workflow/claims"
# Fields of a card that decide nothing.
_WORDS = ("id", "sentence", "source", "setting", "differs")
DEFAULT_FILE = "hyenarec"
# Folders of rules within the folder of rules, which would be too long to read.
_GROUPS = ("cost",)


class _Rules(Door):
    """The door of rules: files of its folder, and those of the folders in it that group them."""

    def modules(self) -> dict[str, str]:
        """As of every door; a rule in a group has its file's name alone."""
        found = super().modules()
        for group in _GROUPS:
            del found[group]
            inside = Door(self.what, f"{self.package}.{group}", self.attribute)
            found.update(inside.modules())
        return found


RULES = _Rules("rule", "harness.analysis.claims", "RULE")


class From(Section, frozen=True):
    """Lengths from one on, as `{from: 1024}`."""

    start: Count = msgspec.field(name="from")


class Card(Section, frozen=True):
    """A published sentence and what decides it; to be fixed before measuring.

    Attributes:
        id: Short name, by which studies and scripts name the claim.
        rule: File in harness/analysis/claims that decides it.
        sentence: The claim as published.
        source: Where it was published.
        threshold: Value the rule's statistic is held against; null where the rule needs none.
        margin: Tolerance or non-inferiority margin.
        challenger: Label that the sentence praises; null: the study's timing partner.
        opponents: Whom it is compared with: labels, models or families; null: those the rule names.
        lengths: `all`, one length, or `{from: LENGTH}`.
        dataset: Data set that training cells are of; null: all of the study's.
        phase: What was timed.
        setting: Where and how the published figure was measured.
        differs: What is otherwise where it is ruled on here.
    """

    id: str
    rule: str
    sentence: str
    source: str
    threshold: float | None = None
    margin: float | None = None
    challenger: str | None = None
    opponents: list[str] | None = None
    lengths: Literal["all"] | Count | From = "all"
    phase: Literal["step", "forward"] = "step"
    dataset: str | None = None
    setting: str | None = None
    differs: str | None = None

    def deciding(self) -> dict[str, object]:
        """The fields that a verdict hangs on: all but the wording, and those not given.

        So a field that cards get later leaves the digest of those without it.
        """
        given = {k: v for k, v in msgspec.to_builtins(self).items() if v is not None}
        return {k: v for k, v in given.items() if k not in _WORDS}

    @property
    def digest(self) -> str:
        """Twelve hex digits of `deciding`, for a reader to hold what is ruled on against what was fixed beforehand."""
        return hashlib.sha256(msgspec.json.encode(self.deciding(), order="deterministic")).hexdigest()[:12]

    def covers(self, length: int) -> bool:
        """Whether the claim is about a length."""
        if isinstance(self.lengths, From):
            return length >= self.lengths.start
        return self.lengths in ("all", length)


def load_cards(names: Sequence[str] | None = None) -> list[Card]:
    """The cards that a study rules on: those of whole files in their order, then single ones.

    Args:
        names: Files in workflow/claims, paths of YAML files, or ids of cards in the files of workflow/claims;
            None: all cards of workflow/claims/hyenarec.yaml.

    Raises:
        UserError: An unknown file or id, two cards of one id, or a card with a rule that does not exist.
    """
    wanted = [DEFAULT_FILE] if names is None else list(names)
    files = named(FOLDER)
    found: list[Card] = []
    ids: list[str] = []
    for name in wanted:
        if name in files:
            found += _shipped(name)
        elif name.endswith((".yaml", ".yml")):
            found += _read(Path(name))
        else:
            ids.append(name)
    # Every job of a workflow comes here: no more files are read than it takes to find single cards.
    known: dict[str, Card] = {}
    for file in dict.fromkeys([DEFAULT_FILE, *files]):
        if known.keys() >= set(ids):
            break
        for card in _shipped(file):
            known.setdefault(card.id, card)
    for name in ids:
        if name not in known:
            remedy = f"Or name a file of cards: {', '.join([*files, 'the path of a YAML file'])}."
            raise unknown("claim", name, known, remedy)
    found += [card for card in known.values() if card.id in ids]
    for card in found:
        if sum(other.id == card.id for other in found) > 1:
            raise UserError(f"two cards have the id '{card.id}'; give one of them another")
    return found


def shipped_cards() -> dict[str, list[Card]]:
    """The cards of workflow/claims, by file."""
    return {name: _shipped(name) for name in named(FOLDER)}


def _shipped(name: str) -> list[Card]:
    return _read(resource(f"{FOLDER}/{name}.yaml"))


def _read(path: Path) -> list[Card]:
    if not path.is_file():
        raise UserError(f"no file of cards '{path}'; name an existing YAML file or one of: {', '.join(named(FOLDER))}")
    try:
        cards: list[Card] = read_yaml(path, list[Card])
        for card in cards:
            try:
                RULES.module(card.rule)
            except UserError as error:
                raise UserError(f"{path}: card '{card.id}': {error}") from None
    except UserError as error:
        # It may repeat a word of the file, with whatever is in it.
        raise UserError(in_one_line(error)) from None
    return cards


def opponents(card: Card, labels: Mapping[str, Collection[str | None]]) -> list[str]:
    """Labels that a card's `opponents` mean.

    Args:
        card: A card that names opponents.
        labels: Label → its model and its family, of all labels that may be meant.

    Raises:
        UserError: A word that names none of these.
    """
    found: dict[str, None] = {}
    for word in card.opponents or ():
        own = [label for label, names in labels.items() if word == label or word in names]
        if not own:
            legal = {*labels, *(name for names in labels.values() for name in names if name is not None)}
            raise unknown(f"opponent of claim '{card.id}'", word, legal, "Name a label, a model or a family.")
        found.update(dict.fromkeys(own))
    return list(found)
