"""The spans of finished requests."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.tracing import BadExporter, Tracer, exporter_name, open_tracer
from tests.support.http_connection import Wire, request

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def traced(*requests: bytes) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    wire = Wire()
    wire.worker.observers = (Tracer(SimpleSpanProcessor(exporter), {}),)
    for number, data in enumerate(requests, 1):
        wire.send(data)
        await wire.answers(number)
        call = wire.engine.calls[-1][-1]
        assert call.compute_started_s is not None
    return list(exporter.get_finished_spans())


async def test_a_request_has_a_span_with_children() -> None:
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
def test_the_standard_variables_select_the_exporter(environ: dict[str, str], name: str | None) -> None:
    assert exporter_name(environ) == name


def test_an_exporter_that_is_not_installed_stops_the_start() -> None:
    with pytest.raises(BadExporter, match="opentelemetry-exporter-made-up"):
        open_tracer({"OTEL_TRACES_EXPORTER": "made_up"})


def test_the_console_exporter_needs_no_package() -> None:
    tracer = open_tracer({"OTEL_TRACES_EXPORTER": "console"})
    assert tracer is not None
    tracer.close()


def test_without_an_exporter_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, service.worker, service.tracing as t; t.open_tracer({}); sys.exit('opentelemetry' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
