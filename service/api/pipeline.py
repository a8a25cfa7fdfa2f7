"""One request in the pipeline, in any protocol: HTTP, WebSocket or gRPC.

Each protocol creates a RequestContext, calls ``begin`` before the work and ``finish`` after it::

    context = RequestContext(worker, "/v1/tag", headers, client_address=…, is_disconnected=…)
    try:
        await context.begin()  # API key, rate limit, deadline
        …
        context.outcome = OK
    except Exception as cause:
        error = context.fail(cause)  # the error to answer with
    finally:
        context.finish()  # metrics, access log, span

``handle`` does this for HTTP, on the ordinary path (asgi.py) and on the fast path. Handlers return values; this is the
only place that sends answers.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol
from urllib.parse import parse_qsl

import orjson

from service.api.problems import PROBLEM, STATUSES, ErrorFormat, Headers, headers_of, kind_of
from service.api.request_headers import (
    JSON,
    RequestHeaders,
    api_key_of,
    check_length,
    check_media,
    check_origin_of_body,
    content_coding,
    decompress,
    rate_limit_headers,
    timeout_of,
)
from service.api.routes import EventStream, Reply, Route
from service.auth import Principal
from service.errors import (
    ClientGone,
    DeadlinePassed,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ServiceError,
    shown,
)
from service.scheduling.job import InferenceRequest
from service.telemetry import RequestRecord
from service.worker import Worker

log = logging.getLogger(__name__)
JSON_MEDIA = (b"content-type", b"application/json")
# nginx buffers answers unless this header says otherwise.
STREAM_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
SendAnswer = Callable[[int, Headers, bytes], Awaitable[None]]  # of status, headers and body

KNOWN_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))  # others are not logged by name
STATUS_DISCONNECTED = 499  # what proxies log when no answer was sent
OK, CANCELLED = "ok", "cancelled"  # the outcomes that are not the slug of a problem
SERVER_TIMING = b'queue;dur=%.3f, compute;dur=%.3f, batch;desc="%d"'
DECODING_TIMING = b", prefill;dur=%.3f, steps;dur=%.3f"  # the two parts of compute
NO_PARAMS: Mapping[str, str] = MappingProxyType({})
VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
# A random prefix for each process and a counter: as unique as a UUID and cheaper.
_ID_PREFIX = secrets.token_hex(6).encode()
_id_numbers = itertools.count(1)


def request_id_of(headers: RequestHeaders | None) -> bytes:
    """Return the client's request id, or a new one if it sent none that is safe to print."""
    sent = headers.get(b"x-request-id") if headers is not None else None
    return sent if sent is not None and VALID_ID(sent) else b"%b-%x" % (_ID_PREFIX, next(_id_numbers))


