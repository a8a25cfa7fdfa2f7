"""HTTP/1.1 requests as bytes, and a blocking client for set-up calls.

Load is made of requests that are encoded once and sent many times, so that the client costs far less than the server.
"""

import http.client
import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class ServiceAddress:
    """Host and port of a service."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `http://HOST:PORT`. Raises ValueError for anything else, including https."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"{url!r} is not a service address. Use http://HOST:PORT.")
        return cls(host=parts.hostname, port=parts.port or 80)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class HttpReply:
    """One HTTP response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        """Parse the body. Raises ValueError if it is not JSON."""
        return json.loads(self.body)


def request_bytes(
    address: ServiceAddress,
    path: str,
    body: bytes = b"",
    *,
    method: str = "POST",
    content_type: str | None = "application/json",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Encode a request. Adds content-length unless `headers` has transfer-encoding."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {address.host}:{address.port}"]
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if "transfer-encoding" not in (headers or {}):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def encode_requests(
    address: ServiceAddress, path: str, bodies: Iterable[object], *, constant_headers: bool = False
) -> list[bytes]:
    """Encode one POST per JSON body.

    Each request has its own `x-request-id`, as requests behind a proxy do. `constant_headers` omits it, which is the
    best case for a server that caches parsed headers.
    """
    random = Random(f"request ids {path}")
    requests = []
    for body in bodies:
        headers = {} if constant_headers else {"x-request-id": f"{random.getrandbits(128):032x}"}
        encoded = json.dumps(body, ensure_ascii=False).encode()
        requests.append(request_bytes(address, path, encoded, headers=headers))
    return requests


def fetch(url: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S) -> HttpReply:
    """GET `url`, or POST a JSON `body`, and return the reply, with any status. Raises ConnectionError."""
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        headers = {} if body is None else {"content-type": "application/json"}
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        client.request("GET" if body is None else "POST", target, body, headers)
        response = client.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return HttpReply(status=response.status, headers=names, body=response.read())
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url} does not answer ({error}). Is the service running?") from None
    finally:
        client.close()


def free_port() -> int:
    """Return a local port that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
