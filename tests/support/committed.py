"""The analyses of the committed records, each made once a process: several pages and reports are held against them."""

import functools
from pathlib import Path

from harness.analysis.analyse import analyse

REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"


@functools.cache
def analysis_of(name):
    return analyse(REFERENCE / name)
