"""What is told of a request that has ended, in the log and as spans; and that nothing a user sent is in it."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import logs
from service.tracing import BadExporter, Tracer, exporter_of, load_exporter, open_tracer
from tests.support.fast_path_connection import Wire, request

MARK = "poison7c1f"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(params=[logs.TEXT, logs.JSON], ids=["text", "json"])
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """All that is logged, in the format of the parameter."""
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", False)  # as logs.configure has it
    out = io.StringIO()
    handler, root = logging.StreamHandler(out), logging.getLogger()
    handler.setFormatter(request.param)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize(
    ("which", "outcomes"), [("all", ["ok", "invalid-request", "ok"]), ("errors", ["invalid-request"]), ("off", [])]
)
async def test_a_request_has_a_line_if_it_is_wanted(which: str, outcomes: list[str]) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.JSON)
    logger = logging.getLogger("service.access")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    wire = Wire(settings={"access_log": which})
    for number, text in enumerate(("a", 1, "b"), 1):
        wire.send(request({"inputs": text}, "x-request-id: mine"))
        await wire.answers(number)
    logger.removeHandler(handler)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["outcome"] for line in found] == outcomes
    if which == "all":
        line = found[0]
        assert {name: line[name] for name in ("request_id", "method", "route", "status", "model", "batch")} == {
            **{"request_id": "mine", "method": "POST", "route": "/v1/tag"},
            **{"status": 200, "model": "pos-en", "batch": 4},
        }
        assert (line["queue_ms"], line["compute_ms"]) == (1.5, 0.5)
        assert line["total_ms"] > 0
        assert line["bytes"] > 10


@pytest.mark.parametrize(
    "data",
    [
        request({"inputs": MARK}),
        request({"inputs": "!bug", "model": MARK}),
        request({"inputs": 1, MARK: MARK}),
        request({"inputs": "a", "parameters": {"aggregation_strategy": MARK}}),
        request(MARK.encode()),
        request({"inputs": MARK}, path=f"/v1/{MARK}"),
        request({"inputs": MARK}, path=f"/v1/tag?{MARK}"),
        request({"inputs": MARK}, path=f"/v1/models/{MARK}"),
        request({"inputs": "a"}, f"x-request-id: {{{MARK}}}"),
        request({"inputs": "a"}, f"content-type: {MARK}"),
        request({"inputs": "a"}, f"x-request-timeout-s: {MARK}"),
        request({"inputs": "a"}, f"traceparent: {MARK}"),
        request({"inputs": "a"}, f"{MARK}: {MARK}"),
        request({"inputs": "a"}, f"authorization: Bearer {MARK}"),
        f"{MARK} / HTTP/1.1\r\n\r\n".encode(),
    ],
)
async def test_nothing_that_a_user_sent_is_in_any_line(data: bytes, lines: io.StringIO) -> None:
    keys = {"api_keys": ("12345678",)} if b"authorization" in data else {}
    wire = Wire(settings={"access_log": "all", **keys})
    wire.send(data)
    for _ in range(1000):
        if wire.transport.written:
            break
        await asyncio.sleep(0.001)
    assert wire.transport.written
    assert lines.getvalue()
    assert MARK not in lines.getvalue()


async def traced(*requests: bytes) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    wire = Wire()
    wire.front.lean.worker.watchers = (Tracer(SimpleSpanProcessor(exporter), {}),)
    for number, data in enumerate(requests, 1):
        wire.send(data)
        await wire.answers(number)
        call = wire.engine.calls[-1][-1]
        assert call.compute_started_s is not None
    return list(exporter.get_finished_spans())


async def test_a_request_is_a_span_with_its_parts_in_it() -> None:
    *parts, whole = await traced(request({"inputs": "!slow 0.01"}, f"traceparent: {PARENT}"))
    assert (whole.name, whole.kind.name) == ("POST /v1/tag", "SERVER")
    assert whole.parent is not None
    assert (whole.parent.span_id, whole.context.trace_id) == (0xB7AD6B7169203331, 0x0AF7651916CD43DD8448EB211C80319C)
    assert whole.attributes is not None
    assert (whole.attributes["http.response.status_code"], whole.attributes["seqserve.model"]) == (200, "pos-en")
    assert [part.name for part in parts] == ["queue", "compute", "decode"]
    assert {part.parent.span_id for part in parts if part.parent} == {whole.context.span_id}
    queue, compute, decode = [(part.end_time or 0) - (part.start_time or 0) for part in parts]
    assert (queue, compute) == (pytest.approx(1.5e6, abs=1e3), pytest.approx(0.5e6, abs=1e3))
    assert decode >= 0
    assert whole.resource.attributes["service.name"] == "seqserve"


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, None),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
    ],
)
def test_the_standard_variables_decide(environ: dict[str, str], name: str | None) -> None:
    assert exporter_of(environ) == name


def test_an_exporter_that_is_not_installed_stops_the_start() -> None:
    with pytest.raises(BadExporter, match="pip install opentelemetry-exporter-made-up"):
        load_exporter("made_up")


def test_the_console_needs_no_package() -> None:
    tracer = open_tracer({"OTEL_TRACES_EXPORTER": "console"})
    assert tracer is not None
    tracer.close()


def test_without_an_exporter_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, service.worker, service.tracing as t; t.open_tracer({}); sys.exit('opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
