"""The Open Inference Protocol V2 over gRPC: messages and statuses, and tritonclient against the real service."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from models import self_test
from models.tasks import as_json
from service.api import inference_pb2 as pb
from service.api import oip_grpc
from service.api.problems import TABLE
from service.errors import ServiceError
from service.telemetry import RequestRecord
from tests.support import bundles
from tests.support.bentoml_server import ROOT, free_port, served
from tests.support.engines import draining
from tests.support.oip import RAW, OIPSite, feeds_of
from tests.support.polling import eventually

PROTO = "service/api/inference.proto"


class GrpcService:
    """A gRPC server over an engine with tiny bundles, and a client for it."""

    def __init__(self, site: OIPSite, server: Any, port: int) -> None:
        self.site, self.server = site, server
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def ask(self, method: str, request: Any, answer: Any, **more: Any) -> Any:
        path = f"/{oip_grpc.SERVICE}/{method}"
        call = self.channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
        return await call(request, **{"timeout": 20, **more})

    async def infer(self, request: Any, **more: Any) -> Any:
        return await self.ask("ModelInfer", request, pb.ModelInferResponse, **more)

    async def refused(self, request: Any, **more: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.infer(request, **more)
        return caught.value.code(), caught.value.details() or ""

    def sample(self, metric: str, **labels: str) -> float | None:
        telemetry = self.site.worker.telemetry
        telemetry.flush()
        assert telemetry.registry is not None
        return telemetry.registry.get_sample_value(metric, labels)

    async def close(self) -> None:
        await self.channel.close()
        await self.site.close()
        await oip_grpc.stop(self.server)


async def open_service(*folders: Path, **settings: Any) -> GrpcService:
    site = OIPSite(*folders, grpc_port=0, **settings)
    server, port = await oip_grpc.start(site.worker)
    return GrpcService(site, server, port)


@pytest.fixture
async def service(tiny_zoo: Path, tiny_kinds: Path) -> AsyncIterator[GrpcService]:
    service = await open_service(tiny_zoo, tiny_kinds)
    yield service
    await service.close()


def text(model: str, *values: str, **more: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, **more)
    contents = pb.InferTensorContents(bytes_contents=[value.encode() for value in values])
    request.inputs.add(name="text", datatype="BYTES", shape=[len(values)], contents=contents)
    return request


def raw(model: str, feeds: dict[str, Any]) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    for name, values in feeds.items():
        datatype = "FP32" if values.dtype == np.float32 else "INT32"
        request.inputs.add(name=name, datatype=datatype, shape=values.shape)
        request.raw_input_contents.append(values.tobytes())
    return request


def test_the_generated_messages_match_the_proto_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, PROTO], cwd=ROOT, check=True)
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        made, kept = tmp_path / "service/api" / name, ROOT / "service/api" / name
        assert made.read_text() == kept.read_text(), (
            f"{name} is outdated; run python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. {PROTO}"
        )


@pytest.mark.parametrize("error", TABLE)
def test_every_error_has_a_grpc_status(error: type[ServiceError]) -> None:
    assert TABLE[error].grpc_status in grpc.StatusCode.__members__


async def test_texts_are_answered(service: GrpcService) -> None:
    request = text("tiny-classify", "a lovely film", id="a-1", model_version="1")
    request.parameters["top_k"].int64_param = 2
    found = await service.infer(request)
    assert (found.id, found.model_name, found.model_version) == ("a-1", "tiny-classify", "1")
    assert [(each.name, each.datatype, list(each.shape)) for each in found.outputs] == [
        ("label", "BYTES", [1, 2]),
        ("score", "FP32", [1, 2]),
    ]
    expected = as_json(self_test.answer(service.site.bundle("tiny-classify"), "a lovely film", {"top_k": 2}))
    scores = np.frombuffer(found.raw_output_contents[1], "<f4")
    assert scores.tolist() == pytest.approx([each["score"] for each in expected])


@pytest.mark.parametrize("name", RAW)
async def test_raw_tensors_are_answered_by_the_graph(service: GrpcService, name: str) -> None:
    bundle = service.site.bundle(name)
    feeds = feeds_of(bundle, RAW[name])
    found = await service.infer(raw(name, feeds))
    for output, values, content in zip(
        found.outputs, bundle.model.run(feeds).values(), found.raw_output_contents, strict=True
    ):
        assert (list(output.shape), content) == (list(values.shape), values.tobytes())


async def test_binary_data_size_is_accepted_with_raw_contents(service: GrpcService) -> None:
    request = pb.ModelInferRequest(model_name="tiny-tag", raw_input_contents=[b"\1\0\0\0a"])
    request.inputs.add(name="text", datatype="BYTES", shape=[1]).parameters["binary_data_size"].int64_param = 5
    assert (await service.infer(request)).outputs[0].name == "label"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_calls_are_answered_within_the_same_limit(
    tiny_zoo: Path, compression: grpc.Compression
) -> None:
    service = await open_service(tiny_zoo, body_bytes=10_000)
    request = text("tiny-classify", "a lovely film")
    assert await service.infer(request, compression=compression) == await service.infer(request)
    status, _ = await service.refused(text("tiny-classify", "a" * 10_000), compression=compression)
    assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
    await service.close()


async def test_parameters_that_change_no_answer_are_left_alone(service: GrpcService) -> None:
    plain = await service.infer(text("tiny-classify", "a lovely film"))
    request = text("tiny-classify", "a lovely film")
    request.parameters["top_k"].SetInParent()  # a parameter without a value
    request.parameters["content_type"].string_param = "str"
    request.inputs[0].parameters["content_type"].string_param = "str"
    request.inputs[0].parameters["trace"].SetInParent()
    request.outputs.add(name="label").parameters["content_type"].string_param = "str"
    request.outputs[0].parameters["classification"].int64_param = 0
    request.outputs.add(name="score")
    assert await service.infer(request) == plain


async def test_parameters_that_would_change_the_answer_are_rejected(service: GrpcService) -> None:
    request = text("tiny-classify", "a lovely film")
    request.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    status, detail = await service.refused(request)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.startswith("inputs[0].parameters.shared_memory_region: ")


async def test_numbers_are_accepted_as_contents(service: GrpcService) -> None:
    request = pb.ModelInferRequest(model_name="tiny-dna-tag")
    for name, shape, values in (("bases", [2, 1], [3, 4]), ("lengths", [1], [2])):
        contents = pb.InferTensorContents(int_contents=values)
        request.inputs.add(name=name, datatype="INT32", shape=shape, contents=contents)
    assert (await service.infer(request)).outputs[0].name == "probabilities"


def changed(request: Any, change: Any) -> Any:
    change(request)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (text("nope", "a"), "NOT_FOUND", "model"),
        (text("tiny-tag", "a", model_version="2"), "NOT_FOUND", "model"),
        (text("tiny-tag", "a " * 65), "OUT_OF_RANGE", "inputs[0]"),
        (pb.ModelInferRequest(model_name="tiny-tag"), "INVALID_ARGUMENT", "inputs"),
        (
            changed(text("tiny-tag", "a"), lambda r: r.inputs[0].shape.append(2)),
            "INVALID_ARGUMENT",
            "inputs[0].contents",
        ),
        (
            changed(text("tiny-tag", "a"), lambda r: r.raw_input_contents.append(b"")),
            "INVALID_ARGUMENT",
            "inputs[0]",
        ),
        (
            changed(text("tiny-tag", "a"), lambda r: r.raw_input_contents.extend([b"", b""])),
            "INVALID_ARGUMENT",
            "raw_input_contents",
        ),
    ],
)
async def test_an_invalid_call_is_rejected_with_its_status_and_field(
    service: GrpcService, request_: Any, code: str, field: str
) -> None:
    status, detail = await service.refused(request_)
    assert (status.name, detail.partition(": ")[0]) == (code, field)


async def test_a_message_over_the_limit_is_rejected(tiny_zoo: Path) -> None:
    service = await open_service(tiny_zoo, body_bytes=1000)
    assert (await service.refused(text("tiny-tag", "a" * 2000)))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    await service.close()


async def test_only_health_works_without_a_key(tiny_zoo: Path) -> None:
    service = await open_service(tiny_zoo, api_keys=("right-key",))
    assert (await service.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
    for sent in ((), (("authorization", "Bearer wrong-key"),)):
        assert (await service.refused(text("tiny-tag", "a"), metadata=sent))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert await service.infer(text("tiny-tag", "a"), metadata=(("authorization", "Bearer right-key"),))
    await service.close()


async def test_calls_over_the_rate_limit_are_rejected(tiny_zoo: Path) -> None:
    service = await open_service(tiny_zoo, rate_limit="1/h")
    await service.infer(text("tiny-tag", "a"))
    assert (await service.refused(text("tiny-tag", "a")))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    await service.close()


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_disconnect_frees_the_slot(tiny_zoo: Path, how: str) -> None:
    endless = {"max_new_tokens": 10_000_000, "request_tokens": 20_000_000}
    service = await open_service(tiny_zoo, **endless)
    request = text("tiny-generate", "ROMEO:")
    request.parameters["max_new_tokens"].int64_param = 10_000_000
    call = asyncio.ensure_future(service.infer(request, **({"timeout": 0.2} if how == "late" else {})))

    def active_slots() -> float | None:
        return service.sample("seqserve_active_slots", model="tiny-generate", version="1")

    await eventually(lambda: active_slots() == 1)
    if how == "cancelled":
        call.cancel()
    await asyncio.wait([call])
    await eventually(lambda: active_slots() == 0)
    await service.close()


async def test_a_draining_worker_rejects_calls(service: GrpcService) -> None:
    with draining(service.site.worker):
        assert (await service.refused(text("tiny-tag", "a")))[0] is grpc.StatusCode.UNAVAILABLE
        assert not (await service.ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready


async def test_in_a_lame_duck_period_connections_end_in_time_and_without_loss(tiny_zoo: Path) -> None:
    service, ends = await open_service(tiny_zoo, lame_duck_s=0.4), asyncio.Event()

    async def call() -> None:
        while not ends.is_set():
            await service.infer(text("tiny-tag", "a"))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call())
        for _ in range(9):  # at least two connections end with GOAWAY, and others begin
            changed = service.channel.wait_for_state_change(service.channel.get_state())
            await asyncio.wait_for(changed, timeout=20)
        ends.set()
    await service.close()


async def test_a_failed_model_is_not_ready(service: GrpcService) -> None:
    service.site.worker.engine.runtime_for("tag", "tiny-tag").loop.healthy = False
    for name, ready in (("tiny-tag", False), ("tiny-classify", True)):
        found = await service.ask("ModelReady", pb.ModelReadyRequest(name=name), pb.ModelReadyResponse)
        assert found.ready is ready


async def test_bytes_that_are_not_protobuf_are_an_invalid_argument(service: GrpcService) -> None:
    call = service.channel.unary_unary(f"/{oip_grpc.SERVICE}/ModelInfer")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff", timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_error_has_the_request_id_and_when_to_retry(tiny_zoo: Path) -> None:
    service = await open_service(tiny_zoo, rate_limit="1/h")
    await service.infer(text("tiny-tag", "a"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.infer(text("tiny-tag", "a"), metadata=(("x-request-id", "job-1"),))
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["x-request-id"] == "job-1"
    assert int(trailing["retry-after"]) > 0
    await service.close()


async def test_a_call_is_recorded_for_the_access_log_and_spans(service: GrpcService) -> None:
    records = list[RequestRecord]()
    service.site.worker.observers = (records.append,)
    await service.infer(text("tiny-tag", "a"), metadata=(("x-request-id", "job-1"), ("traceparent", "00-a-b-01")))
    await service.refused(text("nope", "a"))
    await eventually(lambda: len(records) == 2)
    ok, failed = records
    assert (ok.request.request_id, ok.model, ok.outcome, ok.status) == ("job-1", "tiny-tag", "ok", 200)
    assert (ok.request.route, ok.traceparent) == (f"/{oip_grpc.SERVICE}/ModelInfer", "00-a-b-01")
    assert ok.request.compute_s > 0
    assert (failed.model, failed.outcome, failed.status) == ("unknown", "unknown-model", 404)


async def test_a_deadline_error_advises_no_http_header(service: GrpcService) -> None:
    request = text("tiny-dna-tag", "ACGT")
    request.parameters["timeout"].int64_param = 1
    code, detail = await service.refused(request)
    assert (code, "X-Request-Timeout-S" in detail) == (grpc.StatusCode.DEADLINE_EXCEEDED, False)


async def test_calls_are_counted(service: GrpcService) -> None:
    await service.infer(text("tiny-tag", "a"))
    await service.refused(text("nope", "a"))
    for model, version, outcome in (("tiny-tag", "1", "ok"), ("unknown", "", "unknown-model")):
        route = f"/{oip_grpc.SERVICE}/ModelInfer"
        labels = {"route": route, "model": model, "version": version, "outcome": outcome}
        # A call is counted after its answer was sent.
        await eventually(lambda labels=labels: service.sample("seqserve_requests_total", **labels) == 1)


def test_tritonclient_works_with_the_real_service(tmp_path: Path) -> None:
    for make in (bundles.tagger, bundles.classifier, bundles.generator, bundles.of_every_kind):
        make(tmp_path / "zoo")
    port = str(free_port())
    feeds = {name: feeds_of(bundles.opened(tmp_path / "zoo" / name), inputs) for name, inputs in RAW.items()}
    given = {name: {tensor: [v.tolist(), str(v.dtype)] for tensor, v in each.items()} for name, each in feeds.items()}
    environ = {"SEQSERVE_BUNDLES": str(tmp_path / "zoo"), "SEQSERVE_WORKERS": "2", "SEQSERVE_GRPC_PORT": port}
    with served(tmp_path, service="service.app:Seqserve", **environ, SEQSERVE_DEVICE="cpu") as (_, process, log):
        command = [sys.executable, "-m", "tests.support.triton_grpc", f"127.0.0.1:{port}"]
        pure = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
        done = subprocess.run(
            command, cwd=ROOT, env=pure, input=json.dumps(given), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr + log.read_text()
        process.terminate()
        assert process.wait(20) == 0
    found = json.loads(done.stdout)
    classifier, generator = (bundles.opened(tmp_path / "zoo" / name) for name in ("tiny-classify", "tiny-generate"))
    assert found["live"] is True
    assert (found["server"], found["id"]) == ("seqserve", "a-1")
    assert found["inputs"][:2] == ["text", "json"]
    assert found["config"] == {"name": "text", "data_type": "TYPE_STRING", "dims": ["-1"]}
    assert {"tiny-tag", "tiny-joint"} <= set(found["index"])
    assert found["labels"][:3] == [each["label"] for each in as_json(self_test.answer(classifier, "a lovely film"))]
    assert found["written"] == as_json(self_test.answer(generator, "ROMEO:", bundles.GENERATION))["generated_text"]
    for name, each in feeds.items():
        expected = bundles.opened(tmp_path / "zoo" / name).model.run(each)
        for output, values in expected.items():
            assert np.array_equal(np.array(found["graphs"][name][output], values.dtype), np.nan_to_num(values)), name
    assert [answer.split()[0] for answer in found["refused"]] == [
        "StatusCode.NOT_FOUND",
        "StatusCode.NOT_FOUND",
        "StatusCode.INVALID_ARGUMENT",
    ]


def health_of(service: GrpcService) -> Any:
    return health_pb2_grpc.HealthStub(service.channel)


SERVING, NOT_SERVING = "SERVING", "NOT_SERVING"


def name_of(answer: Any) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@pytest.mark.parametrize("name", ["", oip_grpc.SERVICE])
async def test_health_follows_the_readiness_of_the_worker_and_needs_no_key(tiny_zoo: Path, name: str) -> None:
    service = await open_service(tiny_zoo, api_keys=("a-key-of-sixteen",))
    request = health_pb2.HealthCheckRequest(service=name)
    watch = health_of(service).Watch(request)
    assert name_of(await health_of(service).Check(request)) == SERVING
    assert name_of(await watch.read()) == SERVING
    closing = asyncio.create_task(service.site.worker.close())
    assert name_of(await asyncio.wait_for(watch.read(), 20)) == NOT_SERVING
    assert name_of(await health_of(service).Check(request)) == NOT_SERVING
    await closing
    watch.cancel()
    await service.close()


async def test_health_of_another_service_is_unknown(service: GrpcService) -> None:
    request = health_pb2.HealthCheckRequest(service="other")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_of(service).Check(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health_of(service).Watch(request)
    assert name_of(await watch.read()) == "SERVICE_UNKNOWN"
    watch.cancel()


async def test_watching_is_limited_and_a_client_that_leaves_makes_room(
    service: GrpcService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oip_grpc, "MAX_WATCHERS", 1)
    stub, request = health_of(service), health_pb2.HealthCheckRequest()
    first = stub.Watch(request)
    await first.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Watch(request).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()

    async def watched() -> bool:
        call = stub.Watch(request)
        try:
            return name_of(await call.read()) == SERVING
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()

    for _ in range(100):
        if await watched():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the first watcher still counts")
