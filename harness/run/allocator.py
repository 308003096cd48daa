"""Settings of allocator and threads while measuring; `python -m harness.run.allocator COMMAND` gives them to one.

A process reads them when it starts, so they can only be given to a new one.
"""

from __future__ import annotations

import os
import sys

# glibc hands large freed blocks back to the system, and a model with large temporaries then times
# page faults. Timing children keep their blocks; the memory pass must not, to read a true peak.
# Older versions of glibc ignore a threshold above 32 MiB (mallopt(3)); that no block is mapped by itself, they
# all obey. Where the heap cannot grow, malloc still falls back to a mapping.
KEEP_BLOCKS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
}
RETURN_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": "65536"}

# Threads of libgomp that wait for work look for it some 300,000 times before they sleep, and hold a core that another
# program could use: beside one busy loop on two cores a SASRec step took 3.8 times as long, and takes 2.3 times so.
# Alone there is no difference (30 and 31 ms); that they sleep at once (OMP_WAIT_POLICY=PASSIVE) costs a fifth.
WAITING = {"GOMP_SPINCOUNT": "1000"}


def settings(measure: str) -> dict[str, str]:
    """Environment variables for a pass: `memory` returns its blocks, all others keep them."""
    return WAITING | (RETURN_BLOCKS if measure == "memory" else KEEP_BLOCKS)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would silently change a measurement."""
    # Allocator settings and thread counts of the caller would silently become part of the
    # experiment; the harness sets its own.
    dropped = ("MALLOC_", "OMP_", "MKL_NUM_", "OPENBLAS_NUM_", "GOMP_", "KMP_")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)}


if __name__ == "__main__":
    os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, **settings("time")})
