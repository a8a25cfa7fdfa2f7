"""Seeded fuzzers for the four protocols. Each returns what it found; a test asserts that it is nothing.

A fuzzer sends mutated traffic to a running service and, between mutations, known good requests with a unique text. It
reports every server error, every answer that belongs to another request, and every valid request without its answer.
"""

import asyncio
import contextlib
import json
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools

TIMEOUT_S = 20.0
WORDS = ("Harry", "met", "Hermione", "in", "London", ".", "they", "can", "fish", "42")
# A 503 is an answer to a client that opened too many connections, a 504 to one that asked for a short deadline.
ALLOWED_SERVER_ERRORS = frozenset((503, 504))


@dataclass
class Findings:
    """What a fuzzer saw. `faults` is empty if the service behaved."""

    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count(self, status: int, sent: bytes | str) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status >= 500 and status not in ALLOWED_SERVER_ERRORS:
            self.faults.append(f"status {status} for {sent[:300]!r}")


class Responses:
    """Parses the responses on one connection."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.found: list[tuple[int, dict[str, str], bytes]] = []
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_status_code(), self._headers, self._body))


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 9)))


def tag_request(body: bytes, headers: str = "", *, path: str = "/v1/tag", method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_responses(connection: socket.socket, responses: Responses, expected: int) -> None:
    """Read until `expected` responses have come, or the server closes the connection."""
    while len(responses.found) < expected:
        try:
            data = connection.recv(65_536)
        except ConnectionResetError:
            return
        if not data:
            return
        responses.parser.feed_data(data)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with one to four random changes: bytes replaced, cut out, repeated or inserted."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not result:
            break
        at = rng.randrange(len(result))
        match rng.randrange(5):
            case 0:
                result[at] = rng.randrange(256)
            case 1:
                del result[at : at + rng.randint(1, 8)]
            case 2:
                result[at:at] = result[at : at + rng.randint(1, 16)]
            case 3:
                result[at:at] = rng.choice((b"\r\n", b"\0", b":", b" ", b"\xff", b"Transfer-Encoding: chunked\r\n"))
            case 4:
                result[at:at] = rng.choice((b"Host: evil\r\n", b"Upgrade: h2c\r\n", b"Content-Length: 5\r\n", b"%00"))
    return bytes(result)


def check_valid_request(address: tuple[str, int], rng: random.Random, findings: Findings) -> None:
    """Send one valid request with a fresh text and compare the words of its answer."""
    tokens = sentence(rng).split()
    findings.sent += 1
    with socket.create_connection(address, TIMEOUT_S) as connection:
        connection.sendall(tag_request(json.dumps({"inputs": [tokens]}).encode()))
        responses = Responses()
        with contextlib.suppress(TimeoutError):
            read_responses(connection, responses, 1)
    if not responses.found:
        findings.faults.append(f"no answer to a valid request of {tokens}")
        return
    status, _, answer = responses.found[0]
    findings.count(status, repr(tokens))
    if status == 200 and [entity["word"] for entity in json.loads(answer)[0]] != tokens:
        findings.faults.append(f"the answer to {tokens} is {answer[:200]!r}")


def fuzz_http(address: tuple[str, int], *, seed: int, count: int) -> Findings:
    """Send `count` mutated HTTP/1.1 requests, split at random places, alone or pipelined after a valid one."""
    rng, findings = random.Random(seed), Findings()
    for number in range(count):
        tokens = sentence(rng).split()
        valid = tag_request(json.dumps({"inputs": [tokens]}).encode())
        path = rng.choice(
            ("/v1/tag", "/tag", "/v1/models", "/v2/health/live", "/livez", "/v1/generate_stream", "/nope")
        )
        data = mutated(rng, tag_request(b'{"inputs": "a b"}', path=path))
        pipelined = rng.random() < 0.3
        findings.sent += 1
        responses = Responses()
        with socket.create_connection(address, TIMEOUT_S) as connection:
            try:
                sent = valid + data if pipelined else data
                for piece in pieces(rng, sent):
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the service has refused the request and closed the connection
            try:
                read_responses(connection, responses, 3)
            except TimeoutError:
                findings.faults.append(f"the connection stayed open after {sent[:300]!r}")
            except httptools.HttpParserError as error:
                findings.faults.append(f"the answer to {sent[:300]!r} is not HTTP: {error}")
        for status, _, _ in responses.found:
            findings.count(status, data)
        if pipelined and (not responses.found or responses.found[0][0] != 200):
            findings.faults.append(f"a valid request lost its answer to what followed: {data[:300]!r}")
        elif pipelined and [entity["word"] for entity in json.loads(responses.found[0][2])[0]] != tokens:
            findings.faults.append(f"a valid request got the answer of another: {responses.found[0][2][:200]!r}")
        if number % 50 == 49:
            check_valid_request(address, rng, findings)
    return findings


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """Cut `data` at up to three random places."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if end > start:
            yield data[start:end]


