# Which study, and what its rules need to know. All logic is in the harness.
import re
import shlex
import sys
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
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

if unknown_keys := set(config) - {"study"}:
    raise WorkflowError(
        f"--config knows 'study' alone, not {', '.join(sorted(unknown_keys))}"
    )
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
