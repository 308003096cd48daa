"""The checks of one model in a process of their own, which the model may end: its name and where to write them."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.conformance.checks import Finding, check
from harness.conformance.inventory import cannot_be_imported
from harness.records.schema import encode, write_atomic
from models import registry


def main() -> None:
    """Check the model named on the command line and write the findings."""
    model, result = sys.argv[1:]
    try:
        registry.load(model)
    except (Exception, SystemExit) as error:
        findings = [Finding("imports", passed=False, detail=cannot_be_imported(model, error))]
    else:
        findings = check(model)
    write_atomic(Path(result), encode(findings))
