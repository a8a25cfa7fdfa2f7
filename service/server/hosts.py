"""Validation of the Host header, against DNS rebinding.

A page can make its own host name point to the address of this service (DNS rebinding). The browser then lets the page
read answers, because to the browser they come from the page's own host. Only the Host header reveals this: it names the
page's host. An attacker controls public names only, so these are always allowed: addresses, names without a dot, and
reserved suffixes.

Other names are refused where an attack is possible: on connections to a loopback address, and to any browser. Other
clients may use any name for a service that listens on the network.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from service.api.request_headers import RequestHeaders
from service.errors import HostNotAllowed, Malformed, ServiceError, shown

VALID_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(:[0-9]{0,5})?").fullmatch
PRIVATE_SUFFIXES = (".localhost", ".internal", ".cluster.local", ".svc")  # no public name ends like this
KNOWN_MAX = 256
BROWSER_HEADERS = (b"origin", b"sec-fetch-site")


class AllowedHosts:
    """The host names of one service. ``known`` holds values of Host that are allowed everywhere."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower().rstrip(".") for name in (*names, socket.gethostname())}
        self.known: set[bytes | None] = set()

    def check(self, headers: RequestHeaders, *, local: str) -> ServiceError | None:
        """Return the error for a request whose Host is malformed or not allowed. ``local``: our address."""
        host = headers[b"host"]
        match = VALID_HOST(host)
        if match is None:
            return Malformed("the Host field is malformed; send a host name or an address, and a port if it is not 80")
        name = match[1].decode().lower().rstrip(".")
        if self._is_allowed(name):
            if len(self.known) < KNOWN_MAX:
                self.known.add(host)
            return None
        if not _is_loopback(local) and not _is_browser(headers):
            return None
        return HostNotAllowed(
            f"the service is not called {shown(name)}; add the name to SEQSERVE_ALLOWED_HOSTS", value=name
        )

    def _is_allowed(self, name: str) -> bool:
        if "*" in self._names or name in self._names or "." not in name or name.endswith(PRIVATE_SUFFIXES):
            return True
        return _is_address(name) or any(name.endswith(each[1:]) for each in self._names if each.startswith("*."))


def _is_browser(headers: RequestHeaders) -> bool:
    """Return whether a request may come from a page. Browsers send no Origin with a GET to the page's own host."""
    agent = headers.get(b"user-agent", b"")
    return agent.startswith(b"Mozilla/") or any(name in headers for name in BROWSER_HEADERS)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # a Unix socket has no address
        return False
