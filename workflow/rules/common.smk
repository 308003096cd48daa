# Which study, and what its rules need to know. All logic is in the harness.
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from harness.environment import source_digest
from harness.errors import UserError
from harness.manifest import manifest_digest
from harness.study import cells, default_study, load_study, resource

# Rules say `python`; it must be this one also when the environment is not activated.
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

config.setdefault("study", default_study())
try:
    STUDY = load_study(config["study"])
    CELLS = {f"results/{STUDY.name}/{cell.path}": cell for cell in cells(STUDY)}
    ORDER = {cell.key: cell.shuffle for cell in CELLS.values()}
    MANIFEST_DIGEST = manifest_digest(STUDY)
except UserError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    study=re.escape(STUDY.name),
    label="[^/]+",
    cell="[^/]+",


ANALYSIS = Path(f"results/{STUDY.name}/analysis.json")

# Snakemake does not make a missing intermediate file while everything after it is there. An
# analysis that counts a record which is gone is out of date by definition, so it goes too.
if workflow.is_main_process and not workflow.dryrun and ANALYSIS.exists():
    if not all(Path(record).exists() for record in CELLS):
        ANALYSIS.unlink()


def shuffled(wildcards):
    """A reproducible shuffled order: ordered runs would confound drift with length."""
    return ORDER.get(f"{wildcards.label}/{wildcards.cell}", 0)


def training_threads(wildcards):
    """Timed cells run alone; a study that is not timed runs them side by side."""
    timed = STUDY.training is None or STUDY.training.timed
    return 1024 if timed else (STUDY.threads or 1)