class RequestContext:
    """One request: where it came from, who sent it, and how it ended.

    ``route`` is the pattern of the path and a metrics label. ``outcome`` is ``ok`` once the answer is sent, the slug of
    a problem, or ``cancelled`` if neither happened.
    """

    __slots__ = (
        *("_client_address", "error", "headers", "method", "model", "model_in_url", "outcome", "path", "path_params"),
        *("principal", "query", "rate_limit_headers", "request", "route", "sent_bytes", "started_s", "worker"),
    )

    def __init__(
        self,
        worker: Worker,
        route: str,
        headers: RequestHeaders,
        *,
        client_address: Callable[[], str],
        is_disconnected: Callable[[], bool],
        method: str = "POST",
        path: str = "",
        path_params: Mapping[str, str] = NO_PARAMS,
        query: bytes = b"",
    ) -> None:
        self.worker = worker
        self.route = route
        self.headers = headers
        self.method = method
        self.path = path
        self.path_params = path_params
        self.query = query
        self.outcome = CANCELLED
        self.error: ServiceError | None = None  # that it was answered with
        self.model: str | None = None
        self.model_in_url = path_params.get("id")  # the model that the path or the query names
        self.principal: Principal | None = None
        self.rate_limit_headers: Headers | None = None
        self.sent_bytes = 0  # of an answer that is sent in one piece
        self.started_s = time.monotonic()
        self._client_address = client_address
        self.request = InferenceRequest(
            request_id=request_id_of(headers).decode(),
            route=route,
            deadline_s=self.started_s + worker.settings.deadline_s,
            is_disconnected=is_disconnected,
        )

    async def begin(self, *, authenticate: bool = True, timeout_s: float | None = None) -> None:
        """Authenticate the client, count the request against its rate limits, and set the deadline.

        ``timeout_s`` defaults to the header X-Request-Timeout-S, then to the setting ``deadline_s``; ``deadline_max_s``
        caps it. Raises Unauthorized, RateLimited and InvalidRequest. Call it again for each message of a stream.
        """
        if authenticate and self.worker.authenticator is not None:
            await self._authenticate()
        if timeout_s is None:
            timeout_s = timeout_of(self.headers)
        if timeout_s is not None:
            self.request.deadline_s = self.started_s + min(timeout_s, self.worker.settings.deadline_max_s)

    async def _authenticate(self) -> None:
        authenticator = self.worker.authenticator
        assert authenticator is not None
        key = api_key_of(self.headers) if authenticator.requires_key else None
        self.principal = authenticator.authenticate(key, self._client_address)
        self.request.client = self.principal.client
        limiter = self.worker.rate_limiter
        if limiter is None or self.principal.policy.is_unlimited:
            return
        statuses, refused = await limiter.count(self.principal.client, self.principal.policy)
        self.rate_limit_headers = rate_limit_headers(statuses) if statuses else None
        if refused is not None:
            raise refused

    def check_admin(self) -> None:
        """Raise Forbidden if the service has API keys, and that of the request has not the role admin."""
        authenticator, principal = self.worker.authenticator, self.principal
        if authenticator is None or not authenticator.requires_key or (principal is not None and principal.is_admin):
            return
        raise Forbidden("the API key may not change what is served; add role=admin to its line in the key file")

    def read_query(self, query: bytes, accepted: Sequence[str]) -> None:
        """Read the model of the query. Raises InvalidRequest for any parameter that is not ``accepted``."""
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name not in accepted:
                read = f"this route reads only {', '.join(accepted)}; send others in the body"
                message = f"unknown query parameter; {read if accepted else 'this route reads none; leave it out'}"
                raise InvalidRequest(message, field=f"?{shown(name)}", value=name, available=accepted or None)
            if name != "model":
                continue
            if not value:
                raise InvalidRequest("empty; send the name of a model, or leave it out", field="?model", value=value)
            self._check_model(value, "?model")
            self.model_in_url = value

    def choose_model(self, named: str | None, task: str) -> str | None:
        """Set and return the model: that of the URL, that ``named`` in the body, or the default of the task.

        Returns None if no bundle has the task. Raises InvalidRequest if two different models are named.
        """
        if self.model_in_url is not None:
            self._check_model(named, "model")
            named = self.model_in_url
        self.model = named or self.worker.default_models.get(task)
        return self.model

    def _check_model(self, name: str | None, field: str) -> None:
        in_url = self.model_in_url
        if name is not None and in_url is not None and name != in_url:
            message = f"{shown(name)!r} differs from {shown(in_url)!r} in the URL; send one of them"
            raise InvalidRequest(message, field=field, limit=shown(in_url), value=name)

    def fail(self, cause: BaseException) -> ServiceError:
        """Set the outcome to the error that ``cause`` is, count it, and return it.

        An unexpected exception is logged with the request id and becomes an InternalError.
        """
        error = cause if isinstance(cause, ServiceError) else InternalError()
        if error is not cause:
            log.error("request %s on %s failed", self.request.request_id, self.route, exc_info=cause)
        self.error, self.outcome = error, kind_of(error).slug
        if not isinstance(error, ClientGone | InternalError):
            self.worker.telemetry.rejected(self.outcome)
        return error

    def response_headers(self) -> Headers:
        """Return the headers of every answer: request id, Server-Timing, the model that answers, and rate limits."""
        request = self.request
        timing = SERVER_TIMING % (request.queue_s * 1e3, request.compute_s * 1e3, request.batch_items)
        if request.prefill_s is not None:
            steps_s = max(0.0, request.compute_s - request.prefill_s)
            timing += DECODING_TIMING % (request.prefill_s * 1e3, steps_s * 1e3)
        headers = [(b"x-request-id", request.request_id.encode()), (b"server-timing", timing)]
        if request.model is not None:
            headers.append((b"x-model", request.model.label))
        if self.rate_limit_headers is not None:
            headers += self.rate_limit_headers
        return headers

    def model_labels(self) -> tuple[str, str]:
        """Return name and version of the model, for metrics. The version is "" if no model has the request yet."""
        found = self.request.model
        return (self.worker.telemetry.known(self.model or ""), "") if found is None else (found.name, found.version)

    def finish(self) -> None:
        """Count the request, and write its access log line and span. Call it once, however the request ended."""
        ended_s = time.monotonic()
        self.worker.telemetry.request(self.route, *self.model_labels(), self.outcome, ended_s - self.started_s)
        if self.worker.observers:
            self.record(ended_s)

    def record(self, ended_s: float | None = None) -> None:
        """Write the access log line and the span."""
        if not self.worker.observers:
            return
        model, version = self.model_labels()
        record = RequestRecord(
            request=self.request,
            method=self.method if self.method in KNOWN_METHODS else "_OTHER",
            model=model,
            version=version,
            outcome=self.outcome,
            status=STATUSES.get(self.outcome, 200 if self.outcome == OK else STATUS_DISCONNECTED),
            key=self.principal.name if self.principal is not None else "",
            sent_bytes=self.sent_bytes,
            started_s=self.started_s,
            ended_s=time.monotonic() if ended_s is None else ended_s,
            traceparent=(self.headers.get(b"traceparent") or b"").decode("latin-1"),
        )
        for observe in self.worker.observers:
            observe(record)


