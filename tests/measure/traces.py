"""The synthetic NVML trace and ways to change it: no test of the metering needs a GPU."""

import copy
import json
from pathlib import Path

from harness.measure.device.trace import Player

PATH = Path(__file__).with_name("synthetic_trace.json")
UUIDS = ("GPU-6f0c1a52-0000-4000-8000-000000000000", "GPU-6f0c1a52-0000-4000-8000-000000000001")
OURS = UUIDS[1].removeprefix("GPU-")
HOST_PID = 77001
MIB = 1 << 20


def trace(*, broken=(), answers=None, added=()):
    """The trace with calls that give NVML's error 3, with other answers, or with further calls.

    `answers` maps a function to the list of results that calls about our device get.
    """
    value = json.loads(PATH.read_text())
    calls = []
    replaced = dict(answers or {})
    for call in value["calls"]:
        call = copy.deepcopy(call)
        about_us = call["arguments"][:1] in ([{"handle": 1}], [])
        if call["call"] in broken:
            call.pop("result", None)
            call["error"] = 3
        elif call["call"] in replaced and about_us:
            continue
        calls.append(call)
    for name, results in replaced.items():
        sample = next(c for c in value["calls"] if c["call"] == name and c["arguments"][:1] in ([{"handle": 1}], []))
        calls += [{**sample, "result": result} for result in results]
    return {**value, "calls": [*calls, *added]}


def player(**changes):
    return Player(trace(**changes))
