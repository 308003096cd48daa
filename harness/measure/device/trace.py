"""A recorder of every NVML call and a player that answers from its file, so that no test needs a GPU.

`python -m harness.measure.device.trace FILE` records what this harness asks of the first GPU; pass a
`Player` wherever the harness takes pynvml to replay it. Format 1, one JSON object:

- `description`: what was recorded, or that the trace was written by hand;
- `constants`: the integers of pynvml that its callers pass, by name;
- `calls`: in order, each with `call`, `arguments`, and either `result` or `error`, NVML's return
  code (3: not supported, 9: driver not loaded, 13: no such function). `at` is the seconds since the
  first call, for readers only.

A handle is `{"handle": n}`, a structure `{"fields": {…}}`; everything else is plain JSON. The player
gives equal calls their answers in order and repeats the last, so a replay may ask more often than the
recording did. A call that is not in the trace is one that the driver does not have.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.errors import USAGE, Parser, UserError
from harness.measure.device import nvml, sampler
from harness.records.schema import write_atomic

FORMAT = 1
FUNCTION_NOT_FOUND = 13
_CONSTANTS = ("NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU", "nvmlMemory_v2")


class Recorder:
    """Stands in for pynvml, passes every call on, and keeps it with its answer.

    Args:
        api: The pynvml module.
        description: What the trace will be of.
    """

    def __init__(self, api: Any, description: str) -> None:
        self._api = api
        self._description = description
        self._calls: list[dict[str, Any]] = []
        self._handles: dict[Any, int] = {}
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._api, name)
        if not name.startswith("nvml") or not callable(value):
            return value

        def passed_on(*arguments: Any) -> Any:
            at = time.monotonic() - self._start
            try:
                result = value(*arguments)
            except self._api.NVMLError as error:
                self._keep(at, name, arguments, {"error": int(error.value)})
                raise
            self._keep(at, name, arguments, {"result": result})
            return result

        return passed_on

    def write(self, path: Path) -> None:
        """Write the trace atomically."""
        constants = {name: getattr(self._api, name) for name in _CONSTANTS if hasattr(self._api, name)}
        value = {"format": FORMAT, "description": self._description, "constants": constants, "calls": self._calls}
        write_atomic(path, json.dumps(value, indent=1).encode() + b"\n")

    def _keep(self, at: float, name: str, arguments: tuple[Any, ...], answer: dict[str, Any]) -> None:
        with self._lock:
            kept = {"at": round(at, 4), "call": name, "arguments": [self._plain(a) for a in arguments]}
            self._calls.append({**kept, **{key: self._plain(value) for key, value in answer.items()}})

    def _plain(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list | tuple):
            return [self._plain(item) for item in value]
        if isinstance(value, ctypes.Structure):
            names = [field[0] for field in value._fields_]
            return {"fields": {name: self._plain(getattr(value, name)) for name in names}}
        if hasattr(value, "__dict__") and not isinstance(value, ctypes._Pointer):
            return {"fields": {name: self._plain(item) for name, item in vars(value).items()}}
        # Each answer wraps the driver's pointer anew; the address tells which device it is.
        key = ctypes.cast(value, ctypes.c_void_p).value if isinstance(value, ctypes._Pointer) else value
        return {"handle": self._handles.setdefault(key, len(self._handles))}


class NVMLError(Exception):
    """What the player raises where the driver gave an error.

    Args:
        value: NVML's return code.
    """

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML return code {value}")
        self.value = value


@dataclass(frozen=True)
class Handle:
    """A device in a trace."""

    number: int


class Player:
    """Stands in for pynvml and answers from a trace.

    Args:
        trace: The trace as JSON.

    Attributes:
        open: How often the library was opened more than it was closed.

    Raises:
        UserError: Another format, or a call without an answer.
    """

    NVMLError = NVMLError

    def __init__(self, trace: dict[str, Any]) -> None:
        if trace.get("format") != FORMAT:
            raise UserError(f"NVML trace of format {trace.get('format')!r}; this harness plays format {FORMAT}")
        self._constants: dict[str, int] = trace["constants"]
        self._answers: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.open = 0
        for number, call in enumerate(trace["calls"]):
            if ("result" in call) == ("error" in call):
                raise UserError(f"NVML trace: call {number} ({call['call']}) needs either 'result' or 'error'")
            self._answers.setdefault(_key(call["call"], call["arguments"]), []).append(call)

    @classmethod
    def read(cls, path: Path) -> Player:
        """The player of a trace file."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def __getattr__(self, name: str) -> Any:
        if name in self._constants:
            return self._constants[name]
        if not name.startswith("nvmlDevice") and not name.startswith("nvmlSystem") and name not in _OPENING:
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, arguments)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> Any:
        key = _key(name, [{"handle": a.number} if isinstance(a, Handle) else a for a in arguments])
        with self._lock:
            waiting = self._answers.get(key)
            if waiting is None:
                raise NVMLError(FUNCTION_NOT_FOUND)
            answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if "error" in answer:
                raise NVMLError(answer["error"])
            self.open += _OPENING.get(name, 0)
        return _played(answer["result"])


_OPENING = {"nvmlInit": 1, "nvmlShutdown": -1}


def _key(name: str, arguments: list[Any]) -> str:
    return json.dumps([name, arguments], sort_keys=True)


def _played(value: Any) -> Any:
    if isinstance(value, list):
        return [_played(item) for item in value]
    if isinstance(value, dict):
        return Handle(value["handle"]) if "handle" in value else SimpleNamespace(**value["fields"])
    return value


def record(path: Path, *, seconds: float, api: Any) -> None:
    """Record what a cell's child asks of the first GPU: survey, state, samples, energy.

    Args:
        path: Where to write the trace.
        seconds: How long to sample.
        api: The pynvml module.

    Raises:
        UserError: There is no driver, or no GPU.
    """
    recorder = Recorder(api, f"recorded over {seconds:g} s")
    with nvml.open_library(recorder) as library:
        if library is None:
            raise UserError("no NVIDIA driver answers here; record on a machine with one")
        library.survey()
        uuid = next(iter(library.uuids()), None)
        device = None if uuid is None else library.device(uuid)
        if device is None:
            raise UserError("the NVIDIA driver knows no GPU here; record on a machine with one")
        with sampler.Sampler(device, "time"):
            device.state(own_pid=0)
            device.energy_millijoules()
            time.sleep(seconds)
            device.energy_millijoules()
    recorder.write(path)


def main() -> None:
    """Record a trace of this machine's first GPU."""
    parser = Parser(prog="python -m harness.measure.device.trace", description=main.__doc__)
    parser.add_argument("file", type=Path, help="where to write the trace (JSON)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to sample (default: 5)")
    arguments = parser.parse_args()
    try:
        record(arguments.file, seconds=arguments.seconds, api=nvml.driver())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
