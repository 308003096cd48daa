# Which study, and what its rules need to know. All logic is in the harness.
import re
import shlex
import sys
from functools import cache
from datetime import datetime, timezone
from pathlib import Path

from snakemake.exceptions import WorkflowError

from harness.errors import UserError
from harness.records.environment import ROOT
from harness.study.manifest import manifest_digest
from harness.records.source_digest import source_digest
from harness.study.cells import cells
from harness.study.find import default_study, resource
from harness.study.check import load_study
from models.registry import RegistryError

# Rules say `python`; it must be this one also when the environment is not activated.
prefix = f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
if workflow.remote_exec:
    # In a job of a scheduler, which each time is told the attempt: the harness must not try again what failed by itself.
    attempt = int(sys.argv[sys.argv.index("--attempt") + 1])
    prefix += f"export HYENAREC_ATTEMPT={attempt}; "
shell.prefix(prefix)

if unknown_keys := set(config) - {"study"}:
    raise WorkflowError(
        f"--config knows 'study' alone, not {', '.join(sorted(unknown_keys))}"
    )
NAMED = "study" in config
config.setdefault("study", default_study())
try:
    STUDY = load_study(config["study"])
    CELLS = {f"results/{STUDY.name}/{cell.path}": cell for cell in cells(STUDY)}
    ORDER = {cell.key: cell.shuffle for cell in CELLS.values()}
    MANIFEST_DIGEST = manifest_digest(STUDY)
except (UserError, RegistryError) as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    study=re.escape(STUDY.name),
    label="[^/]+",
    cell="[^/]+",


ANALYSIS = Path(f"results/{STUDY.name}/analysis.json")
GAPS = Path(f"results/{STUDY.name}/gaps.log")
OPERATOR = [f"results/{STUDY.name}/operator.json"] if STUDY.operator else []

# Snakemake does not make a missing intermediate file again while everything after it is there, so
# a deleted record would never be measured again. Each gap under a finished analysis is noted in a
# file that the analysis reads: a new line there makes it run, and its missing records with it.
if workflow.is_main_process:
    gaps = [
        path
        for path in [*CELLS, *OPERATOR]
        if ANALYSIS.exists() and not Path(path).exists()
    ]
    if gaps or not GAPS.exists():
        GAPS.parent.mkdir(parents=True, exist_ok=True)
        with GAPS.open("a") as log:
            log.writelines(
                f"{datetime.now(timezone.utc):%FT%TZ} {path}\n" for path in gaps
            )


def shuffled(wildcards):
    """A reproducible shuffled order: ordered runs would confound drift with length."""
    return ORDER.get(f"{wildcards.label}/{wildcards.cell}", 0)


def training_threads(wildcards):
    """Timed cells run alone; a study that is not timed runs them side by side."""
    timed = STUDY.training is None or STUDY.training.timed
    return 1024 if timed else (STUDY.threads or 1)


@cache
def needs():
    """What each cell asks of a scheduler; see `harness.plan.jobs`."""
    from harness.plan import jobs

    if not NAMED:
        raise WorkflowError(
            "which study is the default depends on the machine: name one for a cluster, such as --config study=cpu"
        )
    try:
        return jobs.needs(STUDY, Path("results") / STUDY.name)
    except (UserError, RegistryError) as error:
        raise WorkflowError(str(error)) from None


def asked(path):
    """What a rule's jobs ask of a scheduler; one machine is asked for nothing, there `threads` alone decides.

    Args:
        path: Of the record below the study's folder, with the rule's wildcards.
    """

    def need(wildcards):
        """Of the cell; None on one machine, and inside a job, which takes what the job was given."""
        if workflow.non_local_exec and not workflow.remote_exec:
            return needs()[path.format(**wildcards)]

    def cpus_per_task(wildcards):
        # Fewer than one asks for none: a job alone on its node then has all cores, and a step all of its job.
        if workflow.non_local_exec:
            return getattr(need(wildcards), "cores", None) or -1

    def gpu(wildcards):
        return getattr(need(wildcards), "gpus", None) or None

    def alone(wildcards):
        return getattr(need(wildcards), "alone", None)

    def slurm_extra(wildcards):
        return "--exclusive" if alone(wildcards) else None

    # Snakemake takes no None of these two.
    def mem_mb(wildcards, attempt):
        found = need(wildcards)
        return found.mebibytes(attempt) if found else 0

    def runtime(wildcards, attempt):
        found = need(wildcards)
        return found.minutes(attempt) if found else 0

    functions = (cpus_per_task, gpu, alone, slurm_extra, mem_mb, runtime)
    return {function.__name__: function for function in functions}
