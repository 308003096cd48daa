"""The checks of one model in a process of their own, which the model may end: its name and where to write them."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.conformance.checks import check
from harness.records.schema import encode, write_atomic


def main() -> None:
    """Check the model named on the command line and write the findings."""
    model, result = sys.argv[1:]
    write_atomic(Path(result), encode(check(model)))