class Transport(Protocol):
    """The connection of one HTTP request: its source, and the destination of its answer."""

    def is_disconnected(self) -> bool:
        """Return whether the client has closed the connection. Called at every decoding step, so it must be cheap."""
        ...

    def client_address(self) -> str:
        """Return the address of the peer, or "" if it has none."""
        ...

    def whole_body(self, limit: int) -> bytes | None:
        """Return the body, once, or None if it has not arrived. Raises TooLarge for more than ``limit`` bytes."""
        ...

    async def read_body(self, limit: int) -> bytes:
        """Wait for the body and return it, once. Raises ClientGone, and TooLarge as ``whole_body``."""
        ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer, unless the client has disconnected."""
        ...

    async def start(self, status: int, headers: Headers) -> None:
        """Start an answer of unknown length."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a chunk, which is not empty, and wait while the client does not read. Raises ClientGone."""
        ...

    async def end(self) -> None:
        """End an answer that was started. Without this call, the client sees a broken answer."""
        ...

    def abort(self) -> None:
        """Close the connection immediately."""
        ...


async def handle(
    worker: Worker,
    route: Route,
    transport: Transport,
    headers: RequestHeaders,
    *,
    method: str = "POST",
    path: str = "",
    path_params: Mapping[str, str] = NO_PARAMS,
    query: bytes = b"",
) -> RequestContext:
    """Answer one HTTP request, and return its context. Raises only what the transport raises."""
    context = RequestContext(
        worker,
        route.pattern,
        headers,
        client_address=transport.client_address,
        is_disconnected=transport.is_disconnected,
        method=method,
        path=path,
        path_params=path_params,
        query=query,
    )
    try:
        try:
            if route.methods and method not in route.methods:
                raise _method_error(route, method)
            if b"x-request-timeout-s" in headers or (worker.authenticator is not None and not route.public):
                await context.begin(authenticate=not route.public)
            if query and not route.public:
                context.read_query(query, route.query)
            if route.task and context.model_in_url is not None:
                # Before the body is parsed as one for another task.
                worker.engine.runtime_for(route.task, context.model_in_url)
            body = await _read_body(context, route, transport) if route.reads_body else b""
            answer = await route.handler(context, body)
            if isinstance(answer, EventStream):
                await _send_stream(context, transport, answer)
                return context
            if isinstance(answer, Reply):
                headers_sent, body = [(b"content-type", answer.media), *answer.headers], answer.body
            else:
                headers_sent, body = [JSON_MEDIA], orjson.dumps(answer)
        except Exception as cause:
            await refuse(context, transport.send, cause, route.error_format)
        else:
            await _send(context, transport.send, 200, headers_sent, body)
            context.outcome = OK
    finally:
        context.finish()
    return context


