"""A folder to begin with: a study, a card and a model of the user's own, from workflow/template."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from harness.errors import UserError
from harness.study.check import names_a_file
from harness.study.find import resource

_FILES = ("README.md", "study.yaml", "card.yaml", "model/pyproject.toml", "model/my_model.py")


def lay_out(folder: Path) -> list[Path]:
    """Write the template's files into a new folder, named after it.

    Args:
        folder: Must not exist, or be empty.

    Returns:
        The files written, in the order in which to read them.

    Raises:
        UserError: The folder holds something, or its name cannot be a study's.
    """
    name = folder.resolve().name
    if not names_a_file(name):
        raise UserError(
            f"the folder's name '{name}' becomes the study's; take letters, digits, '.', '_' and '-', and begin with a "
            "letter or digit"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and is not empty; nothing was written. Name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Complete before it has its name, so that nobody meets half of it.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as place:
        made = Path(place) / name
        for file in _FILES:
            text = resource(f"workflow/template/{file}").read_text(encoding="utf-8")
            target = made / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(re.sub(r"\bNAME\b", name, text), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return [folder / file for file in _FILES]
