"""How connections wait and end: offers to upgrade, pipelines, refusals before the body, clients that stop sending."""

import tracemalloc

import pytest

from service.server.connection_limits import PROBE_CONNECTIONS
from service.server.http_protocol import EOF_GRACE_S, LINGER_BYTES, HttpProtocol
from tests.support.http_connection import TAGGED, Clocked, Transport, Wire, read, request
from tests.support.polling import eventually, turns

LIVE = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n"
PATHS = pytest.mark.parametrize("path", ["/v1/tag", "/tag"])  # the fast path, and uvicorn's way
CHUNKED = (
    b'POST %b HTTP/1.1\r\nhost: test\r\n%btransfer-encoding: chunked\r\n\r\n7\r\n{"input\r\n8\r\ns": "a"}\r\n0\r\n\r\n'
)


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@PATHS
@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.0, h2c", "anything/2"])
@pytest.mark.parametrize("size", [1, 50, 10_000])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_offer_to_upgrade_changes_nothing(path: str, offer: str, size: int, is_chunked: bool) -> None:
    wire = Wire()
    heads = [f"Upgrade: {offer}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"]
    data = request({"inputs": "a"}, *heads, path=path)
    if is_chunked:
        data = CHUNKED % (path.encode(), "".join(f"{head}\r\n" for head in heads).encode())
    for piece in in_pieces(data + data + request({"inputs": "a"}), size):
        wire.send(piece)
    assert await wire.answers(3) == [(200, TAGGED)] * 3
    assert not wire.transport.ended


async def test_a_handshake_with_a_body_is_an_ordinary_request() -> None:
    wire = Wire()
    wire.send(
        b"POST /no HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 1\r\n\r\na"
    )
    assert [status for status, _ in await wire.answers(1)] == [404]


