"""The workflow's files in a folder of a test's own."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def lay_out(folder):
    """Copy what Snakemake needs of this checkout."""
    for name in ("Snakefile", "workflow", "reports/scaling.typ"):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    return folder
