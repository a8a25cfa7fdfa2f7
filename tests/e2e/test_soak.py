"""A mixed soak: every kind of traffic at once, and a service that holds no more memory at its end.

The quick mode runs for seconds and checks answers and leaks. The full mode runs for 15 minutes and also checks memory.
"""

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect

from service.api import inference_pb2 as pb
from tests.support.bentoml_server import free_port
from tests.support.live_service import FULL, LiveService, run_live_service

SOAK_S = 900.0 if FULL else 8.0
SETTLE_S = 180.0  # after which memory may grow by MEMORY_GROWTH
MEMORY_GROWTH = 1.02
SAMPLE_S = 5.0
PAUSE_S = 0.1  # of the clients that do not wait for an answer
ZOO = Path("models/zoo").resolve()
BUNDLES = ("pos-en", "pos-en-live", "sentiment-en", "shakespeare")
SENTENCES = [" ".join(f"word{number % 977}" for number in range(start, start + 1 + start % 23)) for start in range(200)]


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveService, int]]:
    port = free_port()
    folder = tmp_path_factory.mktemp("soak")
    with run_live_service(folder, *(ZOO / name for name in BUNDLES), grpc_port=str(port)) as service:
        yield service, port


class Traffic:
    """Clients that repeat one kind of request until the soak ends. `failures` holds what a client did not expect."""

    def __init__(self, service: LiveService, grpc_port: int) -> None:
        self.url, self.address = service.address.url, (service.address.host, service.address.port)
        self.grpc_port = grpc_port
        self.ends_s = time.monotonic() + SOAK_S
        self.counts: dict[str, int] = {}
        self.slowest_s: dict[str, float] = {}
        self.failures: list[str] = []
        self._numbers = itertools.count()

    def sentence(self) -> str:
        return SENTENCES[next(self._numbers) % len(SENTENCES)]

    async def repeat(self, client: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < self.ends_s:
            started_s, name = time.monotonic(), client.__name__
            await client()
            self.counts[name] = self.counts.get(name, 0) + 1
            self.slowest_s[name] = max(self.slowest_s.get(name, 0.0), time.monotonic() - started_s)

    def expect(self, found: object, expected: object, what: str) -> None:
        if found != expected and len(self.failures) < 20:
            self.failures.append(f"{what}: {found!r} instead of {expected!r}")

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=64)
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits) as self.http,
            grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel,
        ):
            self.infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            )
            clients = (self.words, self.words, self.batches, self.stream, self.websocket, self.grpc_call)
            clients += (self.hang_up, self.health, self.malformed)
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(self.repeat(client))

    async def words(self) -> None:
        text = self.sentence()
        response = await self.http.post("/v1/tag", json={"inputs": text, "model": "pos-en"})
        self.expect([entity["word"] for entity in response.json()], text.split(), "tag")

    async def batches(self) -> None:
        texts = [self.sentence() for _ in range(16)]
        response = await self.http.post("/v1/classify", json={"inputs": texts})
        self.expect(len(response.json()), len(texts), "classify")

    async def stream(self) -> None:
        parameters = {"max_new_tokens": 20, "seed": next(self._numbers)}
        body = {"inputs": "ROMEO:", "parameters": parameters}
        async with self.http.stream("POST", "/v1/generate_stream", json=body) as response:
            events = [line async for line in response.aiter_lines() if line.startswith("data:")]
        self.expect(len(events), 20, "generate_stream")

    async def websocket(self) -> None:
        async with connect(f"{self.url.replace('http', 'ws', 1)}/v1/stream", open_timeout=60) as client:
            for word in self.sentence().split():
                await client.send(json.dumps({"inputs": [word]}))
                answer = json.loads(await client.recv())
                self.expect("error" in answer or "status" in answer, False, "stream")

    async def grpc_call(self) -> None:
        request = pb.ModelInferRequest(model_name="pos-en")
        contents = pb.InferTensorContents(bytes_contents=[self.sentence().encode()])
        request.inputs.add(name="text", datatype="BYTES", shape=[1], contents=contents)
        reply = await self.infer(request, timeout=60)
        self.expect(reply.model_name, "pos-en", "ModelInfer")

    async def hang_up(self) -> None:
        """Disconnect while a text is generated."""
        body = json.dumps({"inputs": "ROMEO:", "parameters": {"max_new_tokens": 2000}}).encode()
        head = f"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(head + body)
        await writer.drain()
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        await asyncio.sleep(PAUSE_S)

    async def health(self) -> None:
        response = await self.http.get("/readyz")
        self.expect(response.status_code, 200, "readyz")
        self.expect((await self.http.get("/metrics")).status_code, 200, "metrics")

    async def malformed(self) -> None:
        response = await self.http.post("/v1/tag", content=b'{"inputs": [[[')
        self.expect(response.status_code, 422, "invalid JSON")
        with socket.create_connection(self.address, 5) as connection:
            connection.sendall(b"GET /nonsense\x00 HTTP/1.1\r\n")
        await asyncio.sleep(PAUSE_S)


async def sample_memory(service: LiveService, ends_s: float) -> list[tuple[float, float]]:
    """Return (seconds since the start, MB) until `ends_s`."""
    started_s, samples = time.monotonic(), []
    while time.monotonic() < ends_s:
        samples.append((time.monotonic() - started_s, service.process.memory_mb()))
        await asyncio.sleep(SAMPLE_S)
    return samples


async def test_mixed_traffic_leaves_nothing_behind(soaked: tuple[LiveService, int]) -> None:
    service, grpc_port = soaked
    start_times = service.start_times()
    traffic = Traffic(service, grpc_port)
    samples, _ = await asyncio.gather(sample_memory(service, traffic.ends_s), traffic.run())
    print(
        {
            "requests": traffic.counts,
            "slowest_s": traffic.slowest_s,
            "memory_mb": [(round(at_s), round(mb, 1)) for at_s, mb in samples[::12]],
        }
    )
    assert traffic.failures == []
    assert all(traffic.counts.values())
    assert len(traffic.counts) == 8
    assert service.start_times() == start_times
    if FULL:
        settled = [mb for at_s, mb in samples if SETTLE_S <= at_s < SETTLE_S + 60]
        last = [mb for at_s, mb in samples if at_s >= SOAK_S - 60]
        assert sum(last) / len(last) < MEMORY_GROWTH * sum(settled) / len(settled)