async def test_a_handshake_behind_a_request_waits_for_its_answer() -> None:
    wire = Wire()
    handshake = (
        b"GET /v1/stream HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    wire.send(request({"inputs": "!wait"}) + handshake)
    await turns()
    assert wire.transport.written == b""
    wire.engine.proceed.set()
    await eventually(lambda: b"HTTP/1.1 101 " in wire.transport.written)
    assert wire.transport.written.startswith(b"HTTP/1.1 200 ")


async def test_requests_in_hand_are_bounded_and_all_are_answered_in_order() -> None:
    wire = Wire(settings={"body_bytes": 1 << 20})
    wire.send(request({"inputs": "!wait"}))
    wire.send(LIVE * 3000 + request({"inputs": "b"}))
    await turns()
    assert 0 < len(wire.protocol.pipeline) < 64
    assert wire.transport.paused
    wire.engine.proceed.set()
    await eventually(lambda: wire.transport.written.count(b"HTTP/1.1 200 ") == 3002, timeout_s=30)
    assert [len(part) > 400 for part in (wire.transport.written[:500], wire.transport.written[-500:])]
    assert b'"!wait"' in wire.transport.written[:500]
    assert b'"b"' in wire.transport.written[-200:]
    assert not wire.transport.paused


async def test_a_pipeline_keeps_no_memory() -> None:
    wire = Wire()
    used = []
    tracemalloc.start()
    try:
        for count in range(1, 5):
            wire.send(LIVE * 2000)
            await eventually(lambda count=count: wire.state.total_requests >= 2000 * count, timeout_s=30)  # type: ignore[misc]
            wire.transport.written = b""
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert used[3] - used[1] < 100_000


async def test_nothing_is_parsed_while_the_client_does_not_read() -> None:
    wire = Wire()
    wire.protocol.pause_writing()
    wire.send(LIVE * 100)
    await turns()
    assert wire.transport.paused
    assert len(wire.protocol.pipeline) < 64
    wire.protocol.resume_writing()
    await eventually(lambda: wire.transport.written.count(b"HTTP/1.1 200 ") == 100)


@pytest.mark.parametrize(
    "behind", [b"GET / HT", b"\x00\x01", b"POST /v1/tag HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n{"]
)
@pytest.mark.parametrize("count", [1, 300])
async def test_what_follows_takes_no_answer_away(behind: bytes, count: int) -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(LIVE * count + behind)
    wire.protocol.eof_received()
    await eventually(lambda: wire.transport.written.count(b"HTTP/1.1 200 ") == count)


@PATHS
async def test_a_client_that_has_stopped_sending_gets_its_answers(path: str) -> None:
    wire = Clocked()
    wire.send(request({"inputs": "!wait"}, path=path) + request({"inputs": "b"}, path=path))
    await eventually(lambda: len(wire.engine.calls) == 1)
    assert wire.protocol.eof_received() is True
    wire.engine.proceed.set()
    assert [status for status, _ in await wire.answers(2)] == [200, 200]
    await eventually(lambda: wire.transport.closed)


async def test_a_client_that_has_disconnected_is_noticed_soon() -> None:
    wire = Clocked()
    wire.send(request({"inputs": "!wait"}))
    wire.protocol.eof_received()
    wire.after(EOF_GRACE_S / 2)
    assert not wire.transport.aborted
    wire.after(EOF_GRACE_S)
    assert wire.transport.aborted


async def test_a_body_that_ends_early_is_rejected() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"})[:-1])
    assert not wire.protocol.eof_received()
    assert wire.transport.written.startswith(b"HTTP/1.1 400 ")


@PATHS
@pytest.mark.parametrize("body", [b"x\r\n", b"5\r\nabc", b"-1\r\n", b"5;" + b"a" * 20 + b"\x00\r\n", b"1\r\nab\r\n"])
async def test_a_broken_chunked_body_gets_400(path: str, body: bytes) -> None:
    wire = Wire()
    wire.send(b"POST %b HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode() + body)
    await turns()
    if not wire.transport.written:
        wire.protocol.eof_received()
    await eventually(lambda: wire.transport.ended)
    assert wire.transport.written.startswith(b"HTTP/1.1 400 ")
    assert wire.transport.written.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("head", ["connection: close", "connection: keep-alive"])
@pytest.mark.parametrize(("path", "status"), [("/v1/tag", 413), ("/tag", 413), ("/nowhere", 404), ("/v1/models", 405)])
async def test_a_refusal_reaches_a_client_that_is_still_sending(path: str, status: int, head: str) -> None:
    wire = Clocked(header_timeout_s=5)
    data = request(b" " * 1_000_000, head, path=path)
    wire.send(data[:300])
    wire.after(0)
    assert [found for found, _ in await wire.answers(1)] == [status]
    for piece in in_pieces(data[300:], 65_536):
        assert (wire.transport.closed, wire.transport.paused) == (False, False)
        wire.send(piece)
    assert wire.transport.ended == (head == "connection: close")
    if wire.transport.ended:
        wire.after(6)
        assert wire.transport.aborted
    else:
        wire.send(request({"inputs": "a"}))
        assert (await wire.answers(2))[1] == (200, TAGGED)


@PATHS
async def test_a_body_that_stops_arriving_times_out(path: str) -> None:
    wire = Clocked(header_timeout_s=5)
    data = request({"inputs": "a" * 50}, path=path)
    wire.send(data[:-40])
    for at in range(-40, -30):
        wire.send(data[at : at + 1])
        wire.after(2)
        await turns()
    assert wire.transport.written == b""
    wire.after(4)
    await eventually(lambda: wire.transport.ended)
    assert wire.transport.written.startswith(b"HTTP/1.1 408 ")


async def test_a_refusal_instead_of_100_continue_ends_the_connection() -> None:
    wire = Wire()
    wire.send(request({"inputs": "a"}, "expect: 100-continue", path="/v1/models").partition(b"{")[0])
    assert [status for status, _ in await wire.answers(1)] == [405]
    assert b"connection: close\r\n" in wire.transport.written
    await eventually(lambda: wire.transport.ended)


async def test_discarding_has_a_bound() -> None:
    wire = Clocked()
    wire.send(b"POST /nowhere HTTP/1.1\r\nhost: test\r\ncontent-length: 1%b\r\n\r\n" % (b"0" * 12))
    await wire.answers(1)
    piece = b" " * (1 << 20)
    for _ in range(LINGER_BYTES // len(piece)):
        wire.send(piece)
    assert not wire.transport.aborted
    wire.send(piece)
    assert wire.transport.aborted


async def test_a_refused_head_is_followed_by_reading() -> None:
    wire = Clocked(header_timeout_s=5)
    wire.send(b"\x00\x01\x02\r\n\r\n")
    assert (wire.transport.ended, wire.transport.closed) == (True, False)
    wire.send(b"more")
    wire.protocol.eof_received()
    wire.after(6)
    assert wire.transport.aborted


def connect(wire: Wire) -> tuple[HttpProtocol, Transport]:
    protocol, transport = HttpProtocol(config=wire.config, server_state=wire.state, app_state={}), Transport()
    protocol.connection_made(transport)
    return protocol, transport


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/readyz", 200), ("/v1/models", 503), ("/v1/stream", 503)]
)
async def test_only_probes_are_answered_over_the_connection_limit(path: str, status: int) -> None:
    wire = Wire(settings={"connections_max": 1})
    protocol, transport = connect(wire)
    protocol.data_received(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
    await eventually(lambda: transport.ended)
    assert transport.written.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close\r\n" in transport.written


async def test_idle_connections_over_the_limit_do_not_keep_probes_out() -> None:
    wire = Wire(settings={"connections_max": 1})
    idle = [connect(wire) for _ in range(PROBE_CONNECTIONS + 10)]
    protocol, transport = connect(wire)
    protocol.data_received(LIVE)
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    assert [each.aborted for _, each in idle] == [True] * 11 + [False] * (PROBE_CONNECTIONS - 1)


@pytest.mark.parametrize("is_draining", [False, True])
@pytest.mark.parametrize("path", ["/v1/tag", "/tag", "/v1/nothing"])
async def test_after_the_signal_every_answer_closes_its_connection(path: str, is_draining: bool) -> None:
    wire = Wire()
    wire.worker.stopping = True
    if is_draining:
        wire.worker.refuse_requests()
    wire.send(request({"inputs": "a"}, path=path))
    await eventually(lambda: wire.transport.ended)
    assert b"connection: close\r\n" in wire.transport.written
    status = 404 if path == "/v1/nothing" else 503 if is_draining else 200
    assert [found for found, _ in read(wire.transport.written)] == [status]


async def test_probes_are_answered_while_draining() -> None:
    wire = Wire()
    wire.worker.refuse_requests()
    wire.send(LIVE)
    assert wire.transport.written.startswith(b"HTTP/1.1 200 ")
    wire.connect()
    wire.send(LIVE.replace(b"livez", b"readyz"))
    assert [status for status, _ in read(wire.transport.written)] == [503]
    assert b"retry-after: 1\r\n" in wire.transport.written


HEAD = "GET {} HTTP/1.1\r\n{}\r\n"


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/livez", "", 400),
        ("/livez", "host: a\r\nhost: a\r\n", 400),
        ("/livez", "host: a\r\nHOST: b\r\n", 400),
        ("/livez", "host: a b\r\n", 400),
        ("/livez", "host: a,b\r\n", 400),
        ("/livez", "host: \r\n", 400),
        ("/livez", "host: a/b\r\n", 400),
        ("/livez", "host: [::1\r\n", 400),
        ("/livez", "host: [::1]:3000\r\n", 200),
        ("http://test/livez", "host: test\r\n", 200),
        ("http://test:3000/livez", "host: other\r\n", 200),
        ("HTTP://test/v2/health/live", "host: test\r\n", 200),
        ("http://test/livez", "host: a\r\nhost: a\r\n", 400),
        ("http://test/livez", "", 400),
        ("http://user@test/livez", "host: test\r\n", 400),
        ("http://test", "host: test\r\n", 200),
        ("http://test?a=b", "host: test\r\n", 200),
        ("test:80", "host: test\r\n", 400),
    ],
)
async def test_a_request_has_one_valid_host(target: str, fields: str, status: int) -> None:
    wire = Wire()
    wire.send(HEAD.format(target, fields).encode())
    await eventually(lambda: b"\r\n\r\n" in wire.transport.written)
    assert wire.transport.written.split()[1] == b"%d" % status
    assert wire.transport.ended == (status == 400)


async def test_http_1_0_needs_no_host() -> None:
    wire = Wire()
    wire.send(b"GET /livez HTTP/1.0\r\n\r\n")
    await eventually(lambda: b"HTTP/1.1 200 " in wire.transport.written)


async def test_connect_is_refused() -> None:
    wire = Wire()
    wire.send(b"CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n")
    assert wire.transport.written.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("count", [2, 40])
async def test_requests_behind_the_last_answer_are_not_handled(count: int) -> None:
    wire = Wire()
    wire.worker.refuse_requests()
    wire.send(request({"inputs": "a"}) * count)
    assert not wire.is_busy
    await turns()
    assert [status for status, _ in read(wire.transport.written)] == [503]
