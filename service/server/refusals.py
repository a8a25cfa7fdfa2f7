"""Repeated refusals: under overload, refusing a request must cost almost nothing.

Admission refuses one request of a client because the queue is full. For REPEAT_S, the requests of that client to the
same route are refused with the same answer, before their bodies are parsed. The queue holds more work than REPEAT_S, so
it does not run empty. If the queue may have room for a shorter body, requests with one ask admission. So do requests to
generate or translate: their body does not show what they cost, and a text costs far more than a refusal. The body of a
translation can also choose another model by its languages.
"""

import time
from dataclasses import dataclass

from service.api.pipeline import SERVER_TIMING, RequestContext, request_id_of
from service.api.problems import TABLE, headers_of
from service.api.request_headers import RequestHeaders
from service.api.routes import Route
from service.errors import Overloaded
from service.worker import Worker

REPEAT_S = 0.01
CLIENTS_MAX = 1000
# Requests with other headers may get another answer than 429, such as 415. The content type is checked.
IGNORED_HEADERS = frozenset(
    (
        *(b"host", b"content-length", b"content-type", b"accept", b"accept-encoding", b"user-agent", b"connection"),
        *(b"x-request-id", b"traceparent", b"tracestate", b"x-forwarded-for", b"x-forwarded-proto"),
    )
)
MODEL, ESCAPE = b'"model"', b"\\u"  # a JSON body without these has no field "model"
DECODING = ("generate", "translate", "caption")  # tasks
QUEUE_FULL = TABLE[Overloaded].slug
NO_TIMING = b"server-timing: %b\r\n" % SERVER_TIMING % (0.0, 0.0, 0)
ID = "request-id-of-the-answer"


@dataclass(slots=True)
class _Refusal:
    expires_s: float
    labels: tuple[str, str]  # name and version of the model, for metrics
    body_bytes: int  # of the shortest body that is refused
    head: bytes  # header lines
    body: list[bytes]  # the parts around the request id


class RefusalCache:
    """The refusals of one worker, by route and client address. ``active``: whether there may be any."""

    def __init__(self, worker: Worker) -> None:
        self.active = False
        self._worker = worker
        self._refusals: dict[tuple[str, str], _Refusal] = {}

    def store(self, route: Route, client: str, context: RequestContext, error: Overloaded, *, body_bytes: int) -> None:
        """Repeat a refusal of the default model's queue, unless requests are authenticated or logged one by one."""
        worker, model = self._worker, context.model
        if route.task in DECODING or model is None or route.path_params:
            return
        if worker.authenticator is not None or worker.observers or model != worker.default_models.get(route.task):
            return
        if len(self._refusals) >= CLIENTS_MAX:
            self._refusals.clear()
        error_format = route.error_format
        head = b"".join(b"%b: %b\r\n" % header for header in headers_of(error, error_format.media)) + NO_TIMING
        parts = error_format.body(error, ID).split(ID.encode())
        least_bytes = 0 if error.any_size else body_bytes
        expires_s = time.monotonic() + REPEAT_S
        self._refusals[route.pattern, client] = _Refusal(expires_s, context.model_labels(), least_bytes, head, parts)
        self.active = True

    def find(self, route: Route, client: str, headers: RequestHeaders, body: list[bytes]) -> tuple[bytes, bytes] | None:
        """Return the header lines and the body of the refusal to repeat, or None to ask admission."""
        refusal = self._refusals.get((route.pattern, client))
        if refusal is None:
            return None
        if time.monotonic() > refusal.expires_s:
            del self._refusals[route.pattern, client]
            self.active = bool(self._refusals)
            return None
        content = body[0] if len(body) == 1 else b"".join(body)  # a name may be in two pieces
        if len(content) < refusal.body_bytes or MODEL in content or ESCAPE in content:
            return None
        if headers.repeated or not IGNORED_HEADERS.issuperset(headers):
            return None
        if headers.get(b"content-type", b"application/json") != b"application/json":
            return None
        telemetry = self._worker.telemetry
        telemetry.request(route.pattern, *refusal.labels, QUEUE_FULL, 0.0)
        telemetry.rejected(QUEUE_FULL)
        request_id = request_id_of(headers)
        answer = request_id.join(refusal.body)
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n" % (refusal.head, request_id, len(answer)), answer