async def refuse(
    context: RequestContext, send: SendAnswer, cause: Exception, error_format: ErrorFormat = PROBLEM
) -> None:
    """Answer with the error that ``cause`` is, unless the client has disconnected."""
    error = context.fail(cause)
    if not isinstance(error, ClientGone):
        body = error_format.body(error, context.request.request_id)
        await _send(context, send, kind_of(error).status, headers_of(error, error_format.media), body)


def _method_error(route: Route, method: str) -> MethodNotAllowed:
    return MethodNotAllowed(
        f"{route.pattern} does not have the method {shown(method)}; use {' or '.join(route.methods)}",
        available=list(route.methods),
    )


async def _read_body(context: RequestContext, route: Route, transport: Transport) -> bytes:
    """Check the headers of the body, and return all of it.

    Raises DeadlinePassed or, when the worker drains, Unavailable if it is late.
    """
    headers, limit, coding = context.headers, context.worker.settings.body_bytes, ""
    if headers.get(b"content-type") != b"application/json" or b"content-encoding" in headers or headers.repeated:
        check_media(headers, route.media)
        check_origin_of_body(headers, context.worker.settings.cors_origins)
        coding = content_coding(headers)
    elif JSON not in route.media:
        check_media(headers, route.media)
    body = transport.whole_body(limit)
    if body is None:
        check_length(headers, limit)
        try:
            async with context.worker.time_limit(context.request.deadline_s - time.monotonic()):
                body = await transport.read_body(limit)
        except TimeoutError:
            raise DeadlinePassed("the deadline passed before the whole body had arrived") from None
    return decompress(body, coding, limit) if coding else body


async def _send_stream(context: RequestContext, transport: Transport, stream: EventStream) -> None:
    """Send an answer chunk by chunk.

    Raises what ``stream.chunks`` raises before the first chunk. A later error becomes a last chunk, so that a client
    never mistakes a broken answer for a complete one.
    """
    started = False
    settings, telemetry, loop = context.worker.settings, context.worker.telemetry, asyncio.get_running_loop()
    labels = context.model_labels()
    telemetry.streams(*labels, 1)
    async with contextlib.aclosing(stream.chunks):
        try:
            async for chunk in stream.chunks:
                if not started:
                    headers = [(b"content-type", stream.media), *STREAM_HEADERS]
                    await transport.start(200, headers + context.response_headers())
                    started = True
                # A client that reads nothing holds a slot and a connection: limit for how long.
                stalled = loop.call_later(settings.write_timeout_s, transport.abort)
                try:
                    await transport.write(chunk)
                finally:
                    stalled.cancel()
            if not started:
                raise RuntimeError("an event stream had no event")
        except Exception as cause:
            if not started:
                raise
            error = context.fail(cause)
            if not isinstance(error, ClientGone):
                with contextlib.suppress(ClientGone):
                    await transport.write(stream.on_error(error))
                    await transport.end()
            return
        finally:
            telemetry.streams(*labels, -1)
    await transport.end()
    context.outcome = OK


async def _send(context: RequestContext, send: SendAnswer, status: int, headers: Headers, body: bytes) -> None:
    context.sent_bytes = len(body)
    headers += context.response_headers()
    headers.append((b"content-length", b"%d" % len(body)))
    await send(status, headers, body)
