"""A service started for a load test: wait until it is ready, and stop all of it whatever happens.

Knows processes and that a path answers 200 once they are ready; what the command starts is the caller's affair.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtest.wire import Address, fetch

READY_POLL_S = 0.1
# BentoML drains before it leaves; a service that is still there after this is killed.
STOP_TIMEOUT_S = 40.0
KILL_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 25


class ServerError(RuntimeError):
    """The service did not start, or did not become ready. The message ends with the tail of its log."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running service and how to look at its processes."""

    process: psutil.Process
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The process that was started and all its descendants that are alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """CPU seconds that the living processes have used."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextlib.contextmanager
def serving(
    command: str | Sequence[str],
    address: Address,
    *,
    log: Path,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
    ready: str = "/readyz",
    timeout_s: float = 180.0,
) -> Iterator[Server]:
    """Start `command`, wait until the path `ready` answers 200, and stop every process of it on the way out.

    `core` pins it and its children to one core. ServerError when the address is taken already (the load would go to
    somebody else's service), when the command ends, or when it is not ready in `timeout_s`.
    """
    if _listens(address):
        raise ServerError(f"{address.url} is taken already: stop what listens there, or give another --url")
    words = shlex.split(command) if isinstance(command, str) else list(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    pinned = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    with log.open("wb") as output:
        try:
            started = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # its own group: Ctrl-C here must not race with the orderly stop below
                preexec_fn=pinned,
            )
        except OSError as error:
            raise ServerError(f"{words[0]!r} cannot be started: {error.strerror}") from None
    server = Server(process=psutil.Process(started.pid), log=log)
    try:
        _wait_ready(started, f"{address.url}{ready}", log, timeout_s)
        yield server
    finally:
        _stop(started, server)


def _listens(address: Address) -> bool:
    with contextlib.suppress(ConnectionError):
        fetch(f"{address.url}/readyz", timeout_s=2.0)
        return True
    return False


def _wait_ready(started: "subprocess.Popen[bytes]", url: str, log: Path, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        if started.poll() is not None:
            raise ServerError(f"the service ended with {started.returncode} before it was ready:\n{tail(log)}")
        with contextlib.suppress(ConnectionError):
            if fetch(url, timeout_s=2.0).status == 200:
                return
        if time.monotonic() > end:
            raise ServerError(f"{url} was not ready in {timeout_s:g} s:\n{tail(log)}")
        time.sleep(READY_POLL_S)


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (nothing in its log)"


def _stop(started: "subprocess.Popen[bytes]", server: Server) -> None:
    """SIGTERM to the group, then SIGKILL to whoever is left.

    BentoML's supervisor puts its workers into sessions of their own: the group alone would miss them, so the tree is
    written down while its parent still lives.
    """
    family = server.tree()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(STOP_TIMEOUT_S)
    family += [process for process in server.tree() if process not in family]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(KILL_TIMEOUT_S)
    psutil.wait_procs(family, timeout=KILL_TIMEOUT_S)


def workers(address: Address) -> dict[int, float] | None:
    """Start times by pid of the processes on this machine that listen at `address`; None where none is visible.

    The same pids with the same start times before and after a load: no worker has been restarted.
    """
    found: dict[int, float] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == address.port:
                    found[process.pid] = process.create_time()
    return found or None


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that `serving` stops its service."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
