"""Mistakes of the user: reported in one line, never with a traceback; exit codes and the parser of every command."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable
from typing import NoReturn

# Exit codes of every command: wrong usage, and a fault of the harness itself.
USAGE, INTERNAL = 64, 70
_LONGEST_MESSAGE = 4000
# Reading records, verdicts and reports do without it.
NO_TORCH = (
    "training and timing need torch, which is not installed; type  pip install 'hyenarec-bench[measure]'  "
    "(in a checkout  pip install -c constraints.txt -e '.[measure]')"
)


class UserError(Exception):
    """A mistake in input or usage. The message names the value, the legal values and the remedy."""


def unknown(what: str, value: str, legal: Iterable[str], remedy: str = "") -> UserError:
    """The error for a name that is not among the legal ones, with the nearest legal name first."""
    names = sorted(legal)
    near = difflib.get_close_matches(value, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    tail = f" {remedy}" if remedy else ""
    return UserError(f"unknown {what} '{value}'.{hint} Legal: {', '.join(names) or 'none'}.{tail}")


def in_one_line(message: object) -> str:
    """A message as one line of a terminal, whatever it repeats of a file from elsewhere.

    Line ends, and what would steer a terminal or turn the direction of its text, become escapes; a long middle is cut.
    """
    text = str(message)
    if len(text) > _LONGEST_MESSAGE:
        half = _LONGEST_MESSAGE // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Parser(argparse.ArgumentParser):
    """argparse's, but wrong usage exits with 64: argparse's own 2 is a verdict's here."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit."""
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USAGE)
