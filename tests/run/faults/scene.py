"""A project that faults are put into: its commands, its processes, and what must be true of its records afterwards."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import yaml

from harness.analysis.load import load
from harness.records.schema import FAILED_SUFFIX

ROOT = Path(__file__).resolve().parents[3]
# The quickest real cells: a second each, most of it torch.
SPEED = {
    "models": ["gru4rec"],
    "budget_seconds": 0.1,
    "minimum_seconds": 0.01,
    "minimum_steps": 2,
    "catalogue_items": 50,
    "negatives": 4,
    "sweeps": {"constant-tokens": {"lengths": [4, 8], "tokens": 16, "replicates": 1}},
}
TRAINING = {
    "models": ["gru4rec"],
    "datasets": ["mine"],
    "lengths": [8],
    "references": ["popularity"],
    "epochs": 8,
    "patience": 8,
    "timed": False,
}
# A machine that also trains needs many times what an idle one does.
PATIENCE_SECONDS = 1500
_TAG = "HYENAREC_TEST_SCENE"


class Scene:
    """A folder with a study, its data and whatever is measured there.

    Args:
        folder: Where; it must not be there yet.
        speed: The study's speed section, None for none.
        training: The study's training section, None for none.
    """

    def __init__(self, folder: Path, speed=SPEED, training=None) -> None:
        self.folder, self.tag = folder, uuid.uuid4().hex
        self.results = folder / "results" / "tiny"
        for name in ("data", "tmp"):
            (folder / name).mkdir(parents=True)
        events = "".join(f"{user} {item % 9}\n" for user in range(12) for item in range(user, user + 6))
        (folder / "data" / "mine.txt").write_text(events)
        study = {"name": "tiny", "device": "cpu", "threads": 1, "timing_partner": "gru4rec"}
        study["data"] = {"mine": {"format": "pairs", "file": "mine.txt"}}
        study |= {name: part for name, part in (("speed", speed), ("training", training)) if part}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HYENAREC_CACHE": str(folder / "cache"),
            "HYENAREC_DATA": str(folder / "data"),
            "TMPDIR": str(folder / "tmp"),
            "OMP_NUM_THREADS": "1",
            _TAG: self.tag,
        }

    def with_workflow(self):
        """The workflow's files beside the study."""
        for name in ("Snakefile", "workflow", "reports/scaling.typ"):
            target = self.folder / name
            target.parent.mkdir(exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
        return self

    def command(self, *words):
        """A command of the harness; `make` is what `make report` runs."""
        if words == ("make",):
            return [sys.executable, "workflow/run.py", "reports/scaling.pdf", "--config", "study=tiny.yaml"]
        return [sys.executable, "-m", "harness", *words]

    def start(self, *words, deaf=False, environment=None, before=None):
        """Start a command as a terminal does, or `deaf` as a shell does in the background: without Ctrl-C."""

        def prepare():
            signal.signal(signal.SIGINT, signal.SIG_IGN if deaf else signal.SIG_DFL)
            if before is not None:
                before()

        out = (self.folder / f"out-{uuid.uuid4().hex[:8]}.txt").open("w+b")
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,
        )
        process.out = out
        return process

    def end(self, process):
        """Wait for a command; its exit code and all that it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
        still = process.poll() is None
        if still:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        process.out.seek(0)
        said = process.out.read().decode(errors="replace")
        process.out.close()
        assert not still, f"ran for more than {PATIENCE_SECONDS} s: {said[-3000:]}"
        return code, said

    def run(self, *words, **how):
        """Run a command to its end."""
        return self.end(self.start(*words, **how))

    def mine(self):
        """Processes that this scene started, or that those did; ended ones are not counted."""
        found = []
        for process in psutil.process_iter(["pid", "status"]):
            with contextlib.suppress(psutil.Error, OSError):
                if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get(_TAG) == self.tag:
                    found.append(process)
        return found

    def victims(self, kind):
        """Processes of a kind: `child`, `server`, `sweep`, `job`, `snakemake`, `script`."""
        found = []
        for process in self.mine():
            with contextlib.suppress(psutil.Error):
                line, parent = " ".join(process.cmdline()), process.parent()
                forked = parent is not None and "fork_server" in " ".join(parent.cmdline())
                kinds = {
                    "child": "harness.run.child" in line or ("fork_server" in line and forked),
                    "server": "fork_server" in line and not forked,
                    "sweep": "-m harness sweep" in line,
                    "job": "--die-with-parent" in line and line.split()[1:3] == ["-m", "harness"],
                    "snakemake": line.split()[1:3] == ["-m", "snakemake"],
                    "script": "workflow/run.py" in line,
                }
                if kinds[kind]:
                    found.append(process)
        return found

    def records(self):
        """Bytes of every record by its path; of failed attempts none."""
        return {
            path.relative_to(self.results).as_posix(): path.read_bytes()
            for path in self.results.rglob("*.json")
            if path.parent != self.results and not path.name.startswith(".") and not path.name.endswith(FAILED_SUFFIX)
        }

    def gone(self, seconds=30):
        """Wait until no process of this scene runs; their commands if some do."""
        ends = time.monotonic() + seconds
        while (left := self.mine()) and time.monotonic() < ends:
            time.sleep(0.1)
        return [" ".join(process.cmdline())[:200] for process in left if process.is_running()]

    def temporary(self, remove=False):
        """Temporary folders of the harness that are left; what is killed leaves its own."""
        found = list((self.folder / "tmp").glob("harness-*"))
        for path in found if remove else []:
            shutil.rmtree(path)
        return found

    def check_between(self, before, again=0):
        """After a fault: nothing runs, records are whole, and all of before but `again` are what they were."""
        assert self.gone() == []
        now = self.records()
        changed = [path for path in before if now.get(path) != before[path]]
        assert len(changed) <= again, changed
        for path, content in now.items():
            assert json.loads(content)["status"] in {"ok", "oom", "timeout", "diverged"}, path
        return now

    def check_whole(self, before, again=0):
        """After the rerun: as `check_between`, every cell has one good record, and nothing else lies about."""
        self.check_between(before, again)
        found = load(self.results)
        assert {cell.status for cell in found.counted} == {"ok"}, [(c.path, c.status, c.detail) for c in found.counted]
        assert (found.refused, found.failed, found.orphans) == ([], [], [])
        assert len(self.records()) == len(found.counted)
        half = [path.name for path in self.folder.rglob("*.part")]
        assert half == []
        assert not list(self.results.rglob("*.checkpoint"))

    def rerun(self, *words, attempts=1):
        """The same command without a fault finishes."""
        for _ in range(attempts):
            code, said = self.run(*(words or ("sweep", "tiny.yaml")))
            if code == 0:
                break
        assert code == 0, said[-3000:]
        return said

    def remove(self):
        """End what a failed test left, and remove the folder."""
        for process in self.mine():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def moments(seed, longest):
    """Endless random waits in seconds, up to `longest`, the short ones as often as the long ones."""
    draw = random.Random(seed)
    while True:
        yield longest * draw.random() ** 1.5


@contextlib.contextmanager
def mounted(folder, *options):
    """A file system of its own on a folder, for as long as the context lasts; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True)
    try:
        yield folder
    finally:
        # Lazily: a process that is on its way out may still stand in it.
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