def random_json(rng: random.Random, depth: int = 0) -> Any:
    """Return a random JSON value whose objects use the names of real fields."""
    kind = rng.randrange(9 if depth < 4 else 6)
    match kind:
        case 0:
            return None
        case 1:
            return rng.choice((True, False))
        case 2:
            return rng.choice((0, -1, 1, 2**31, 2**63, 2**200, 1e308, -0.0, 1e-320, 7))
        case 3 | 4:
            return rng.choice(("", "a", "Harry met", "\x00", "\ud800", "\U0001f49b", "x" * 5000, "ROMEO:"))
        case 5:
            return rng.choice(([], {}, [[]], [[], []], [""], [[""]]))
        case 6 | 7:
            return [random_json(rng, depth + 1) for _ in range(rng.randrange(5))]
        case _:
            names = ("inputs", "model", "parameters", "top_k", "stop", "prompt", "input", "max_tokens", "id", "name")
            return {rng.choice(names): random_json(rng, depth + 1) for _ in range(rng.randrange(5))}


JSON_ROUTES = (
    *("/v1/tag", "/v1/classify", "/v1/generate", "/v1/generate_stream", "/tag", "/classify", "/generate"),
    *("/v1/completions", "/v1/embeddings", "/v2/models/pos-en/infer"),
)
FIELDS = ("inputs", "model", "parameters", "prompt", "input", "stream", "outputs", "id", "max_tokens", "n", "seed")


def fuzz_json(address: tuple[str, int], *, seed: int, count: int) -> Findings:
    """Send `count` random JSON bodies to the JSON routes over one connection that is opened again when it closes."""
    rng, findings = random.Random(seed), Findings()
    connection = socket.create_connection(address, TIMEOUT_S)
    for number in range(count):
        body: Any = {rng.choice(FIELDS): random_json(rng) for _ in range(rng.randint(1, 4))}
        if rng.random() < 0.1:
            body = random_json(rng)
        data = json.dumps(body).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            data = mutated(rng, data)
        responses = Responses()
        request = tag_request(data, "X-Request-Timeout-S: 5\r\n", path=rng.choice(JSON_ROUTES))
        connection.sendall(request)
        with contextlib.suppress(TimeoutError):
            read_responses(connection, responses, 1)
        findings.sent += 1
        if not responses.found:
            findings.faults.append(f"no answer to {data[:300]!r}")
            connection.close()
            connection = socket.create_connection(address, TIMEOUT_S)
        for status, _, _ in responses.found:
            findings.count(status, request)
        if number % 50 == 49:
            check_valid_request(address, rng, findings)
    connection.close()
    return findings


def frame(rng: random.Random, payload: bytes) -> bytes:
    """Return a WebSocket frame (RFC 6455, 5.2) that is masked, with random flags and opcode one time in three."""
    first = 0x81 if rng.random() < 0.67 else rng.randrange(256)
    if len(payload) < 126:
        head = bytes((first, 0x80 | len(payload)))
    else:
        head = bytes((first, 0x80 | 126)) + len(payload).to_bytes(2, "big")
    mask = rng.randbytes(4)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


HANDSHAKE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def open_websocket(address: tuple[str, int], handshake: bytes, frames: bytes) -> tuple[bytes, bool]:
    """Return the answer to a handshake, and whether the connection ended after the frames."""
    answer = b""
    with socket.create_connection(address, TIMEOUT_S) as connection:
        try:
            connection.sendall(handshake)
            answer = connection.recv(65_536)
            if answer.startswith(b"HTTP/1.1 101"):
                connection.sendall(frames)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
        except TimeoutError:
            return answer, False
        except OSError:
            pass  # the service has closed the connection
    return answer, True


def fuzz_websocket(address: tuple[str, int], *, seed: int, count: int) -> Findings:
    """Open `count` WebSockets with handshakes and frames that are mutated one time in two."""
    rng, findings = random.Random(seed), Findings()
    for number in range(count):
        findings.sent += 1
        good_handshake = rng.random() < 0.7
        data = HANDSHAKE if good_handshake else mutated(rng, HANDSHAKE)
        messages = [json.dumps({rng.choice(FIELDS): random_json(rng)}).encode()[:60_000] for _ in range(3)]
        frames = b"".join(frame(rng, message) for message in messages)
        if rng.random() < 0.5:
            frames = mutated(rng, frames)
        answer, ended = open_websocket(address, data, frames)
        if good_handshake and not ended:
            findings.faults.append(f"a WebSocket stayed open after its end of input: {frames[:200]!r}")
        status = answer.split(b" ", 2)[1:2]
        if status and status[0].isdigit():
            findings.count(int(status[0]), data)
        elif good_handshake:
            findings.faults.append(f"a valid handshake got {answer[:100]!r}")
        if number % 50 == 49:
            check_valid_request(address, rng, findings)
    return findings


async def fuzz_grpc(target: str, valid: bytes, *, seed: int, count: int, is_valid: Callable[[bytes], bool]) -> Findings:
    """Call ModelInfer `count` times with mutations of the request `valid`, whose own reply `is_valid` checks."""
    import grpc

    rng, findings = random.Random(seed), Findings()
    async with grpc.aio.insecure_channel(target) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(count):
            data = mutated(rng, valid)
            findings.sent += 1
            try:
                await infer(data, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE):
                    findings.faults.append(f"{error.code().name} for {data[:200]!r}: {error.details()}")
            if number % 20 == 19 and not is_valid(await infer(valid, timeout=TIMEOUT_S)):
                findings.faults.append(f"the valid request got another answer after {data[:200]!r}")
            if number % 100 == 99:
                await asyncio.sleep(0)
    return findings
