"""A mixed soak: every kind of traffic at once while versions change, and a service that holds no more at its end.

The quick mode runs for seconds, and checks answers and leaks. The full mode runs for 35 minutes and also checks the
memory of each process. Its rate is low, so that it can run next to other work.
"""

import asyncio
import itertools
import json
import socket
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect

from loadtest.load_loops import run_loop
from service.api import inference_pb2 as pb
from tests.support.bentoml_server import free_port
from tests.support.live_service import FULL, ROOT, LiveService, ServiceResources, run_live_service
from tests.support.polling import Pauses
from tests.support.repositories import copy_version, set_serving
from tests.support.slow_clients import VisitTiming, slow_clients, visit_plan

WARM_UP_S, SOAK_S = (300.0, 1800.0) if FULL else (4.0, 8.0)
SWAP_S = 20.0 if FULL else 1.0  # between two changes of the version of one model
RETIRE_S = 5.0 if FULL else 0.0
SAMPLE_S = 2.0
MEMORY_GROWTH = 1.02  # of the means over WINDOW_S at the begin and at the end of the soak
BUNDLES = ("pos-en", "pos-en-live", "sentiment-en", "shakespeare", "de-en")
WINDOW_S = 2 * SWAP_S * len(BUNDLES)  # in which each model has both versions
SLOW_CLIENTS = 12
TIMING = VisitTiming(hold_s=(0.3, 4.0), between_s=(0.5, 2.0), byte_s=0.02, arrive_s=1.0)
SENTENCES = [" ".join(f"word{number % 977}" for number in range(start, start + 1 + start % 23)) for start in range(200)]
GERMAN = ("Wo ist der Bahnhof?", "Das Wetter ist heute sehr schön.", "Ich habe gestern ein Buch gelesen.")

Memory = list[dict[int, float]]  # samples: MB by process id


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveService, int, Path]]:
    folder, port = tmp_path_factory.mktemp("soak"), free_port()
    repository = folder / "repository"
    for name, version in itertools.product(BUNDLES, "12"):
        copy_version(ROOT / "models/zoo" / name, repository, version)
        set_serving(repository / name, default="1")
    settings = {"workers": "2", "model_control": "explicit", "retire_s": str(RETIRE_S), "grpc_port": str(port)}
    with run_live_service(folder, repository, **settings) as service:
        yield service, port, repository


