"""What lies beside a folder's records, so that it explains itself: study, claims and cells."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from harness.errors import UserError
from harness.records import read_json
from harness.study.cells import Cell, cells
from harness.study.claim import Card, load_cards
from harness.study.schema import Study

FILE_NAME = "study.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study, the claims it is to decide, and the cells it asks for."""

    study: Study
    claims: list[Card]
    cells: list[Cell]


def manifest(study: Study) -> Manifest:
    """The study with its claims and cells, as written beside its records."""
    return Manifest(study=study, claims=load_cards(study.claims), cells=list(cells(study)))


def manifest_digest(study: Study) -> str:
    """sha256 of the manifest: whether the one beside the records is still the study's."""
    return hashlib.sha256(msgspec.json.encode(manifest(study), order="deterministic")).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read `study.json` of a folder of records.

    Raises:
        UserError: There is none, or it is not one.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder}: no {FILE_NAME}, so this is no folder of records; the workflow and `sweep` write one"
        )
    found: Manifest = read_json.read(path, Manifest, "study", "delete it and run the workflow or `sweep` again")
    return found
