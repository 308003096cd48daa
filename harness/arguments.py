"""The parser of every command: wrong usage ends with exit status 64, in one line after the usage."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from harness.run.process import USAGE


class Parser(argparse.ArgumentParser):
    """argparse's, whose own status for wrong usage, 2, is a verdict's here."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit."""
        self.print_usage(sys.stderr)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(USAGE)
