"""Connections of a running service: floods, refusals of large bodies, the connection limit, and the end."""

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from service.worker import SAME_SIGNAL_S
from tests.support.bentoml_server import served
from tests.support.polling import wait_until

FULL = os.environ.get("SEQSERVE_E2E") == "full"
LIVE = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
SLOW_HANDSHAKE = (
    b"POST / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: 9\r\n\r\na"
)
MB = 1 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Return the address and the process id."""
    settings = {"SEQSERVE_HEADER_TIMEOUT_S": "2", "SEQSERVE_CONNECTIONS_MAX": "50"}
    with served(tmp_path_factory.mktemp("connections"), **settings) as (address, process, _):
        yield address, process.pid


def connect(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def memory_of(pid: int) -> int:
    process = psutil.Process(pid)
    return max(each.memory_info().rss for each in (process, *process.children(recursive=True)))


def pipeline(address: str, count: int) -> int:
    """Send ``count`` requests without waiting, and return how many were answered with 200."""
    with connect(address) as client:
        sender = threading.Thread(target=lambda: [client.sendall(LIVE * 100) for _ in range(count // 100)])
        sender.start()
        answered, tail = 0, b""
        while answered < count:
            data = client.recv(1 << 18)
            assert data, f"closed after {answered} answers"
            answered += (tail + data).count(b"HTTP/1.1 200 ")
            tail = data[-12:]
            answered -= tail.count(b"HTTP/1.1 200 ")
        sender.join()
        return answered


def test_pipelined_requests_are_all_answered_and_keep_no_memory(service: tuple[str, int]) -> None:
    address, pid = service
    pipeline(address, 5_000)
    before = memory_of(pid)
    count = 2_000_000 if FULL else 50_000
    assert pipeline(address, count) == count
    assert memory_of(pid) - before < (50 if FULL else 20) * MB


def test_probes_keep_no_memory(service: tuple[str, int]) -> None:
    address, pid = service
    with connect(address) as client:
        for number in range(200_000 if FULL else 7_000):
            client.sendall(LIVE)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            if number == 5_000:
                before = memory_of(pid)
    assert memory_of(pid) - before < 20 * MB


@pytest.mark.parametrize(("path", "status"), [("/v1/tag", 413), ("/tag", 413), ("/no", 404), ("/v1/models", 405)])
@pytest.mark.parametrize("tries", [5])
def test_a_refusal_of_a_large_body_arrives(service: tuple[str, int], path: str, status: int, tries: int) -> None:
    for _ in range(tries):
        client = http.client.HTTPConnection(service[0].removeprefix("http://"), timeout=20)
        with contextlib.closing(client):
            client.request("POST", path, b" " * (12 * MB), {"content-type": "application/json", "connection": "close"})
            assert client.getresponse().status == status


def test_probes_are_answered_while_strangers_hold_all_connections(service: tuple[str, int]) -> None:
    address, _ = service
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(address)) for _ in range(130)]
        for client in clients:
            client.sendall(SLOW_HANDSHAKE)
        for path in ("/livez", "/readyz"):
            assert httpx.get(address + path).status_code == 200
        for client in clients:
            with contextlib.suppress(ConnectionError):
                while client.recv(1 << 16):
                    pass


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", LIVE[:-2], SLOW_HANDSHAKE.replace(b"POST", b"GET")])
def test_a_connection_without_a_request_ends(service: tuple[str, int], sent: bytes) -> None:
    with connect(service[0]) as client:
        client.sendall(sent)
        started_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while client.recv(1 << 16):
                pass
        assert time.monotonic() - started_s < 10


def test_new_clients_get_503_until_the_end_of_the_shutdown(tmp_path: Path) -> None:
    with served(tmp_path) as (address, process, _), httpx.Client() as client:
        body = b'{"inputs": "!slow 2"}'
        waiting = threading.Thread(target=lambda: client.post(f"{address}/v1/tag", content=body, timeout=20))
        waiting.start()
        started = 'seqserve_batches_released_total{model="pos-en",reason="idle",version="1"} 1.0'
        wait_until(lambda: started in httpx.get(f"{address}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{address}/readyz").status_code == 503)
        answers = []
        while waiting.is_alive():
            try:
                answers.append(httpx.post(f"{address}/v1/tag", content=body, timeout=5))
            except httpx.TransportError:  # the service ended while the connection was in its queue
                waiting.join(1)
                assert not waiting.is_alive()
            waiting.join(0.1)
        assert len(answers) > 2
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.headers["connection"] for answer in answers} == {"close"}
        assert process.wait(10) == 0


def test_in_the_lame_duck_period_requests_are_answered_and_a_second_signal_ends_it(tmp_path: Path) -> None:
    with served(tmp_path, SEQSERVE_LAME_DUCK_S="600") as (address, process, _), httpx.Client() as client:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{address}/readyz", timeout=20).status_code == 503, timeout_s=60)
        stopping_s = time.monotonic()
        for path in ("/v1/tag", "/tag"):
            answer = client.post(address + path, json={"inputs": "a"}, timeout=20)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        wait_until(lambda: time.monotonic() > stopping_s + SAME_SIGNAL_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
