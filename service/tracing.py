"""OpenTelemetry spans of requests that have ended: the request, and in it queue, compute and decode.

Only where the standard variables name an exporter; nothing of OpenTelemetry is imported otherwise. Spans are made when
the request is over, from the times that are taken anyway: a request costs nothing more while it runs. Knows no server.
"""

import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from service.request_record import Ended

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
NAME = "seqserve"


class BadExporter(ValueError):
    """The exporter that the environment names is not there. The message says what to install."""


def exporter_of(environ: Mapping[str, str]) -> str | None:
    """Return the exporter that the environment asks for, by the name of its entry point; None if it asks for none."""
    asked = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environ.get, ENDPOINTS)) else "none")
    if asked == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if asked != "otlp":
        return asked
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"


def load_exporter(name: str) -> "SpanExporter":
    """Return the exporter of that name. Raises BadExporter."""
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        package = "opentelemetry-exporter-" + name.replace("_", "-")
        raise BadExporter(
            f"OTEL_* asks for the exporter {name!r}, which is not installed: pip install {package}, or unset OTEL_*"
        )
    exporter: SpanExporter = found[0].load()()
    return exporter


class Tracer:
    """Makes the spans of one worker."""

    def __init__(self, processor: "SpanProcessor", environ: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = "OTEL_SERVICE_NAME" in environ or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": NAME})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(NAME)
        self._parents = TraceContextTextMapPropagator()

    def __call__(self, ended: Ended) -> None:
        """Make the spans of one request."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        call, offset_ns = ended.call, time.time_ns() - round(time.monotonic() * 1e9)

        def at(seconds: float) -> int:
            return offset_ns + round(seconds * 1e9)

        parent = self._parents.extract({"traceparent": ended.parent}) if ended.parent else None
        name = f"{ended.method} {call.route}"
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, attributes=_attributes(ended), start_time=at(ended.started_s)
        )
        if ended.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if call.compute_started_s is not None:
            inside = set_span_in_context(span, parent)
            computed_s = min(call.compute_started_s + call.compute_s, ended.ended_s)
            for part, from_s, to_s in (
                ("queue", call.compute_started_s - call.queue_s, call.compute_started_s),
                ("compute", call.compute_started_s, computed_s),
                ("decode", computed_s, ended.ended_s),
            ):
                self._tracer.start_span(part, inside, start_time=at(from_s)).end(at(to_s))
        span.end(at(ended.ended_s))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """Return the tracer that the environment asks for, None if it asks for none. Raises BadExporter."""
    name = exporter_of(environ)
    if name is None:
        return None
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return Tracer(BatchSpanProcessor(load_exporter(name)), environ)


def _attributes(ended: Ended) -> dict[str, Any]:
    """The names of OpenTelemetry's conventions where there are any."""
    attributes: dict[str, Any] = {
        "http.request.method": ended.method,
        "http.route": ended.call.route,
        "http.response.status_code": ended.status,
        "seqserve.model": ended.model,
        "seqserve.outcome": ended.outcome,
        "seqserve.request_id": ended.call.request_id,
        "seqserve.batch_items": ended.call.batch_items,
    }
    if ended.status >= 500:
        attributes["error.type"] = ended.outcome
    return attributes
