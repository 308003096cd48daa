"""`snakemake --lint`, less the one finding that does not apply here.

It asks every rule for a conda environment or a container. The rules run in the environment that
Snakemake itself runs in, which pyproject.toml and constraints.txt pin.
"""

from __future__ import annotations

import json
import subprocess
import sys

ACCEPTED = {"Specify a conda environment or container for each rule."}


def main() -> int:
    """Print the findings and return 1 if there are any."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "json"], capture_output=True, text=True, check=False
    )
    if not done.stdout.lstrip().startswith("{"):
        sys.stderr.write(done.stdout + done.stderr)
        return done.returncode or 1
    report = json.loads(done.stdout)
    findings = [
        f"{where or 'Snakefile'}: {lint['title']}: {lint['body']}"
        for part in ("rules", "snakefiles")
        for entry in report.get(part, [])
        for where, lint in (
            (entry.get("name") or entry.get("path") or entry.get("for", {}).get("name"), x) for x in entry["lints"]
        )
        if lint["title"] not in ACCEPTED
    ]
    print("\n".join(findings) or "snakemake --lint: nothing to mend")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
