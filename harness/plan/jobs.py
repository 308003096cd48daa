"""What each cell of a study asks of a scheduler: cores, memory, time, a GPU, a node of its own.

From the study and from records of any machine, since nobody knows yet on which one a job will run. Nothing is timed,
and no data are prepared: the workflow asks on a login node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.plan.forecast import Forecaster
from harness.records.spec import SpeedSpec
from harness.run.operator.bench import MEASURES
from harness.run.past import folders, known
from harness.run.sweep import Task, tasks
from harness.study.cells import Cell
from harness.study.schema import Study

# By how much a node may be slower than where the records are from, and need more memory.
_SLOWER, _LARGER = 4.0, 1.5
# To start two Snakemakes, Python and torch from a shared file system, and to prepare data.
_START_SECONDS = 600.0
# Snakemake, the supervisor, and the libraries' pages, beside the cell's process.
_BESIDE_BYTES = 2 << 30
# Where nothing is known of a cell; CUDA's own libraries take gigabytes of the host.
_UNKNOWN_BYTES = {"cpu": 6 << 30, "cuda": 14 << 30}


@dataclass(frozen=True)
class Need:
    """What one cell needs.

    Attributes:
        cores: CPU threads; None: all cores of its node.
        gpus: 0 or 1.
        alone: 1 if it is timed, so that nothing may run beside it, else 0.
        seconds: What it will probably take; None: nobody knows.
        longest_seconds: When the harness ends it, by the study.
        peak_bytes: What it will probably allocate; None: nobody knows.
        most_bytes: When the harness ends it, by the study; None: the study sets no limit.
        unknown_bytes: What to ask for without `peak_bytes`.
    """

    cores: int | None
    gpus: int
    alone: int
    seconds: float | None
    longest_seconds: float
    peak_bytes: int | None
    most_bytes: int | None
    unknown_bytes: int

    def minutes(self, attempt: int) -> int:
        """Minutes to ask for: what it should take and four times more, from the second attempt on all that it may take.

        So the harness's own limit, which is a result, comes before the scheduler's, which is none.
        """
        probable = self.longest_seconds if self.seconds is None or attempt > 1 else _SLOWER * self.seconds
        return math.ceil((min(probable, self.longest_seconds) + _START_SECONDS) / 60)

    def mebibytes(self, attempt: int) -> int:
        """Memory to ask for: what it should need and half as much more, twice that at each further attempt.

        Four times at most, and never more than the study allows the cell, which the harness makes a result of before
        the scheduler ends the job.
        """
        probable = float(self.unknown_bytes) if self.peak_bytes is None else _LARGER * self.peak_bytes
        wanted = (1.0, 2.0, 4.0)[min(attempt, 3) - 1] * probable
        return math.ceil((min(wanted, self.most_bytes or wanted) + _BESIDE_BYTES) / 2**20)


def needs(study: Study, folder: Path) -> dict[str, Need]:
    """What the cells of a study need, by the path of their record below the study's folder.

    Args:
        study: The study.
        folder: Its folder of records, the first to be asked what cells took.

    Raises:
        UserError: The device depends on the machine, which for a job is another one than this.
    """
    if study.device == "auto":
        raise UserError(
            f"study '{study.name}' has `device: auto`, which asks the machine that reads it, here and again in each "
            "job; write `device: cpu` or `device: cuda` for a cluster"
        )
    forecaster = Forecaster(study, known(study.device_here(), folders(folder), anywhere=True), records_alone=True)
    return {task.path: _need(task, forecaster) for task in tasks(study)}


def _need(task: Task, forecaster: Forecaster) -> Need:
    found = forecaster.forecast(task)
    if isinstance(task, Cell):
        spec = task.spec
        device, cores, most = spec.device, spec.threads, spec.memory_limit_bytes
        alone = isinstance(spec, SpeedSpec) or spec.timed
        longest = spec.timeout_seconds * (len(spec.measure) if isinstance(spec, SpeedSpec) else 1)
    else:
        device, cores, most, alone = task.settings.device, task.settings.threads, None, True
        # Of a study's bench the settings always say it.
        longest = (task.settings.timeout_seconds or 0.0) * len(MEASURES)
    return Need(
        cores=cores,
        gpus=int(device == "cuda"),
        alone=int(alone),
        seconds=found.seconds,
        longest_seconds=longest,
        # Of a cell on a GPU records tell what it takes there, and not of the host.
        peak_bytes=found.peak_bytes if device == "cpu" else None,
        most_bytes=most,
        unknown_bytes=_UNKNOWN_BYTES[device],
    )
