"""Packages that may be missing or broken, and what is said of it; imports nothing else."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys


@functools.cache
def imports(module: str) -> bool:
    """Whether a module of an optional package can be imported; imports it.

    One that was built for other versions may raise anything. That counts as missing, and is said once.

    Args:
        module: Its name, such as `triton` or `mamba_ssm.ops.selective_scan_interface`.
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        note(
            f"package '{package}' is installed but cannot be imported ({reason(error)}); cells run without it: "
            "slower, or with less recorded. Install a build of it for this machine, or uninstall it"
        )
        return False
    return True


@functools.cache
def note(line: str) -> None:
    """Tell the user once in this process of what runs otherwise than it could."""
    print(f"note: {line}", file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """An exception in one line: its type, and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
