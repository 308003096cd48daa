"""Where a sweep measures side by side: GPUs and sets of cores, as a user names them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.study.schema import Study

VISIBLE = "CUDA_VISIBLE_DEVICES"
_MOST = 1 << 16
_CORES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True)
class Place:
    """Where cells of a sweep are measured.

    Attributes:
        gpu: Name of the one GPU that is visible there, as `CUDA_VISIBLE_DEVICES` takes it; None: those of the sweep.
        cores: Cores that may be used there; None: those of the sweep.
    """

    gpu: str | None = None
    cores: tuple[int, ...] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What its process sees otherwise than the sweep."""
        return {} if self.gpu is None else {VISIBLE: self.gpu}

    @property
    def words(self) -> str:
        """`GPU 0, cores 0,1`."""
        cores = None if self.cores is None else f"cores {','.join(map(str, self.cores))}"
        return ", ".join(part for part in (self.gpu and f"GPU {self.gpu}", cores) if part) or "this machine"


def places(study: Study, gpus: str | None, cpu_sets: Sequence[str]) -> list[Place]:
    """The places that a user names.

    Args:
        study: What is to be measured there.
        gpus: `all`, or numbers such as `0,1`, counted among those that this process may use.
        cpu_sets: Sets of cores such as `0-3` or `0,2,8-9`; with `gpus`, one for each of them.

    Raises:
        UserError: There is no such GPU or core, two places share one, a set has fewer cores than a cell has threads, or
            the study measures on another device.
    """
    chosen: list[str | None] = [*_gpus(study, gpus)] if gpus is not None else []
    sets: list[tuple[int, ...] | None] = [_cores(text) for text in cpu_sets]
    named = [core for cores in sets for core in cores or ()]
    if twice := sorted({core for core in named if named.count(core) > 1}):
        raise UserError(
            f"--cpu-sets: core {twice[0]} is in two sets; each core may be in one, such as  --cpu-sets 0-3 4-7"
        )
    if chosen and sets and len(chosen) != len(sets):
        raise UserError(f"--gpus names {len(chosen)} GPUs and --cpu-sets {len(sets)} sets; give each GPU one set")
    threads = study.threads or 1
    for cores, text in zip(sets, cpu_sets, strict=True):
        if cores is not None and len(cores) < threads:
            raise UserError(
                f"--cpu-sets: '{text}' has {len(cores)} core(s), and a cell of the study '{study.name}' has {threads} "
                f"threads; give every set {threads} cores or more, or write a lower `threads:` in the study"
            )
    count = max(len(chosen), len(sets))
    chosen, sets = chosen or [None] * count, sets or [None] * count
    return [Place(gpu, cores) for gpu, cores in zip(chosen, sets, strict=True)]


def _gpus(study: Study, text: str) -> list[str]:
    if study.device_here() != "cuda":
        raise UserError(
            f"--gpus: the study '{study.name}' measures on the CPU here; leave it out, or name sets of cores "
            "(--cpu-sets 0-3 4-7)"
        )
    there = os.environ.get(VISIBLE)
    # CUDA counts what it sees from 0, whatever the numbers of the device files are.
    nodes = sum(1 for _ in Path("/dev").glob("nvidia[0-9]*"))
    named = [str(number) for number in range(nodes)] if there is None else [name.strip() for name in there.split(",")]
    names = [name for name in named if name]
    if not names:
        raise UserError(f"--gpus: no GPU is visible here ({VISIBLE} is {there!r}); leave it out")
    if text == "all":
        return names
    wanted = text.split(",")
    if bad := [one for one in wanted if not one.isdecimal() or int(one) >= len(names)]:
        raise UserError(
            f"--gpus: there is no GPU '{bad[0]}'; legal: all, or numbers from 0 to {len(names) - 1}, such as 0,1"
        )
    if len(set(map(int, wanted))) < len(wanted):
        raise UserError(f"--gpus: '{text}' names a GPU twice; name each once")
    return [names[int(one)] for one in wanted]


def _cores(text: str) -> tuple[int, ...]:
    if not _CORES.fullmatch(text):
        raise UserError(
            f"--cpu-sets: '{text}' is not a set of cores; legal: such as 0-3, or 0,2,8-9 (name the study before them)"
        )
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        # No further than there can be cores, whatever is typed.
        found.update(range(int(first), min(int(last or first), int(first) + _MOST) + 1))
    usable = os.sched_getaffinity(0)
    if beyond := sorted(found - usable):
        raise UserError(f"--cpu-sets: core {beyond[0]} of '{text}' may not be used here; legal: {_listed(usable)}")
    if not found:
        raise UserError(f"--cpu-sets: '{text}' holds no core; write the lower number first, such as 0-3")
    return tuple(sorted(found))


def _listed(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
