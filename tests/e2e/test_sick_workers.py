"""A worker of two that hangs or is killed under load: what fails, what the metrics show, and that it is replaced."""

import contextlib
import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from service.api import inference_pb2 as pb
from tests.support.bentoml_server import free_port, served
from tests.support.live_service import FULL
from tests.support.open_load import REQUESTS
from tests.support.polling import wait_until

pytestmark = pytest.mark.timeout(600)
WATCHDOG_S = 30 if FULL else 5
CONNECTIONS = 8
SAMPLE = re.compile(r"^(seqserve_\w+(?:_total|_count|_bucket|_sum)(?:\{.*?\})?) (\S+)$", re.MULTILINE)


def workers_of(service: int) -> set[int]:
    return {child.pid for child in psutil.Process(service).children()}


def samples(address: str) -> dict[str, float]:
    """Return the counters and histograms."""
    return {name: float(value) for name, value in SAMPLE.findall(httpx.get(f"{address}/metrics", timeout=60).text)}


def states(address: str) -> dict[str, int]:
    text = httpx.get(f"{address}/metrics", timeout=60).text
    return {state: int(float(value)) for state, value in re.findall(r'seqserve_workers{state="(\w+)"} (\S+)', text)}


@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_a_worker_that_hangs_is_shown_and_replaced(tmp_path: Path, how: str) -> None:
    with served(tmp_path, SEQSERVE_WORKERS="2", SEQSERVE_WATCHDOG_S=str(WATCHDOG_S)) as (address, process, log):
        wait_until(lambda: "ready: " in log.read_text(), timeout_s=180)
        before, started_s = workers_of(process.pid), time.monotonic()
        if how == "stopped":
            os.kill(min(before), signal.SIGSTOP)
        else:
            with contextlib.suppress(httpx.TimeoutException):
                httpx.post(f"{address}/v1/tag", json={"inputs": "!hang"}, timeout=1)
        wait_until(lambda: states(address)["unresponsive"] == 1, timeout_s=60)
        assert states(address)["ready"] == 1
        wait_until(lambda: len(workers_of(process.pid) - before) == 1, timeout_s=60)
        wait_until(lambda: states(address)["ready"] == 2, timeout_s=180)
        if FULL:
            assert time.monotonic() - started_s < 40
        assert samples(address)['seqserve_worker_starts_total{reason="watchdog"}'] == 1
        (hung,) = before - workers_of(process.pid)
        written = log.read_text()
        assert f"worker {hung} " in written
        assert "most recent call first" in written
        assert ("hang" in written) == (how == "busy")  # the function that blocks the event loop


class Client(threading.Thread):
    """Sends requests over one connection at a time, which it opens again if it fails."""

    def __init__(self, address: str, kind: str, ends: threading.Event) -> None:
        super().__init__()
        self._path, self._body = REQUESTS[kind]
        self._ends = ends
        self._http = httpx.Client(base_url=address, timeout=60, limits=httpx.Limits(max_connections=1))
        self.ports: list[int] = []  # of its connections, on its own side
        self.failures: list[str] = []
        self.answers = 0

    def run(self) -> None:
        with self._http:
            while not self._ends.wait(0.02):
                try:
                    with self._http.stream("POST", self._path, json=self._body) as response:
                        port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
                        if port not in self.ports:
                            self.ports.append(port)
                        response.read()
                    assert response.status_code == 200
                    self.answers += 1
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(repr(error))


@contextlib.contextmanager
def clients_of(address: str) -> Iterator[list[Client]]:
    ends = threading.Event()
    clients = [Client(address, list(REQUESTS)[number % len(REQUESTS)], ends) for number in range(CONNECTIONS)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        ends.set()
        for client in clients:
            client.join()


def infer(channel: grpc.Channel) -> grpc.StatusCode | None:
    """Return the status of a call if it fails."""
    request = pb.ModelInferRequest(model_name="tiny-tag")
    contents = pb.InferTensorContents(bytes_contents=[b"the film is good"])
    request.inputs.add(name="text", datatype="BYTES", shape=[1], contents=contents)
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", pb.ModelInferRequest.SerializeToString)
    try:
        call(request, timeout=60)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined, no-any-return]
    return None


def peer_ports(pid: int, port: int) -> set[int]:
    """Return the ports of the clients that are connected to a port of a process."""
    found = psutil.Process(pid).net_connections("tcp")
    return {each.raddr.port for each in found if each.raddr and each.laddr.port == port}


def test_the_end_of_one_worker_costs_only_the_requests_that_it_held(tmp_path: Path, tiny_zoo: Path) -> None:
    grpc_port = free_port()
    settings = {"SEQSERVE_BUNDLES": str(tiny_zoo), "SEQSERVE_WORKERS": "2", "SEQSERVE_GRPC_PORT": str(grpc_port)}
    with served(tmp_path, service="service.app:Seqserve", **settings) as (address, process, log):
        wait_until(lambda: "ready: " in log.read_text(), timeout_s=180)
        own = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(f"127.0.0.1:{grpc_port}", own) for _ in range(CONNECTIONS)]
        with clients_of(address) as clients:
            wait_until(lambda: all(client.answers > 2 for client in clients), timeout_s=60)
            assert [infer(channel) for channel in channels] == [None] * CONNECTIONS
            before = samples(address)
            killed = min(workers_of(process.pid))
            held, held_grpc = peer_ports(killed, int(address.rpartition(":")[2])), peer_ports(killed, grpc_port)
            os.kill(killed, signal.SIGKILL)
            killed_s = time.monotonic()
            failed_calls = [code for channel in channels if (code := infer(channel)) is not None]
            history = [before]

            def is_replaced() -> bool:
                history.append(samples(address))
                return states(address)["ready"] == 2 and len(workers_of(process.pid) - {killed}) == 2

            wait_until(is_replaced, timeout_s=180)
            if FULL:
                assert time.monotonic() - killed_s < 3
            assert [infer(channel) for channel in channels] == [None] * CONNECTIONS
            wait_until(lambda: samples(address)['seqserve_worker_starts_total{reason="signal"}'] == 1)
            answered = [client.answers for client in clients]
            wait_until(lambda: all(c.answers > n for c, n in zip(clients, answered, strict=True)), timeout_s=60)
        for client in clients:
            assert len(client.failures) <= len(held.intersection(client.ports))
        assert len(failed_calls) <= len(held_grpc)
        assert set(failed_calls) <= {grpc.StatusCode.UNAVAILABLE}
        for earlier, later in itertools.pairwise(history):  # nothing is lost or counted twice
            assert {name: value for name, value in earlier.items() if later.get(name, 0.0) < value} == {}
        wait_until(lambda: not list(tmp_path.rglob(f"*_{killed}.db")))  # they are in the sums of ended workers
        for channel in channels:
            channel.close()
