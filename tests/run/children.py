"""A study of one tiny cell, and what becomes of the processes that measure it."""

import subprocess
import time
from pathlib import Path

import msgspec

from harness.study.cells import cells
from harness.study.schema import Study

SPEED = {
    "models": ["gru4rec"],
    "budget_seconds": 0.5,
    "minimum_seconds": 0.05,
    "minimum_steps": 2,
    "timeout_seconds": 60.0,
    "catalogue_items": 100,
    "negatives": 8,
    "sweeps": {"constant-tokens": {"lengths": [16], "tokens": 64, "replicates": 1}},
}


class Scripted:
    """Starts children that run a command instead of a measurement."""

    def __init__(self, command):
        self.command = command

    def start(self, request, environment):
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*self.command, str(request)], env=environment, text=True, **pipes)

    def processes(self):
        return set()


def study(**changes):
    value = {"name": "tiny", "device": "cpu", "threads": 1, "timing_partner": "gru4rec", "speed": {**SPEED, **changes}}
    return msgspec.convert(value, Study)


def one_cell(study_):
    return next(iter(cells(study_)))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def running(command):
    """Ids of the processes with that command line."""
    words = b"\0".join(word.encode() for word in command) + b"\0"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == words:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
