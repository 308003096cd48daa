"""A Slurm of one node on this machine: slurmctld, slurmd and munged of Debian's `slurm-wlm` and `munge`, in one folder.

python tests/workflow/slurm_cluster.py start FOLDER     # prints what to export; needs root
python tests/workflow/slurm_cluster.py stop FOLDER

Everything lies in the folder, also the key and the configuration, so a Slurm that the machine has is not touched. More
cores are declared than the machine may have, so that jobs can overlap. A job over its memory is killed, by polling.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd")
PACKAGES = "apt-get install slurm-wlm munge"
NODE = socket.gethostname().partition(".")[0]
CORES, MEBIBYTES = 8, 64_000
_PATIENCE_SECONDS = 60.0

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# A polled job is killed when its processes together are above what it asked for.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
# The node has what is declared below, whatever the machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
MinJobAge=3600
KillWait=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName={node} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={mebibytes} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    if missing := [name for name in PROGRAMS if _find(name) is None]:
        return f"no {', '.join(missing)} here: {PACKAGES}"
    return None if os.geteuid() == 0 else "only root can start a Slurm"


def environment(folder: Path) -> dict[str, str]:
    """What a user of the Slurm in a folder has in the environment."""
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"], "/usr/sbin"])
    return {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}


def start(folder: Path) -> None:
    """Start a Slurm in an empty folder and wait until its node is idle.

    Raises:
        RuntimeError: It does not come up.
    """
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    # munged asks that others can write nowhere above its files, and that its key is its own.
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    controller, daemon = _free_ports(2)
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(
            node=NODE, folder=folder, controller=controller, daemon=daemon, cores=CORES, mebibytes=MEBIBYTES
        )
    )
    # Snakemake's job step clears SLURM_… from the environment of `srun`, which reads /etc/slurm then.
    (folder / "bin" / "srun").write_text(
        f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(folder / "slurm.conf"))} exec {shutil.which("srun")} "$@"\n'
    )
    (folder / "bin" / "srun").chmod(0o755)
    own = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    _run("munged", f"--socket={folder}/munge.socket", *own)
    for name in ("slurmctld", "slurmd"):
        _run(name, "-f", str(folder / "slurm.conf"))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (state := call(folder, "sinfo", "--noheader", "--format=%T", check=False)) != "idle":
        if time.monotonic() > deadline:
            logs = "\n".join((folder / f"{name}.log").read_text() for name in ("slurmctld", "slurmd"))
            stop(folder)
            raise RuntimeError(f"the node is '{state}', not idle:\n{logs}")
        time.sleep(0.2)


def stop(folder: Path) -> None:
    """End the daemons of a folder, and all that runs in their jobs."""
    with contextlib.suppress(subprocess.SubprocessError):
        call(folder, "scancel", "--user=root")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while call(folder, "squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.2)
    found = []
    for name in ("slurmd.pid", "slurmctld.pid", "munge.pid"):
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            found.append(psutil.Process(int((folder / name).read_text())))
    # What a job started may outlive it: without control groups Slurm knows a job's processes by their parents alone.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            known = process.environ()
            of_a_job = "SLURM_JOB_ID" in known and known.get("SLURM_CONF") == str(folder / "slurm.conf")
            # A job's own daemon outlives slurmd; it is told by the folder that it works in.
            if of_a_job or (process.name() == "slurmstepd" and Path(process.cwd()).is_relative_to(folder)):
                found.append(process)
    for process in found:
        _end(process)


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for signal in (process.terminate, process.kill):
            signal()
            deadline = time.monotonic() + 10.0
            while time.monotonic() < deadline:
                # One that nobody has asked how it ended is there all the same.
                if process.status() == psutil.STATUS_ZOMBIE:
                    return
                time.sleep(0.1)


def call(folder: Path, *command: str, check: bool = True, timeout: float = 30.0) -> str:
    """What a command of Slurm prints."""
    where = {**os.environ, **environment(folder)}
    done = subprocess.run(command, env=where, capture_output=True, text=True, check=check, timeout=timeout)
    return done.stdout.strip()


def _find(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


def _run(name: str, *arguments: str) -> None:
    found = _find(name)
    assert found is not None
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with status {done.returncode}: {done.stderr}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    action, place = sys.argv[1], Path(sys.argv[2]).resolve()
    if action == "start":
        if reason := lacking():
            sys.exit(reason)
        start(place)
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment(place).items()))
    else:
        stop(place)
