"""What lies beside a folder's records, so that it explains itself: study, claims and cells."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from harness.errors import UserError, in_one_line
from harness.records import read_json
from harness.records.spec import SpeedSpec
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
            f"{folder}: no {FILE_NAME}, so this is not a folder of records; the workflow and `sweep` write one"
        )
    remedy = "delete it and run the workflow or `sweep` again"
    found: Manifest = read_json.read(path, Manifest, "study", remedy)
    for cell in found.cells:
        # No study asks for such a cell, and nothing can be said per token of it.
        if isinstance(cell.spec, SpeedSpec) and min(cell.spec.batch, cell.spec.length) < 1:
            raise UserError(f"{path}: cell '{in_one_line(cell.key)}' has no events; {remedy}")
    return found
