"""/v1/stream served by ``bentoml serve`` with tiny bundles, and the websockets client."""

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from models import self_test
from models.bundle import Bundle
from models.tasks import as_json
from tests.support import bundles
from tests.support.bentoml_server import served
from tests.support.polling import wait_until

APP, KEY = "service.app:Seqserve", "a-secret-key"
WORDS = ["the", "cat", "sat", "on", "zebras", "."] * 10


@pytest.fixture(scope="module")
def address(tiny_live: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("bentoml")
    settings = {"SEQSERVE_BUNDLES": str(tiny_live), "SEQSERVE_STREAM_IDLE_S": "2", "SEQSERVE_BODY_BYTES": "5000"}
    with served(home, service=APP, SEQSERVE_API_KEYS=KEY, **settings) as (found, _, _):
        yield found


@pytest.fixture(scope="module")
def live(tiny_live: Path) -> Bundle:
    return bundles.opened(tiny_live / "tiny-live")


def stream(address: str, key: str = KEY) -> ClientConnection:
    return connect(address.replace("http", "ws") + "/v1/stream", additional_headers={"Authorization": f"Bearer {key}"})


def ask(connection: ClientConnection, **message: Any) -> Any:
    connection.send(json.dumps(message))
    return json.loads(connection.recv(timeout=10))


def active(address: str) -> int:
    lines = httpx.get(f"{address}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("seqserve_active_streams{"))


def test_words_sent_one_by_one_get_the_answers_of_the_whole_sentence(address: str, live: Bundle) -> None:
    whole = as_json(self_test.answer(live, WORDS))
    found: list[Any] = [[] for _ in range(4)]

    def follow(place: int) -> None:
        with stream(address) as connection:
            for word in WORDS:
                found[place] += ask(connection, inputs=word)["entities"]

    threads = [threading.Thread(target=follow, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [whole] * 4


def test_many_messages_before_the_first_answer_are_answered_in_order(address: str, live: Bundle) -> None:
    with stream(address) as connection:
        for word in WORDS:
            connection.send(json.dumps({"inputs": [word]}))
        answers = [json.loads(connection.recv(timeout=10)) for _ in WORDS]
    assert [answer["steps"] for answer in answers] == list(range(1, 1 + len(WORDS)))
    assert [entity for answer in answers for entity in answer["entities"]] == as_json(self_test.answer(live, WORDS))


def test_frames_have_a_stream_too(address: str, tiny_live: Path) -> None:
    with stream(address) as connection:
        assert ask(connection, model="tiny-live-frames")["steps"] == 0
        found = ask(connection, inputs=bundles.FRAMES[0])["entities"]
        found += ask(connection, inputs=bundles.FRAMES[1:])["entities"]
    assert found == as_json(self_test.answer(bundles.opened(tiny_live / "tiny-live-frames"), bundles.FRAMES))


def test_bad_input_is_answered_and_the_stream_goes_on(address: str, live: Bundle) -> None:
    with stream(address) as connection:
        assert ask(connection, inputs="the")["steps"] == 1
        assert ask(connection, inputs=[0.5])["error"]["status"] == 422
        connection.send("no json")
        assert json.loads(connection.recv(timeout=10))["error"]["type"] == "urn:seqserve:error:invalid-request"
        assert ask(connection, inputs=["cat"] * 65)["error"]["status"] == 413
        assert ask(connection, inputs="cat")["entities"] == as_json(self_test.answer(live, ["the", "cat"]))[1:]


def test_the_wrong_key_and_the_wrong_path_are_refused_at_the_handshake(address: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        stream(address, "wrong-key")
    assert caught.value.response.status_code == 401
    assert json.loads(caught.value.response.body or b"")["type"] == "urn:seqserve:error:unauthorized"
    with pytest.raises(InvalidStatus) as caught:
        connect(address.replace("http", "ws") + "/v1/tag")
    assert caught.value.response.status_code == 404


def test_a_message_that_is_too_long_and_a_silence_that_is_too_long_end_a_stream(address: str) -> None:
    with stream(address) as connection:
        connection.send("x" * 6000)
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
    with stream(address) as connection:
        with pytest.raises(ConnectionClosed) as caught:
            connection.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 4408


def test_a_disconnect_closes_the_stream(address: str) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(stream(address)) for _ in range(3)]
        for connection in connections:
            ask(connection, inputs="the")
        assert active(address) == 3
        for connection in connections:
            connection.socket.shutdown(socket.SHUT_RDWR)  # without a close frame
    wait_until(lambda: active(address) == 0)


def test_a_drain_closes_streams_with_1012(tiny_live: Path, tmp_path: Path) -> None:
    with served(tmp_path, service=APP, SEQSERVE_BUNDLES=str(tiny_live)) as (address, process, log):
        with stream(address) as connection:
            ask(connection, inputs="the")
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as caught:
                connection.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        process.wait(20)
        assert "Traceback" not in log.read_text()


def test_several_streams_continue_from_one_state_token(address: str, live: Bundle) -> None:
    whole = as_json(self_test.answer(live, WORDS))
    with stream(address) as connection:
        state = ask(connection, inputs=WORDS[:25], return_state=True)["state"]
    for _ in range(2):
        with stream(address) as connection:
            assert ask(connection, model="tiny-live", state=state, inputs=WORDS[25:])["entities"] == whole[25:]
    with stream(address) as connection:
        assert ask(connection, model="tiny-live", state=state[::-1])["error"]["field"] == "state"


def stuck(address: str) -> socket.socket:
    """Return a client that sends and does not read, until the service stops reading."""
    host, port = address.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((host, int(port)))
    client.sendall(
        b"GET /v1/stream HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    message = json.dumps({"inputs": ["the"] * 60}).encode()
    client.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:
            client.sendall(bytes([0x81, 0x80 | 126]) + len(message).to_bytes(2, "big") + bytes(4) + message)
    return client


def can_stream(address: str) -> bool:
    try:
        with stream(address) as connection:
            return bool(ask(connection, inputs="the")["steps"] == 1)
    except InvalidStatus:
        return False


def test_a_client_that_does_not_read_blocks_no_other_stream(tiny_live: Path, tmp_path: Path) -> None:
    settings = {"SEQSERVE_STREAMS_MAX": "1", "SEQSERVE_WRITE_TIMEOUT_S": "2", "SEQSERVE_BUNDLES": str(tiny_live)}
    with served(tmp_path, service=APP, **settings) as (address, process, _):
        with stuck(address):
            assert not can_stream(address)
            wait_until(lambda: can_stream(address))
        with stuck(address):
            process.send_signal(signal.SIGTERM)
            process.wait(15)
