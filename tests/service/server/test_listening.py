"""The addresses and the open files that are checked before the workers start."""

import contextlib
import errno
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.server.listening import FILES_BESIDES_CONNECTIONS, CannotListen, address_of, check_addresses, listen
from service.settings import Settings

HAS_IPV6 = True
try:
    listen("::1", 0).close()
except CannotListen:
    HAS_IPV6 = False


@contextlib.contextmanager
def taken(host: str) -> Iterator[int]:
    with listen(host, 0) as found:
        yield found.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_free_address_passes_and_stays_free(host: str) -> None:
    if ":" in host and not HAS_IPV6:
        pytest.skip("this machine has no IPv6")
    with taken(host) as port:
        pass
    for _ in range(2):
        check_addresses(Settings(grpc_host=host, grpc_port=port), None)
        check_addresses(Settings(), (host, port))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_taken_port_an_unknown_host_and_a_foreign_address_are_different_errors(protocol: str) -> None:
    def error(host: str, port: int) -> str:
        settings = Settings(grpc_host=host, grpc_port=port) if protocol == "grpc" else Settings()
        with pytest.raises(CannotListen) as caught:
            check_addresses(settings, (host, port) if protocol == "http" else None)
        message = str(caught.value)
        assert f"{host}:{port}" in message
        assert ("SEQSERVE_GRPC_PORT" in message) == (protocol == "grpc")
        return message.replace(f"{host}:{port}", "")

    with taken("127.0.0.1") as port:
        errors = {error("127.0.0.1", port), error("nosuchhost.invalid", 3000), error("192.0.2.1", 3000)}
    assert len(errors) == 3


def test_missing_permission_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def bind(self, _: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidden)
    with pytest.raises(CannotListen, match="permission"):
        check_addresses(Settings(), ("127.0.0.1", 80))


def test_http_and_grpc_cannot_share_a_port() -> None:
    with taken("127.0.0.1") as port:
        pass
    with pytest.raises(CannotListen, match="SEQSERVE_GRPC_PORT"):
        check_addresses(Settings(grpc_port=port), ("127.0.0.1", port))


def test_a_port_that_other_processes_share_is_taken() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(CannotListen):
            check_addresses(Settings(grpc_port=other.getsockname()[1]), None)


def test_a_name_as_host_is_refused_with_its_address() -> None:
    with pytest.raises(CannotListen, match=r"--host (127\.0\.0\.1|::1)"):
        check_addresses(Settings(), ("localhost", 0))


@pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_a_name_has_an_address(host: str, address: str) -> None:
    assert address_of(host, 3000) == address


def connections(soft: int, hard: int) -> str:
    """Return how many of 4096 connections a worker serves under these limits of open files, or the error."""
    code = (
        "import resource; from service.settings import *; from service.server.listening import *\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "try: print(allow_open_files(Settings()).connections_max)\n"
        "except BadSetting as error: print(error)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_limit_of_open_files_is_raised_or_lowers_the_limit_of_connections() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 5000:
        pytest.skip("the hard limit of open files is low")
    assert connections(256, 5000) == "4096"
    assert connections(256, 1000) == str(1000 - FILES_BESIDES_CONNECTIONS)
    assert all(part in connections(64, 64) for part in ("ulimit -n", "64", "SEQSERVE_CONNECTIONS_MAX=4096"))


@pytest.mark.parametrize("port", [-5, 99_999])
def test_a_port_out_of_range_is_refused_by_its_number(port: int) -> None:
    with pytest.raises(CannotListen, match=str(port)):
        listen("127.0.0.1", port)