@dataclass(kw_only=True)
class Traffic:
    """Clients that each repeat one kind of request. Pauses of the machine do not count as time of the soak."""

    service: LiveService
    grpc_port: int
    repository: Path

    def __post_init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest_s: dict[str, float] = {}
        self.pauses = Pauses()
        self._failures: list[tuple[float, float, str]] = []  # began, ended, text
        self._numbers = itertools.count()
        self._swaps = itertools.cycle(itertools.product("21", BUNDLES))
        self._first_answers: dict[str, Any] = {}

    @property
    def failures(self) -> list[str]:
        """What the clients did not expect, unless the machine paused."""
        return [text for began_s, ended_s, text in self._failures if not self.pauses.overlap(began_s, ended_s)]

    def sentence(self) -> str:
        return SENTENCES[next(self._numbers) % len(SENTENCES)]

    async def run(self, seconds: float) -> None:
        """Send every kind of request for this time, each once per period."""
        clients: dict[Callable[[], Awaitable[None]], float] = {
            self.words: 0.1,
            self.batches: 0.5,
            self.text: 1.0,
            self.stream: 1.0,
            self.translate: 1.0,
            self.websocket: 1.0,
            self.grpc_call: 0.25,
            self.health: 5.0,
            self.malformed: 2.0,
            self.swap: SWAP_S,
        }
        self._ends_s = time.monotonic() + seconds
        async with (
            httpx.AsyncClient(base_url=self.service.address.url, timeout=60) as self.http,
            grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel,
        ):
            self.infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                pb.ModelInferRequest.SerializeToString,
                pb.ModelInferResponse.FromString,
            )
            watch = asyncio.create_task(self.pauses.watch(self._extend))
            async with asyncio.TaskGroup() as group:
                for client, period_s in clients.items():
                    group.create_task(self._repeat(client, period_s))
            watch.cancel()

    def _extend(self, seconds: float) -> None:
        self._ends_s += seconds

    async def _repeat(self, client: Callable[[], Awaitable[None]], period_s: float) -> None:
        name = client.__name__
        while (started_s := time.monotonic()) < self._ends_s:
            self.counts[name] += 1
            problem = ""
            try:
                await client()
            except Exception as error:  # of the check of an answer, or of a client library
                problem = f"{name}: {error!r}"
            ended_s = time.monotonic()
            if problem:
                self._failures.append((started_s, ended_s, problem))
            if not self.pauses.overlap(started_s, ended_s):
                self.slowest_s[name] = max(self.slowest_s.get(name, 0.0), ended_s - started_s)
            await asyncio.sleep(max(0.0, min(period_s, self._ends_s - started_s) - (ended_s - started_s)))

    async def post(self, path: str, body: Any) -> Any:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200
        return response.json()

    async def words(self) -> None:
        text = self.sentence()
        answer = await self.post("/v1/tag", {"inputs": text, "model": "pos-en"})
        assert [entity["word"] for entity in answer] == text.split()

    async def batches(self) -> None:
        texts = [self.sentence() for _ in range(16)]
        assert len(await self.post("/v1/classify", {"inputs": texts})) == len(texts)

    async def text(self) -> None:
        """Generate one text again and again: both versions have the same weights, so it is always the same."""
        answer = await self.post("/v1/generate", {"inputs": "ROMEO:", "parameters": {"max_new_tokens": 40, "seed": 7}})
        assert answer == self._first_answers.setdefault("ROMEO:", answer)

    async def translate(self) -> None:
        text = GERMAN[next(self._numbers) % len(GERMAN)]
        answer = await self.post("/v1/translate", {"inputs": text})
        assert answer == self._first_answers.setdefault(text, answer)

    async def stream(self) -> None:
        parameters = {"max_new_tokens": 20, "seed": next(self._numbers)}
        body = {"inputs": "ROMEO:", "parameters": parameters}
        async with self.http.stream("POST", "/v1/generate_stream", json=body) as response:
            events = [line async for line in response.aiter_lines() if line.startswith("data:")]
        assert len(events) == 20

    async def websocket(self) -> None:
        url = self.service.address.url.replace("http", "ws", 1)
        async with connect(f"{url}/v1/stream", open_timeout=60) as client:
            for word in self.sentence().split():
                await client.send(json.dumps({"inputs": [word]}))
                answer = json.loads(await client.recv())
                assert not answer.keys() & {"error", "status"}

    async def grpc_call(self) -> None:
        request = pb.ModelInferRequest(model_name="pos-en")
        contents = pb.InferTensorContents(bytes_contents=[self.sentence().encode()])
        request.inputs.add(name="text", datatype="BYTES", shape=[1], contents=contents)
        reply = await self.infer(request, timeout=60)
        assert reply.model_name == "pos-en"

    async def health(self) -> None:
        for path in ("/readyz", "/metrics"):
            assert (await self.http.get(path)).status_code == 200

    async def malformed(self) -> None:
        response = await self.http.post("/v1/tag", content=b'{"inputs": [[[')
        assert response.status_code == 422
        address = self.service.address
        with socket.create_connection((address.host, address.port), 5) as connection:
            connection.sendall(b"GET /nonsense\x00 HTTP/1.1\r\n")

    async def swap(self) -> None:
        version, model = next(self._swaps)
        set_serving(self.repository / model, default=version)
        response = await self.http.post(f"/v2/repository/models/{model}/load")
        assert response.status_code == 200
        card = (await self.http.get(f"/v1/models/{model}")).json()
        assert card["version"] == version


