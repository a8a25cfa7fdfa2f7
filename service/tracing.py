"""OpenTelemetry spans of finished requests: one for the request, with queue, compute and decode as its children.

The standard OTEL_* variables configure it. Without an exporter, OpenTelemetry is not imported. Spans are
created after the answer from times that are already measured, so a running request has no extra cost.
"""

import time
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from service.telemetry import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SERVICE_NAME = "seqserve"


class BadExporter(ValueError):
    """The exporter that OTEL_* names is not installed."""


def exporter_name(environ: Mapping[str, str]) -> str | None:
    """Return the entry point of the exporter that OTEL_* selects, or None.

    The SDK selects exporters only in its private configurator, and there an endpoint alone selects none.
    """
    selected = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environ.get, ENDPOINTS)) else "none")
    if selected == "none" or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if selected != "otlp":
        return selected
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    return "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"


class Tracer:
    """Makes the spans of one worker. Sampler, resource and span limits come from OTEL_*, read by the SDK."""

    def __init__(self, processor: "SpanProcessor", environ: Mapping[str, str]) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = "OTEL_SERVICE_NAME" in environ or "service.name" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": SERVICE_NAME})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE_NAME)
        self._propagator = TraceContextTextMapPropagator()

    def __call__(self, record: RequestRecord) -> None:
        """Make the spans of one request."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        request, offset_ns = record.request, time.time_ns() - round(time.monotonic() * 1e9)

        def at(seconds: float) -> int:
            return offset_ns + round(seconds * 1e9)

        parent = self._propagator.extract({"traceparent": record.traceparent}) if record.traceparent else None
        attributes: dict[str, Any] = {  # with the names of OpenTelemetry's conventions where they exist
            "http.request.method": record.method,
            "http.route": request.route,
            "http.response.status_code": record.status,
            "seqserve.model": record.model,
            "seqserve.model_version": record.version,
            "seqserve.outcome": record.outcome,
            "seqserve.request_id": request.request_id,
            "seqserve.batch_items": request.batch_items,
        }
        if record.status >= 500:
            attributes["error.type"] = record.outcome
        name, started = f"{record.method} {request.route}", at(record.started_s)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes=attributes, start_time=started)
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if request.compute_started_s is not None:
            inside = set_span_in_context(span, parent)
            computed_s = min(request.compute_started_s + request.compute_s, record.ended_s)
            for part, from_s, to_s in (
                ("queue", request.compute_started_s - request.queue_s, request.compute_started_s),
                ("compute", request.compute_started_s, computed_s),
                ("decode", computed_s, record.ended_s),
            ):
                self._tracer.start_span(part, inside, start_time=at(from_s)).end(at(to_s))
        span.end(at(record.ended_s))

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def open_tracer(environ: Mapping[str, str]) -> Tracer | None:
    """Return the tracer that OTEL_* selects, or None. Raises BadExporter."""
    name = exporter_name(environ)
    if name is None:
        return None
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        package = "opentelemetry-exporter-" + name.replace("_", "-")
        raise BadExporter(f"the OTEL_* exporter {name!r} is not installed; pip install {package}, or unset OTEL_*")
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return Tracer(BatchSpanProcessor(found[0].load()()), environ)
