"""`make report`: Snakemake with what a killed earlier run needs.

After a kill -9 Snakemake leaves a lock and half-known outputs behind. The lock is cleared here,
but only when no workflow runs in this folder; incomplete jobs run again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

HERE = Path.cwd()


def running_workflows() -> list[int]:
    """Process ids of Snakemake in this folder."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        is_snakemake = any(Path(part).name == "snakemake" for part in command[:3])
        if is_snakemake and process.info["cwd"] == str(HERE):
            found.append(process.info["pid"])
    return found


def main(arguments: list[str]) -> int:
    """Run Snakemake and return its exit code."""
    snakemake = [sys.executable, "-m", "snakemake"]
    locks = HERE / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        if running := running_workflows():
            print(
                f"error: a workflow runs in this folder (process {running[0]}); wait for it or end it", file=sys.stderr
            )
            return 1
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    command = [*snakemake, *arguments[:1], "--cores", "all", "--keep-going", "--rerun-incomplete", *arguments[1:]]
    begin = time.time()
    code = subprocess.run(command, check=False).returncode
    if code and any(path.stat().st_mtime >= begin for path in Path("results").rglob("*.failed.json")):
        print(
            "Some cells have no result; their *.failed.json beside the records say why, and the next run tries them\n"
            "again. `python -m harness report results/STUDY` builds the document from what is there.",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
