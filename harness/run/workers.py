"""How a cell's child process comes to be: freshly started, or forked from a server that has torch already.

Importing torch and the models takes seconds, which for a cell of a few seconds on a GPU is most of its time. A
fork server (`harness.run.fork_server`) imports them once. Imports no torch itself.

Why not multiprocessing's forkserver with `set_forkserver_preload`: it is one server for the whole program, and the
allocator reads its environment when a process starts, so each environment needs a server of its own, which a sweep
also ends between replicates; it runs a pickled function, where a request is a file that a person can run again
(`python -m harness.run.child REQUEST`); and a child of it has no pipe for its output. Here a forked child is used like
a `subprocess.Popen`: its id, its output, its exit status or signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

import msgspec

from harness.errors import UserError

# A server imports torch and all models; a cold file system needs a minute for that.
_START_SECONDS = 300.0


class Child(Protocol):
    """A running child, as `subprocess.Popen` shows one; its lines come from `stdout`."""

    pid: int
    stdout: IO[str] | None

    def wait(self, timeout: float | None = None) -> int:
        """Exit status, negative for a signal; `subprocess.TimeoutExpired` when it still runs."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Workers(Protocol):
    """Starts children."""

    def start(self, request: Path, environment: dict[str, str]) -> Child:
        """Start the child of a request.

        Args:
            request: File with a `harness.run.child.Request`.
            environment: Its whole environment, from the moment its allocator comes up.
        """
        ...

    def processes(self) -> set[int]:
        """Ids of this process's own children that stay when a cell's child has ended."""
        ...


class ForkError(UserError):
    """A fork server did not start, or torch could not be used in its children."""


def command(module: str, *arguments: str, function: str = "main") -> list[str]:
    """The command for a function of a module, which looks for modules where this process does.

    `-m` looks in the folder it is started in first: there may be another checkout of this project.
    """
    places = [place or str(Path.cwd()) for place in sys.path]
    code = f"import sys; sys.path[:] = {places!a}; from {module} import {function}; {function}()"
    return [sys.executable, "-c", code, *arguments]


class Fresh:
    """A new interpreter for every child.

    Args:
        module: What it runs with the request's path.
    """

    def __init__(self, module: str = "harness.run.child") -> None:
        self._module = module

    def start(self, request: Path, environment: dict[str, str]) -> Child:
        """See `Workers`."""
        return _Popen(
            command(self._module, str(request)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def processes(self) -> set[int]:
        """See `Workers`."""
        return set()


class _Popen(subprocess.Popen[str]):
    """One that notices its end at once: Python's own looks every 50 ms, which is a tenth of an empty cell."""

    def wait(self, timeout: float | None = None) -> int:
        """See `subprocess.Popen.wait`."""
        if timeout is None or self.returncode is not None or not hasattr(os, "pidfd_open"):
            return super().wait(timeout)
        try:
            end = os.pidfd_open(self.pid)
        except OSError:
            # An old kernel, or one that allows it to nobody.
            return super().wait(timeout)
        try:
            poll = select.poll()
            poll.register(end, select.POLLIN)
            if not poll.poll(1000 * timeout):
                raise subprocess.TimeoutExpired(self.args, timeout)
        finally:
            os.close(end)
        return super().wait()


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A fork server's first message.

    Attributes:
        seconds: What its imports took.
        unfit: Why its children could not measure; null: they can.
    """

    seconds: float
    unfit: str | None


class ForkServers:
    """One fork server per environment, since an allocator reads its settings when a program starts.

    Servers are started when first needed, and run until `close` or the end of this process, with which the kernel
    ends them; their children end with them. One child at a time.
    """

    def __init__(self) -> None:
        self._servers: dict[frozenset[tuple[str, str]], _Server] = {}
        self._sources: dict[str, int] = {}

    def __enter__(self) -> ForkServers:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self, request: Path, environment: dict[str, str]) -> Child:
        """See `Workers`.

        Raises:
            ForkError: The server did not start, or torch cannot be used in its children.
        """
        # The record's source digest is that of the files as they are now; a server has them as they were.
        sources = _sources()
        if sources != self._sources:
            self.close()
            self._sources = sources
        key = frozenset(environment.items())
        server = self._servers.get(key)
        if server is None or server.process.poll() is not None:
            server = self._servers[key] = _Server(environment)
        return _Forked(server, request)

    def processes(self) -> set[int]:
        """See `Workers`."""
        return {server.process.pid for server in self._servers.values()}

    def close(self) -> None:
        """End all servers; the next child starts a new one, with a memory layout of its own."""
        for server in self._servers.values():
            server.close()
        self._servers.clear()


def _sources() -> dict[str, int]:
    """When each file of this project's packages was last changed."""
    return {
        str(path): path.stat().st_mtime_ns
        for package in ("harness", "models")
        for path in (Path(__file__).resolve().parents[2] / package).rglob("*.py")
    }


def can_fork() -> bool:
    """Whether this platform forks a process that has torch and ends orphans: Linux does."""
    return sys.platform == "linux"


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process started in here begins with interrupts blocked: they wait until it says what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Server:
    def __init__(self, environment: dict[str, str]) -> None:
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, _interrupts_held():
            self.process = subprocess.Popen(
                command("harness.run.fork_server", str(theirs.fileno()), str(os.getpid())),
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # Its own lines, should its imports fail; children get a pipe of theirs.
                stdout=2,
            )
        try:
            if not select.select([self.connection], [], [], _START_SECONDS)[0]:
                raise _unusable(f"was not ready after {_START_SECONDS:g} s")
            message = self.connection.recv(1 << 16)
            if not message:
                raise _unusable(f"ended with status {self.process.wait()} while importing; its lines stand above")
            ready = msgspec.json.decode(message, type=Ready)
            if ready.unfit is not None:
                raise _unusable(f"cannot run cells: {ready.unfit}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the server, and by that any child it still has."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


def _unusable(what: str) -> ForkError:
    return ForkError(
        f"the process that forks cells {what}; legal for --workers: fork, fresh. With `--workers fresh` every cell "
        "starts by itself, some seconds slower"
    )


class _Forked:
    """A child of a fork server, used like a `subprocess.Popen`."""

    def __init__(self, server: _Server, request: Path) -> None:
        self._server = server
        self._code: int | None = None
        read, write = os.pipe()
        self.stdout: IO[str] | None = os.fdopen(read, encoding="utf-8", errors="replace")
        try:
            socket.send_fds(server.connection, [os.fsencode(request)], [write])
            message = server.connection.recv(64)
        except OSError:
            message = b""
        finally:
            os.close(write)
        # A server that was killed has no child; where it was killed just after forking, the kernel ends that too.
        self.pid = int(message) if message else server.process.pid
        if not message:
            self._code = -signal.SIGKILL

    def wait(self, timeout: float | None = None) -> int:
        """See `Child`."""
        if self._code is None:
            if not select.select([self._server.connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked child", timeout or 0.0)
            try:
                message = self._server.connection.recv(64)
            except OSError:
                message = b""
            self._code = int(message) if message else -signal.SIGKILL
        return self._code

    def kill(self) -> None:
        """See `Child`."""
        # The server reaps a child only when it is asked for the next: this id is still that child's.
        with contextlib.suppress(ProcessLookupError):
            if self._code is None:
                os.kill(self.pid, signal.SIGKILL)
