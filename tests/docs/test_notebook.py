"""docs/notebook.ipynb: it runs, and shows what it gives."""

import subprocess
import sys
from pathlib import Path

import nbformat

from harness import plot

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "run_notebook.py"


def test_the_notebook_shows_what_its_code_gives():
    found = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_every_figure_of_the_plot_module_is_in_it():
    cells = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    drawn = [
        name
        for name, found in vars(plot).items()
        if getattr(found, "__module__", "") == "harness.plot" and not name.startswith("_")
    ]
    assert len(drawn) == 4
    assert all(f"harness.plot.{name}(" in code for name in drawn)
