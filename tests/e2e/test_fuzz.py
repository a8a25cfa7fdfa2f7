"""Four fuzzers against the running service: no server error, no crossed or lost answer, no restarted worker."""

import os
from collections.abc import Iterator

import psutil
import pytest

from service.api import inference_pb2 as pb
from tests.e2e import fuzz
from tests.support.bentoml_server import free_port, served

FULL = os.environ.get("SEQSERVE_E2E") == "full"


class RunningService:
    def __init__(self, address: tuple[str, int], grpc_port: int, pid: int) -> None:
        self.address, self.grpc_port, self._parent = address, grpc_port, psutil.Process(pid)

    def worker_pids(self) -> set[int]:
        return {child.pid for child in self._parent.children(recursive=True)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    grpc_port = free_port()
    environ = {"SEQSERVE_GRPC_PORT": str(grpc_port), "SEQSERVE_HEADER_TIMEOUT_S": "3"}
    environ["SEQSERVE_BUNDLES"] = (
        "models/zoo/pos-en,models/zoo/pos-en-live,models/zoo/sentiment-en,models/zoo/shakespeare"
    )
    with served(tmp_path_factory.mktemp("fuzz"), service="service.app:Seqserve", **environ) as (url, process, _):
        yield RunningService(("127.0.0.1", int(url.rpartition(":")[2])), grpc_port, process.pid)


@pytest.fixture
def same_workers(service: RunningService) -> Iterator[None]:
    before = service.worker_pids()
    yield
    assert service.worker_pids() == before


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("seed", range(20 if FULL else 1))
def test_mutated_http_requests(service: RunningService, seed: int) -> None:
    found = fuzz.fuzz_http(service.address, seed=seed, count=1_500 if FULL else 300)
    assert found.faults == []
    assert found.statuses.get(200, 0) > 20


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("seed", range(10 if FULL else 1))
def test_random_json_bodies(service: RunningService, seed: int) -> None:
    found = fuzz.fuzz_json(service.address, seed=seed, count=1_200 if FULL else 300)
    assert found.faults == []
    assert found.statuses.get(422, 0) > 20


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("seed", range(8 if FULL else 1))
def test_mutated_websockets(service: RunningService, seed: int) -> None:
    found = fuzz.fuzz_websocket(service.address, seed=seed, count=500 if FULL else 150)
    assert found.faults == []
    assert found.statuses.get(101, 0) > 20


@pytest.mark.usefixtures("same_workers")
@pytest.mark.parametrize("seed", range(6 if FULL else 1))
async def test_mutated_grpc_calls(service: RunningService, seed: int) -> None:
    request = pb.ModelInferRequest(model_name="pos-en")
    contents = pb.InferTensorContents(bytes_contents=[b"Harry met Hermione ."])
    request.inputs.add(name="text", datatype="BYTES", shape=[1], contents=contents)

    def is_valid(reply: bytes) -> bool:
        return b"PROPN" in reply and b"VERB" in reply

    target = f"127.0.0.1:{service.grpc_port}"
    found = await fuzz.fuzz_grpc(
        target, request.SerializeToString(), seed=seed, count=1_000 if FULL else 300, is_valid=is_valid
    )
    assert found.faults == []
