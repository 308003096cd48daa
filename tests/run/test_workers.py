"""Children forked from a server that has torch: the same records, the same endings as fresh ones."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from children import alive, one_cell, running, study, wait_until

from harness.records.schema import read
from harness.run import workers as workers_module
from harness.run.allocator import clean_environment, settings
from harness.run.supervisor import run_cell
from harness.run.sweep import sweep
from harness.run.watch import OutOfTimeError
from harness.run.workers import ForkError, ForkServers, Fresh, can_fork
from models import registry

pytestmark = pytest.mark.skipif(not can_fork(), reason="forks on Linux only")

ENDLESS = {"budget_seconds": 600.0, "minimum_seconds": 300.0, "timeout_seconds": 600.0}


class Servers(ForkServers):
    """One server for all tests, in whose environment pytest writes the name of each."""

    def start(self, request, environment):
        return super().start(request, {k: v for k, v in environment.items() if k != "PYTEST_CURRENT_TEST"})


@pytest.fixture(scope="module")
def servers():
    with Servers() as found:
        yield found


def process_of(servers):
    (server,) = servers._servers.values()
    return server.process


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def shape(value):
    """Names and types, without numbers."""
    if isinstance(value, dict):
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_a_forked_and_a_fresh_cell_give_records_of_the_same_shape(tmp_path, servers):
    value = study()
    cell = one_cell(value)
    run_cell(value, cell, tmp_path / "warm.json", workers=servers)
    forked = run_cell(value, cell, tmp_path / "forked.json", workers=servers)
    fresh = run_cell(value, cell, tmp_path / "fresh.json", workers=Fresh())
    assert forked.status == fresh.status == "ok"
    # Flags speak of the noise, so they may differ.
    first, second = (msgspec.to_builtins(msgspec.structs.replace(r, flags=[])) for r in (forked, fresh))
    assert shape(first) == shape(second)
    assert forked.environment == fresh.environment
    assert forked.environment.allocator == settings("time")
    assert forked.model == fresh.model
    assert forked.provenance.source_digest == fresh.provenance.source_digest
    assert forked.provenance.import_seconds < fresh.provenance.import_seconds / 3


def test_what_reads_a_cpu_peak_starts_fresh(tmp_path, servers):
    value = study(sweeps={"constant-batch": {"lengths": [16], "batch": 4, "replicates": 1, "measure": ["memory"]}})
    before = dict(servers._servers)
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers)
    assert result.status == "ok"
    assert result.environment.allocator == settings("memory")
    assert result.memory.peak_bytes >= result.memory.tiny_peak_bytes > 0
    assert result.provenance.import_seconds > 0.3
    assert servers._servers == before


def test_a_limit_binds_one_child_only(tmp_path, servers):
    big = study(sweeps={"constant-tokens": {"lengths": [4096], "tokens": 4_194_304, "replicates": 1}})
    big = msgspec.structs.replace(big, memory_limit_bytes=1_500_000_000)
    result = run_cell(big, one_cell(big), tmp_path / "big.json", workers=servers)
    assert result.status == "oom"
    assert "allocate" in result.detail
    value = study()
    assert run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers).status == "ok"


def test_time_limit_and_deadline_end_a_child(tmp_path, servers):
    value = study(**{**ENDLESS, "timeout_seconds": 1.0})
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers)
    assert result.status == "timeout"
    value = study(**ENDLESS)
    begin = time.monotonic()
    with pytest.raises(OutOfTimeError):
        run_cell(value, one_cell(value), tmp_path / "d.json", workers=servers, deadline=begin + 1)
    assert time.monotonic() - begin < 20
    assert not list(tmp_path.glob("d.*"))
    server = process_of(servers).pid
    # What was killed is reaped when the next child is asked for, and not before: its id stays its own.
    assert [alive(pid) for pid in children(server)] == [False]


def test_an_error_keeps_its_traceback_and_its_log(tmp_path, servers):
    value = study()
    cell = one_cell(value)
    model = msgspec.structs.replace(cell.spec.model, options={"no_such_option": 1})
    broken = msgspec.structs.replace(cell, spec=msgspec.structs.replace(cell.spec, model=model))
    result = run_cell(value, broken, tmp_path / "r.json", log=tmp_path / "log", workers=servers)
    assert result.status == "error"
    assert "no_such_option" in result.detail
    assert "Traceback" in (tmp_path / "log").read_text()


def request_of(tmp_path, value):
    """A request as `run_cell` writes it."""
    path = tmp_path / "request.json"
    more = {"result": str(tmp_path / "result.json"), "checkpoint": str(tmp_path / "c"), "memory_limit_bytes": None}
    path.write_bytes(
        msgspec.json.encode(
            {
                "spec": one_cell(value).spec,
                "threads": 1,
                "measure": "time",
                "parent": os.getpid(),
                "started": time.monotonic(),
                **more,
            }
        )
    )
    return path


def test_signals_are_seen_and_a_lost_server_is_replaced(tmp_path, servers):
    environment = {**clean_environment(), **settings("time")}
    child = servers.start(request_of(tmp_path, study(**ENDLESS)), environment)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.2)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM

    child = servers.start(request_of(tmp_path, study(**ENDLESS)), environment)
    lost = process_of(servers)
    lost.kill()
    assert child.wait() == -signal.SIGKILL
    assert wait_until(lambda: not alive(child.pid)), "a child outlived its server"
    value = study()
    assert run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers).status == "ok"
    assert process_of(servers).pid != lost.pid


def test_a_killed_sweep_takes_server_and_child_along(tmp_path):
    driver = tmp_path / "driver.py"
    driver.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\nfrom test_workers import *\n"
        f"sweep(study(**ENDLESS), Path({str(tmp_path / 'results')!r}), workers='fork')\n"
    )
    root = str(Path(workers_module.__file__).parents[2])
    driving = subprocess.Popen([sys.executable, str(driver)], env={**os.environ, "PYTHONPATH": root})

    def grandchildren():
        return [(s, c) for s in children(driving.pid) for c in children(s) if b"fork_server" in command(s)]

    def command(pid):
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return b""

    assert wait_until(lambda: grandchildren() and time.sleep(1) is None and grandchildren())
    server, child = grandchildren()[0]
    driving.send_signal(signal.SIGKILL)
    driving.wait()
    assert wait_until(lambda: not alive(server) and not alive(child)), "an orphan keeps running"
    assert not list((tmp_path / "results").rglob("*-r0-*.json"))


def test_an_interrupt_while_a_server_starts_is_the_sweeps_alone(tmp_path, monkeypatch, capfd):
    command = workers_module.command

    def interrupted(module, *arguments):
        program, option, code, *rest = command(module, *arguments)
        code = f"import os, signal; os.kill(os.getpid(), signal.SIGINT); {code}"
        return [program, option, code, *rest]

    monkeypatch.setattr(workers_module, "command", interrupted)
    with Servers() as servers:
        value = study()
        assert run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers).status == "ok"
        assert "Traceback" not in capfd.readouterr().err
        # Children of it are ended by one.
        child = servers.start(request_of(tmp_path, study(**ENDLESS)), {**clean_environment(), **settings("time")})
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.2)
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(timeout=20) != 0


def test_edited_sources_are_imported_anew(tmp_path, servers, monkeypatch):
    value = study()
    run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers)
    before = process_of(servers).pid
    monkeypatch.setattr(workers_module, "_sources", lambda: {"edited.py": 1})
    run_cell(value, one_cell(value), tmp_path / "r.json", workers=servers)
    assert process_of(servers).pid != before


def test_a_sweep_goes_on_without_a_server_that_cannot_run_cells(tmp_path, monkeypatch, capfd):
    value = study()

    def unfit(self, environment):
        self.connection, self.process = socket.socket(), subprocess.Popen([sys.executable, "-c", ""])
        raise workers_module._unusable("cannot run cells: CUDA runs already")

    monkeypatch.setattr(workers_module._Server, "__init__", unfit)
    done = sweep(value, tmp_path)
    assert len(done.measured) == 1
    assert "CUDA runs already" in capfd.readouterr().err
    assert all(read(tmp_path / c.path).provenance.import_seconds > 0.3 for c in done.measured)
    with pytest.raises(ForkError, match="--workers fresh"):
        sweep(value, tmp_path / "other", workers="fork")


def test_a_server_whose_imports_fail_says_so(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("""raise ImportError("no torch here")""")
    monkeypatch.syspath_prepend(tmp_path)
    with ForkServers() as own, pytest.raises(ForkError, match="while importing"):
        own.start(request_of(tmp_path, study()), clean_environment())


@pytest.mark.parametrize("kind", [Fresh, ForkServers])
def test_a_child_runs_the_code_of_its_parent_beside_packages_that_break_at_import(tmp_path, monkeypatch, capfd, kind):
    """Started where another checkout lies, with broken packages on the path."""
    elsewhere = tmp_path / "elsewhere"
    for package in ("harness", "models"):
        (elsewhere / package).mkdir(parents=True)
        (elsewhere / package / "__init__.py").write_text("raise ImportError('another checkout')")
    monkeypatch.chdir(elsewhere)
    for package in ("flash_attn", "mamba_ssm", "fla", "triton", "pynvml"):
        (tmp_path / f"{package}.py").write_text(f"open({str(tmp_path / package)!r}, 'w')\nraise RuntimeError('old')")
    monkeypatch.syspath_prepend(tmp_path)
    value, workers = msgspec.structs.replace(study(models=["sasrec"]), timing_partner="sasrec"), kind()
    result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=workers)
    if kind is ForkServers:
        workers.close()
    assert result.status == "ok", result.detail
    # Torch imports the last two itself, the others run on GPUs alone.
    assert not {"flash_attn", "mamba_ssm", "fla"} & {path.name for path in tmp_path.iterdir()}
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [line.split("'")[1] for line in said] == ["pynvml", "triton"]
    assert all("RuntimeError: old" in line for line in said)


PLUGIN = """
import atexit, subprocess, time
from models.base import register
from models.gru4rec import GRU4Rec, GRU4RecConfig

