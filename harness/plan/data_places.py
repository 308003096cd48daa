"""Where the file of a data set lies, told without fetching, unpacking or preparing anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from harness.data import sources
from harness.data.catalogue import SYNTHETIC, DataSource

State = Literal[
    "generated", "packaged", "found", "prepared", "to be fetched", "waits for consent", "another file", "missing"
]
# The first of them that one of several files is in, all together are in.
_WORST_FIRST: tuple[State, ...] = ("missing", "another file", "to be fetched", "packaged", "found")
# States in which a cell can train.
USABLE: frozenset[State] = frozenset({"generated", "packaged", "found", "prepared", "to be fetched"})
# States in which nothing can be read before somebody gets the data.
FAR: frozenset[State] = frozenset({"to be fetched", "waits for consent", "another file", "missing"})


@dataclass(frozen=True)
class Place:
    """Where one data set comes from on this machine.

    Attributes:
        state: `found` and `another file` (a checksum that does not fit) are files; `prepared` is what an earlier run
            made of one that is no longer there.
        path: The file, the folder of prepared arrays, or the address; None for generated and missing data.
        advice: What to do; "" where there is nothing to do.
    """

    name: str
    state: State
    path: str | None
    advice: str


def place(name: str, source: DataSource, data_folder: str | None = None) -> Place:
    """Where a data set comes from.

    Args:
        name: Its name in the study or the catalogue.
        source: What the study or the catalogue says of it.
        data_folder: The study's folder of real data; the variable HYENAREC_DATA wins.
    """
    if source.parts:
        return _of_parts(name, source, data_folder)
    if source.format == SYNTHETIC or source.file is None:
        return Place(name, "generated", None, "")
    for path in sources.candidates(source.file, data_folder):
        if path.is_file():
            if source.sha256 is None or sources.sha256_of(path) == source.sha256:
                return Place(name, "found", str(path), "")
            return Place(name, "another file", str(path), f"replace it: its sha256 must be {source.sha256}")
    if source.sha256 is not None:
        # `harness.data.sources.prepare` then asks for no file.
        folder = sources.prepared_folder(name, source, data_folder)
        if folder.is_dir():
            return Place(name, "prepared", str(folder), "")
    if (packaged := sources.packaged_file(source.file)) is not None:
        return Place(name, "packaged", str(packaged), "")
    if (archive := sources.archive_at_hand(source, data_folder)) is not None:
        return Place(name, "found", str(archive), "")
    if (origin := source.published) is not None:
        if sources.consented(name, origin):
            return Place(name, "to be fetched", origin.url, "")
        advice = (
            f"to agree to its terms ({origin.conditions}), type  {sources.CONSENT_VARIABLE}={name}  before the command"
        )
        return Place(name, "waits for consent", origin.url, advice)
    given = sources.data_place(data_folder)
    where = str(given / source.file) if given else f"FOLDER/{source.file}, and set {sources.DATA_VARIABLE}=FOLDER"
    return Place(name, "missing", None, f"get {source.citation or 'the file'} and put it at {where}")


def _of_parts(name: str, source: DataSource, data_folder: str | None) -> Place:
    """The same of data that come as several files: the one that is the hardest to come by."""
    if source.stated_sha256 is not None:
        folder = sources.prepared_folder(name, source, data_folder)
        if folder.is_dir():
            return Place(name, "prepared", str(folder), "")
    # Under names of their own: arrays of a single file, prepared once under this one, are not those of the split.
    found = [place(f"{name}, {part}", one, data_folder) for part, one in source.parts.items()]
    return replace(min(found, key=lambda one: _WORST_FIRST.index(one.state)), name=name)
