"""Which host names are answered."""

import socket

import pytest

from service.api.request_headers import RequestHeaders
from service.errors import HostNotAllowed
from service.server.hosts import KNOWN_MAX, AllowedHosts
from tests.support.http_connection import Wire

BROWSERS: list[list[tuple[bytes, bytes]]] = [
    [(b"origin", b"http://evil.example")],
    [(b"sec-fetch-site", b"same-origin")],
    [(b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0")],
]


def is_allowed(
    host: str, *names: str, local: str = "127.0.0.1", fields: list[tuple[bytes, bytes]] | None = None
) -> bool:
    headers = RequestHeaders.of([(b"host", host.encode()), *(fields or [])])
    return not isinstance(AllowedHosts(names).check(headers, local=local), HostNotAllowed)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost:3000", "LOCALHOST.", "127.0.0.1:3000", "127.0.0.1", "[::1]:3000", "[::1]"),
        *("10.1.2.3", "192.168.0.7:3000", "seqserve", "seqserve:3000", "app.localhost", "host.docker.internal"),
        *("seqserve.default.svc.cluster.local", "seqserve.default.svc", socket.gethostname()),
    ],
)
@pytest.mark.parametrize("local", ["127.0.0.1", "172.17.0.2"])
def test_names_that_no_attacker_controls_are_allowed(host: str, local: str) -> None:
    assert is_allowed(host, local=local, fields=BROWSERS[0])


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_other_names_are_refused_on_loopback_and_to_browsers(host: str) -> None:
    assert not is_allowed(host)
    assert not is_allowed(host, local="::1")
    assert is_allowed(host, local="172.17.0.2")
    for fields in BROWSERS:
        assert not is_allowed(host, local="172.17.0.2", fields=fields)


@pytest.mark.parametrize("name", ["nlp.example.org", "NLP.example.org.", "*.example.org", "*"])
def test_the_setting_adds_names(name: str) -> None:
    assert is_allowed("nlp.example.org:443", name, fields=BROWSERS[0])
    assert is_allowed("nlp.example.com", name) == (name == "*")


def test_a_pattern_does_not_match_its_own_domain() -> None:
    assert not is_allowed("example.org", "*.example.org")
    assert not is_allowed("evilexample.org", "*.example.org")


def test_the_names_that_are_remembered_are_bounded() -> None:
    hosts = AllowedHosts(())
    for number in range(2 * KNOWN_MAX):
        assert hosts.check(RequestHeaders([(b"host", b"h%d" % number)]), local="") is None
    assert len(hosts.known) == KNOWN_MAX


async def test_a_refused_name_gets_a_problem_with_the_name() -> None:
    wire = Wire()
    wire.connect(local="127.0.0.1")
    wire.send(b"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n")
    assert wire.transport.written.startswith(b"HTTP/1.1 400 ")
    assert b'"value":"evil.example"' in wire.transport.written
    assert b"urn:seqserve:error:host-not-allowed" in wire.transport.written