@register("plugin", family="recurrent", causal=True, citation="none", config=GRU4RecConfig)
class Plugin(GRU4Rec):
    def __init__(self, config):
        super().__init__(config)
        {}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs a model that also does what a line says."""

    def install(line):
        (tmp_path / "plugin.py").write_text(PLUGIN.format(line))
        info = tmp_path / "plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
        (info / "RECORD").write_text("plugin.py,,\n")
        (info / "entry_points.txt").write_text("[hyenarec_bench.models]\nplugin = plugin:Plugin\n")
        monkeypatch.syspath_prepend(tmp_path)
        registry.entries.cache_clear()
        return study(models=["plugin"])

    yield install
    registry.entries.cache_clear()


@pytest.mark.parametrize("kind", [Fresh, ForkServers])
def test_a_process_that_a_plugin_leaves_is_ended_before_the_next_cell(tmp_path, plugin, kind):
    value, workers = plugin('subprocess.Popen(["sleep", "321"], start_new_session=True)'), kind()
    # Of a server's cells the next one has none of it either.
    for _ in range(2 if kind is ForkServers else 1):
        result = run_cell(value, one_cell(value), tmp_path / "r.json", workers=workers)
        assert result.status == "ok", result.detail
        left = [flag for flag in result.flags if flag.startswith("the model left a process running (sleep 321)")]
        assert len(left) == 1
        assert running(["sleep", "321"]) == []
    if kind is ForkServers:
        workers.close()


@pytest.mark.parametrize("kind", [Fresh, ForkServers])
def test_a_child_ends_with_its_result_and_what_it_said_is_kept(tmp_path, plugin, kind):
    """Not with the taking apart of all that it imported, which may take longer than a short cell, or for ever."""
    value, workers = plugin('print("last words"); atexit.register(time.sleep, 600)'), kind()
    log = tmp_path / "log"
    result = run_cell(value, one_cell(value), tmp_path / "r.json", log=log, workers=workers)
    if kind is ForkServers:
        workers.close()
    assert result.status == "ok", result.detail
    assert "last words" in log.read_text()
