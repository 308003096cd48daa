"""What a user adds by a file or a folder: found by its place or by a package's entry point, without a central list.

Imports nothing that is found.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import UserError

_HERE = Path(__file__).resolve().parent


@cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Entry points of a group; finding them reads the metadata of every installed package."""
    return tuple(metadata.entry_points(group=group))


def modules(what: str, package: str, group: str) -> dict[str, str]:
    """Modules by name: a folder's, `-` for `_`, but those that begin with `_`, and those of packages' entry points.

    Args:
        what: Such as `rule`, for messages.
        package: The folder, such as `harness.analysis.claims`.
        group: Entry-point group; an entry point's name is the name, its value a module.

    Raises:
        UserError: A package's takes the name of another.
    """
    folder = _HERE.joinpath(*package.split(".")[1:])
    names = [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]
    found = {name.replace("_", "-"): f"{package}.{name}" for name in names}
    for point in entry_points(group):
        if point.name in found:
            raise UserError(
                f"entry point '{point.name} = {point.value}': {what} '{point.name}' is {found[point.name]} already; "
                "choose another name, or uninstall its package"
            )
        found[point.name] = point.value
    return found


def load(what: str, name: str, module: str, attribute: str, template: str) -> Any:
    """What a found module defines under a name.

    Raises:
        UserError: A package's module cannot be imported, or a module does not define it.
    """
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        # A package's code may raise anything; our own is a fault of ours.
        if module.startswith("harness."):
            raise
        raise UserError(
            f"{what} '{name}': module '{module}' cannot be imported ({type(error).__name__}: {error}); "
            "fix or uninstall its package"
        ) from error
    if not hasattr(imported, attribute):
        raise UserError(f"{what} '{name}': module '{module}' defines no {attribute}; see {template}")
    return getattr(imported, attribute)
