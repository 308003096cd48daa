"""What a user adds by a file or a folder: found by its place or by a package's entry point, without a central list.

Imports nothing that is found.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown

_HERE = Path(__file__).resolve().parent


@cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Entry points of a group; finding them reads the metadata of every installed package."""
    return tuple(metadata.entry_points(group=group))


@lru_cache(maxsize=64)
def _names(folder: Path, changed: int) -> list[str]:
    """Modules of a folder but those that begin with `_`; `changed`, when it last was, keeps one answer from another."""
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]


@dataclass(frozen=True)
class Door:
    """A kind of thing that users add.

    Attributes:
        what: Such as `rule`; packages bring theirs by entry points of the group `hyenarec_bench.rules`.
        package: The folder, such as `harness.analysis.claims`; `_template` in it is one to copy.
        attribute: What a module defines, such as `RULE`.
    """

    what: str
    package: str
    attribute: str

    @property
    def group(self) -> str:
        """Group of the entry points: their name is the thing's, their value a module."""
        return f"hyenarec_bench.{self.what}s"

    @property
    def place(self) -> str:
        """The folder as a path below the checkout."""
        return self.package.replace(".", "/")

    def modules(self) -> dict[str, str]:
        """Modules by name: the folder's, `-` for `_`, but those that begin with `_`, and those of entry points.

        Raises:
            UserError: A package's takes the name of another.
        """
        folder = _HERE.parent / self.place
        names = _names(folder, folder.stat().st_mtime_ns)
        found = {name.replace("_", "-"): f"{self.package}.{name}" for name in names}
        for point in entry_points(self.group):
            if point.name in found:
                raise UserError(
                    f"entry point '{point.name} = {point.value}': {self.what} '{point.name}' is {found[point.name]} "
                    "already; choose another name, or uninstall its package"
                )
            found[point.name] = point.value
        return found

    def module(self, name: str) -> str:
        """The module of a name.

        Raises:
            UserError: There is none.
        """
        found = self.modules()
        if name not in found:
            raise unknown(self.what, name, found, f"A {self.what} is a file in {self.place}.")
        return found[name]

    def load(self, name: str) -> Any:
        """What the module of a name defines.

        Raises:
            UserError: There is no such name, a package's module cannot be imported, or a module does not define it.
        """
        module = self.module(name)
        try:
            imported = importlib.import_module(module)
        except Exception as error:
            # A package's code may raise anything; our own is a fault of ours.
            if module.startswith("harness."):
                raise
            raise UserError(
                f"{self.what} '{name}': module '{module}' cannot be imported ({type(error).__name__}: {error}); "
                "fix or uninstall its package"
            ) from error
        if not hasattr(imported, self.attribute):
            raise UserError(
                f"{self.what} '{name}': module '{module}' defines no {self.attribute}; see _template in {self.place}"
            )
        return getattr(imported, self.attribute)
