# Which study, and what its rules need to know. All logic is in the harness.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from harness.environment import source_digest
from harness.errors import UserError
from harness.study import cells, default_study, load_study, manifest_digest, resource

# Rules say `python`; it must be this one also when the environment is not activated.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

config.setdefault("study", default_study())
try:
    STUDY = load_study(config["study"])
    CELLS = {f"results/{STUDY.name}/{cell.path}": cell for cell in cells(STUDY)}
    MANIFEST_DIGEST = manifest_digest(STUDY)
except UserError as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    study=re.escape(STUDY.name),
    label="[^/]+",
    cell="[^/]+",


def shuffled(wildcards, output):
    """A reproducible shuffled order: ordered runs would confound drift with length."""
    return CELLS[str(output)].shuffle if str(output) in CELLS else 0


def training_threads(wildcards):
    """Timed cells run alone; a study that is not timed runs them side by side."""
    timed = STUDY.training is None or STUDY.training.timed
    return 1024 if timed else (STUDY.threads or 1)
