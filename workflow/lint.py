"""`snakemake --lint`, less the findings that do not apply here, each with its reason."""

from __future__ import annotations

import re
import subprocess
import sys

ACCEPTED = {
    # Rules run in the environment that Snakemake itself runs in; constraints.txt pins it.
    "Specify a conda environment or container for each rule.",
    # Params would measure every cell again when a study's path is written in another way.
    "Shell command directly uses variable config from outside of the rule",
}
_FINDING = re.compile(r"^Lints for (?P<where>.+):$|^    \* (?P<title>.+?):?$", re.MULTILINE)


def findings(text: str) -> list[tuple[str, str]]:
    """(where, title) of every finding in Snakemake's report."""
    found, where = [], ""
    for match in _FINDING.finditer(text):
        where = match["where"] or where
        if match["title"]:
            found.append((where, match["title"].rstrip(":")))
    return found


def main() -> int:
    """Print what must be corrected and return 1 if there is anything."""
    done = subprocess.run([sys.executable, "-m", "snakemake", "--lint"], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    found = findings(text)
    if done.returncode and not found:
        sys.stderr.write(text)
        return done.returncode
    left = [f"{where}: {title}" for where, title in found if title not in ACCEPTED]
    print("\n".join(left) or "snakemake --lint: nothing to correct")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
