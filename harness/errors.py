"""Errors that are the user's to mend: reported in one line, never with a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input or usage. The message names the value, the legal values and the remedy."""


def unknown(what: str, value: str, legal: Iterable[str], remedy: str = "") -> UserError:
    """The error for a name that is not among the legal ones, with the nearest legal name first."""
    names = sorted(legal)
    near = difflib.get_close_matches(value, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    tail = f" {remedy}" if remedy else ""
    return UserError(f"unknown {what} '{value}'.{hint} Legal: {', '.join(names) or 'none'}.{tail}")
