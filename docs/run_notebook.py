"""Run docs/notebook.ipynb and write it with its output; `--check`: compare with what is written, exit 1 if it differs.

Text and tables are compared word for word, figures by their number: their bytes hang on fonts and versions.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("notebook.ipynb")


def run(path: Path = NOTEBOOK) -> Any:
    """The notebook with fresh output, without times and versions that would change with each run.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    # Its paths are relative to its own folder, as when a reader opens it.
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, record_timing=False, resources=resources).execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def shown(notebook: Any) -> list[list[str]]:
    """What each cell shows: its text, or `figure`."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[_shown(output) for output in cell.outputs] for cell in cells]


def _shown(output: Any) -> str:
    if "data" not in output:
        return str(output.get("text", output))
    return "figure" if "image/png" in output.data else str(output.data["text/plain"])


def main() -> int:
    """See the module."""
    fresh = run()
    if "--check" not in sys.argv[1:]:
        nbformat.write(fresh, NOTEBOOK)
        return 0
    stale = shown(fresh) != shown(nbformat.read(NOTEBOOK, as_version=4))
    if stale:
        print(f"{NOTEBOOK.name} shows other output than its code gives now; type: make notebook", file=sys.stderr)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
