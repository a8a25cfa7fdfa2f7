"""Checks before the workers start: the addresses to listen on, and the limit on open files."""

import contextlib
import errno
import ipaddress
import logging
import resource
import socket
from typing import Any

from service.settings import BadSetting, Settings, authority, variable

log = logging.getLogger(__name__)

FILES_BESIDES_CONNECTIONS = 128  # of one worker: libraries, bundles, metrics, logs, and a margin
REASONS = {
    errno.EADDRINUSE: "is in use; stop the other process or choose another port",
    errno.EACCES: "needs more permission: ports below 1024 are reserved for root; choose a port from 1024",
    errno.EPERM: "needs more permission: ports below 1024 are reserved for root; choose a port from 1024",
    errno.EADDRNOTAVAIL: "is not an address of this machine; use 127.0.0.1, ::1, 0.0.0.0, ::, or one of its own",
}


class CannotListen(BadSetting):
    """An address that the service cannot listen on."""


def address_of(host: str, port: int) -> str:
    """Return the address of a host name, IPv4 if it has one, or an address unchanged. Raises CannotListen."""
    return str(_look_up(host, port)[1][0])


def _look_up(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """Return the family and the address of a socket. Raises CannotListen."""
    named = authority(host, port)
    if not 0 <= port < 65_536:
        raise CannotListen(f"{named} cannot be used: {port} is not a port; choose one from 1 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise CannotListen(f"{named} cannot be used: the host {host!r} is unknown; use an IP address") from None
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address, to find out whether it can. Raises CannotListen."""
    named = authority(host, port)
    family, address = _look_up(host, port)
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        reason = REASONS.get(error.errno or 0, f"cannot be used: {error.strerror}; choose another address")
        raise CannotListen(f"{named} {reason}") from None
    return found


def check_addresses(settings: Settings, http: tuple[str, int] | None) -> None:
    """Check the addresses of HTTP and gRPC, before every worker fails on them. Raises CannotListen.

    gRPC's port is shared by the workers with SO_REUSEPORT, so that another service on it could go unnoticed there.
    """
    with contextlib.ExitStack() as sockets:
        if http is not None:
            sockets.enter_context(listen(*http))
            try:
                ipaddress.ip_address(http[0])
            except ValueError:
                address = address_of(*http)
                raise CannotListen(f"--host {http[0]} is a name; write its address: --host {address}") from None
        if settings.grpc_port:
            try:
                sockets.enter_context(listen(settings.grpc_host, settings.grpc_port))
            except CannotListen as error:
                names = f"{variable('grpc_host')} and {variable('grpc_port')}"
                raise CannotListen(f"{error} ({names})") from None


def allow_open_files(settings: Settings) -> Settings:
    """Raise the soft limit of open files to what the connections need, and return the settings that fit the hard one.

    Raises BadSetting if not even the files of an idle worker fit.
    """
    wanted = settings.connections_max + FILES_BESIDES_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return settings
    connections, setting = soft - FILES_BESIDES_CONNECTIONS, f"{variable('connections_max')}={settings.connections_max}"
    if connections < 1:
        raise BadSetting(
            f"ulimit -n is {soft}, and a worker needs {FILES_BESIDES_CONNECTIONS} open files plus its connections;"
            f" raise it: ulimit -n {wanted} (for {setting})"
        )
    return settings.model_copy(update={"connections_max": connections})


def warn_of_few_files(wanted: Settings, allowed: Settings) -> None:
    """Log that the limit of open files has lowered the limit of connections."""
    if allowed.connections_max < wanted.connections_max:
        log.warning(
            "ulimit -n is %d, so a worker serves %d connections instead of %s=%d; raise it: ulimit -n %d",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            allowed.connections_max,
            variable("connections_max"),
            wanted.connections_max,
            wanted.connections_max + FILES_BESIDES_CONNECTIONS,
        )
