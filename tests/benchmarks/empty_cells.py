"""What a cell costs that measures nothing, through Snakemake and through a sweep. Run by hand on a quiet machine:

    python tests/benchmarks/empty_cells.py

A copy of the project gets a child process that imports no torch and answers at once that it ran out of memory, which is
a result without numbers. All else is the real thing: study, jobs, supervisor, records. Prints seconds a cell, and for
Snakemake where they go: what `python -m harness` takes to start, to read the study and to write the record, what the
child's imports take, and the rest, which is Snakemake's own. Exit status 1 above 0.5 s a cell through Snakemake, or
0.1 s through a sweep.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness.errors import Parser
from harness.records.environment import ROOT
from harness.study.cells import cells
from harness.study.check import load_study

ALLOWED = {"snakemake": 0.5, "sweep": 0.1}
CHILD = '''

def run(path):
    """Answers without measuring."""
    request = _read(path)
    found = Result(status="oom", detail="an empty cell", fields={"environment": describe(1, {})})
    write_atomic(Path(request.result), encode(found))
'''


def project(folder: Path, count: int) -> Path:
    """A copy of the project whose cells are empty, with a study of so many of them in one replicate."""
    wanted = shutil.ignore_patterns("__pycache__", "reference")
    for name in ("harness", "models", "workflow", "results", "reports", "Snakefile", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(
            source, folder / name, **({"ignore": wanted} if source.is_dir() else {})
        )
    child = folder / "harness" / "run" / "child.py"
    text = child.read_text(encoding="utf-8")
    child.write_text(
        text.replace('\n\nif __name__ == "__main__":', f'{CHILD}\n\nif __name__ == "__main__":'), encoding="utf-8"
    )
    server = folder / "harness" / "run" / "fork_server.py"
    text = server.read_text(encoding="utf-8")
    server.write_text(text.replace("    imports()\n", "").replace("unfit=_unfit()", "unfit=None"), encoding="utf-8")
    speed = {
        "models": ["hyenarec"],
        "sweeps": {"empty": {"lengths": [*range(8, 8 + count)], "batch": 1, "replicates": 1}},
    }
    study = {"name": "empty", "device": "cpu", "threads": 1, "speed": speed, "claims": ["linear-time"]}
    (folder / "empty.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    return folder / "empty.yaml"


def seconds(command: list[str], folder: Path) -> float:
    """Wall-clock time of a command in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - begin
    if done.returncode:
        sys.exit(
            f"error: {' '.join(command[:4])} … ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return elapsed


def main() -> int:
    """Measure both ways and print what came out."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--cells", type=int, default=100, metavar="N")
    count = parser.parse_args().cells
    python, found = [sys.executable, "-m"], {}
    with tempfile.TemporaryDirectory(prefix="empty-cells-") as place:
        folder = Path(place)
        study = project(folder, count)
        paths = [f"results/empty/{cell.path}" for cell in cells(load_study(str(study)))]
        snakemake = [*python, "snakemake", "--cores", "2", "--workflow-profile", "none", "--config", "study=empty.yaml"]
        start = seconds([*snakemake, "--quiet", "all", "--", paths[0]], folder)
        found["snakemake"] = (seconds([*snakemake, "--quiet", "all", "--", *paths], folder) - start) / (count - 1)
        keys = [path.removeprefix("results/empty/speed/").removesuffix(".json") for path in paths[:5]]
        one = [*python, "harness", "speed", "--study", "empty.yaml", "--output", "x.json", "--cell"]
        cell = statistics.median(seconds([*one, key], folder) for key in keys)
        python_start = statistics.median(seconds([*python, "harness", "--version"], folder) for _ in range(5))
        child = statistics.median(seconds([sys.executable, "-c", "import harness.run.child"], folder) for _ in range(5))
        shutil.rmtree(folder / "results" / "empty")
        sweep = [*python, "harness", "sweep", "empty.yaml"]
        found["sweep"] = seconds(sweep, folder) / count
    print(f"{count} empty cells, seconds a cell")
    print(f"snakemake  {found['snakemake']:.3f}   (besides {start:.1f} s to start, with the first cell)")
    print(f"  of it    {cell:.3f} the command: {python_start:.3f} to start it, {child:.3f} the child's imports")
    print(f"           {found['snakemake'] - cell:.3f} Snakemake's own")
    print(f"sweep      {found['sweep']:.3f}   (its start included)")
    return int(any(found[way] > allowed for way, allowed in ALLOWED.items()))


if __name__ == "__main__":
    sys.exit(main())
