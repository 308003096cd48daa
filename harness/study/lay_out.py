"""A folder to begin with, from workflow/template: a study, a card and a model of one's own, or a study of a file."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.data.summary import of_file, unusable, yaml_word
from harness.errors import UserError
from harness.study.check import names_a_file
from harness.study.find import resource

# A file of the new folder, and the one of the template that it is made of.
_OWN_MODEL = {
    file: file for file in ("README.md", "study.yaml", "card.yaml", "model/pyproject.toml", "model/my_model.py")
}
_OWN_DATA = {"study.yaml": "own_data.yaml"}


def lay_out(folder: Path, data: Path | None = None, said: Mapping[str, Any] = MappingProxyType({})) -> list[Path]:
    """Write the template's files into a new folder, named after it.

    Args:
        folder: Must not exist, or be empty.
        data: A file of interactions to study. None: the study is of a model of the user's own.
        said: Format and options of that file, as far as they are given.

    Returns:
        The files written, in the order in which to read them.

    Raises:
        UserError: The folder holds something, its name cannot be a study's, or the file cannot be trained on.
    """
    name = folder.resolve().name
    if not names_a_file(name):
        raise UserError(
            f"the folder's name '{name}' becomes the study's; take letters, digits, '.', '_' and '-', and begin with a "
            "letter or digit"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' exists and is not empty; nothing was written. Name a new folder")
    words = {
        "NAME": name,
        "QUOTED_NAME": yaml_word(name),
        "FOLDER": shlex.quote(str(folder)),
        **({} if data is None else _words(data, said)),
    }
    files = _OWN_MODEL if data is None else _OWN_DATA
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Complete before it has its name, so that nobody meets half of it.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as place:
        made = Path(place) / name
        for file, template in files.items():
            text = resource(f"workflow/template/{template}").read_text(encoding="utf-8")
            target = made / file
            target.parent.mkdir(parents=True, exist_ok=True)
            found = re.sub(rf"\b({'|'.join(words)})\b", lambda match: words[match[0]], text)
            target.write_text(found, encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return [folder / file for file in files]


def _words(data: Path, said: Mapping[str, Any]) -> dict[str, str]:
    """What a study of a file says of it."""
    if not data.is_file():
        raise UserError(f"--data: there is no file {data.absolute()}; correct the path")
    found = of_file(data, said)
    if problem := unusable(found.prepared):
        raise UserError(f"{data}: {problem}; `python -m harness data {shlex.quote(str(data))}` tells more")
    histories = f"Here the median is {found.histories['median']:,.0f} and the longest {found.histories['max']:,.0f}"
    name = found.prepared.name
    return {"DATASET": name, "QUOTED_DATASET": yaml_word(name), "LINES": found.lines, "HISTORIES": histories}
