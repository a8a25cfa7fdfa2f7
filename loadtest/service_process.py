"""Start a service for a load test, wait until it is ready, and stop all of its processes."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from loadtest.http_client import ServiceAddress, fetch, free_port

ROOT = Path(__file__).resolve().parent.parent
READY_POLL_S = 0.1
STOP_TIMEOUT_S = 40.0  # BentoML drains first; a service that still runs after this is killed
KILL_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 25
WILDCARDS = ("0.0.0.0", "::")  # addresses of a socket that listens on all interfaces


class ServiceStartError(RuntimeError):
    """The service did not start or did not become ready. The message ends with the tail of its log."""


@dataclass(frozen=True, kw_only=True)
class ServiceProcess:
    """A running service."""

    address: ServiceAddress
    process: psutil.Process

    def tree(self) -> list[psutil.Process]:
        """Return the started process and its living descendants."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """Return the CPU seconds used by the living processes."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory_mb(self) -> float:
        """Return the resident memory of the living processes in MB."""
        return float(sum(process.memory_info().rss for process in self.tree())) / 1e6


@contextlib.contextmanager
def start_service(
    command: str | Sequence[str],
    address: ServiceAddress,
    *,
    log: Path,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    ready: str = "/readyz",
    timeout_s: float = 180.0,
) -> Iterator[ServiceProcess]:
    """Start `command` in `folder`, wait until the path `ready` answers 200, and stop every process at the end.

    `core` pins the service to one core. Raises ServiceStartError if the address is in use, if the command ends, or if
    the service is not ready within `timeout_s`.
    """
    if _answers(address):
        raise ServiceStartError(f"{address.url} is in use. Stop the server there, or pass another --url.")
    words = shlex.split(command) if isinstance(command, str) else list(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    with log.open("wb") as output:
        try:
            started = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C must not reach the service before the orderly stop below
                preexec_fn=pin,
            )
        except OSError as error:
            raise ServiceStartError(f"{words[0]!r} cannot be started: {error.strerror}") from None
    service = ServiceProcess(address=address, process=psutil.Process(started.pid))
    try:
        _wait_until_ready(started, f"{address.url}{ready}", log, timeout_s)
        yield service
    finally:
        _stop(started, service)


@contextlib.contextmanager
def start_seqserve(
    folder: Path, name: str, settings: Mapping[str, str], *, tree: Path | None = None, core: int | None = None
) -> Iterator[ServiceProcess]:
    """Start this service, or that of another `tree`, on a free port. Settings are named without their prefix.

    `folder` gets the log and BentoML's home, both named `name`.
    """
    address = ServiceAddress(host="127.0.0.1", port=free_port())
    python = sys.executable if tree is None else str(tree / ".venv/bin/python")
    command = [python, "-m", "bentoml", "serve", "service.app:Seqserve"]
    environment = {f"SEQSERVE_{setting.upper()}": value for setting, value in settings.items()}
    with start_service(
        [*command, "--host", address.host, "--port", str(address.port)],
        address,
        log=folder / f"{name}.log",
        core=core,
        environment={**environment, "BENTOML_HOME": os.path.abspath(folder / "bentoml" / name)},
        folder=tree or ROOT,
    ) as service:
        yield service


def find_service(address: ServiceAddress) -> ServiceProcess | None:
    """Return the service that listens at an address of this machine, or None if its processes cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        own = {each.address for interface in psutil.net_if_addrs().values() for each in interface}
        wanted = {each[4][0] for each in socket.getaddrinfo(address.host, address.port)} & own
        pids = {
            each.pid
            for each in psutil.net_connections("tcp")
            if each.status == psutil.CONN_LISTEN
            and each.laddr.port == address.port
            and wanted
            and each.laddr.ip in {*wanted, *WILDCARDS}
        }
        processes = [psutil.Process(pid) for pid in pids if pid is not None]
        if processes:  # the supervising process is older than the workers, which share its socket
            return ServiceProcess(address=address, process=min(processes, key=lambda process: process.create_time()))
    return None


def _answers(address: ServiceAddress) -> bool:
    with contextlib.suppress(ConnectionError):
        fetch(f"{address.url}/readyz", timeout_s=2.0)
        return True
    return False


def _wait_until_ready(started: "subprocess.Popen[bytes]", url: str, log: Path, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while True:
        if started.poll() is not None:
            raise ServiceStartError(f"the service ended with {started.returncode} before it was ready:\n{tail(log)}")
        with contextlib.suppress(ConnectionError):
            if fetch(url, timeout_s=2.0).status == 200:
                return
        if time.monotonic() > end:
            raise ServiceStartError(f"{url} was not ready after {timeout_s:g} s:\n{tail(log)}")
        time.sleep(READY_POLL_S)


def tail(log: Path) -> str:
    """Return the last lines of a log, indented."""
    lines = log.read_text("utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (the log is empty)"


def _stop(started: "subprocess.Popen[bytes]", service: ServiceProcess) -> None:
    """Send SIGTERM to the group, wait, then kill what is left.

    BentoML's supervisor starts its workers in sessions of their own, so signals to the group alone miss them. The tree
    is therefore recorded while the parent is alive.
    """
    family = service.tree()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(STOP_TIMEOUT_S)
    family += [process for process in service.tree() if process not in family]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(KILL_TIMEOUT_S)
    psutil.wait_procs(family, timeout=KILL_TIMEOUT_S)


def end_on_signals() -> None:
    """Exit through `finally` on SIGTERM and SIGHUP, as Ctrl-C does, so that a started service is stopped."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