def memory_mb(service: LiveService) -> dict[int, float]:
    return {process.pid: process.memory_info().rss / 1e6 for process in service.process.tree()}


async def sample_memory(service: LiveService, samples: Memory) -> None:
    """Add a sample every SAMPLE_S, without end."""
    while True:
        samples.append({process.pid: process.memory_info().rss / 1e6 for process in service.process.tree()})
        await asyncio.sleep(SAMPLE_S)


def growth(samples: Memory) -> dict[str, float]:
    """Return the growth of each process and of all together: the mean of the end over that of the begin."""
    first, last = samples[: int(WINDOW_S / SAMPLE_S)], samples[-int(WINDOW_S / SAMPLE_S) :]
    found = {str(pid): _mean(last, pid) / _mean(first, pid) for pid in first[0]}
    return found | {"all": sum(_mean(last, pid) for pid in first[0]) / sum(_mean(first, pid) for pid in first[0])}


def _mean(samples: Memory, pid: int) -> float:
    return statistics.fmean(memory[pid] for memory in samples)


@dataclass(frozen=True, kw_only=True)
class Soak:
    traffic: Traffic
    visits: Mapping[str, int]
    samples: Memory
    restarted: bool
    before: ServiceResources
    after: ServiceResources


@pytest.fixture(scope="module")
def soak(soaked: tuple[LiveService, int, Path]) -> Soak:
    service, grpc_port, repository = soaked
    traffic = Traffic(service=service, grpc_port=grpc_port, repository=repository)
    plan = run_loop(visit_plan(service, TIMING, plain_tokens=50, stream_tokens=200))

    async def run(seconds: float) -> Memory:
        samples: Memory = []
        sampler = asyncio.create_task(sample_memory(service, samples))
        await traffic.run(seconds)
        sampler.cancel()
        return samples

    start_times = service.start_times()
    with slow_clients(plan, SLOW_CLIENTS):
        asyncio.run(run(WARM_UP_S))
    before, cpu_s = service.settle(), service.process.cpu_s()
    with slow_clients(plan, SLOW_CLIENTS) as visits:
        samples = asyncio.run(run(SOAK_S))
    cpu_share = (service.process.cpu_s() - cpu_s) / SOAK_S
    after = service.settle(before)
    print(f"requests {dict(traffic.counts)}, slow clients {visits.total()}, of a core {cpu_share:.2f}")
    print(f"the machine paused for {traffic.pauses.total_s():.0f} s")
    print(f"slowest in seconds { ({name: round(value, 2) for name, value in traffic.slowest_s.items()}) }")
    print(f"growth of memory {growth(samples)}")
    for number in range(0, len(samples), max(1, len(samples) // 30)):
        memory = [round(each, 1) for each in samples[number].values()]
        print(f"{number * SAMPLE_S:6.0f} s  {sum(memory):7.1f} MB  {memory}")
    print(f"before {before}\nafter  {after}", flush=True)
    return Soak(
        traffic=traffic,
        visits=visits,
        samples=samples,
        restarted=service.start_times() != start_times,
        before=before,
        after=after,
    )


def test_every_answer_of_the_soak_is_right(soak: Soak) -> None:
    assert soak.traffic.failures == []
    assert not soak.restarted
    assert soak.traffic.counts["swap"] >= (WARM_UP_S + SOAK_S) / SWAP_S / 2
    assert len(soak.visits) == 10  # kinds of slow clients


def test_the_soak_leaves_nothing_behind(soak: Soak) -> None:
    assert soak.after.leaks(soak.before) == []


@pytest.mark.skipif(not FULL, reason="memory needs the full mode")
def test_the_soak_needs_no_more_memory(soak: Soak) -> None:
    assert {name: ratio for name, ratio in growth(soak.samples).items() if ratio >= MEMORY_GROWTH} == {}
