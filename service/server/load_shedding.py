"""429 for a request that need not even be read: under overload, what is refused must cost next to nothing.

Knows the routes' tasks and how a problem looks; what is full is the engine's affair.
"""

import time

from service.api.native import ROUTES
from service.api.problems import headers_of, kind_of
from service.api.request_context import TIMING, mint_id
from service.api.request_headers import Head
from service.api.routes import Route
from service.worker import Worker

FRESH_S = 0.01  # how long one is given again: it tells a client when to come back, in whole seconds
ID = "the-id-goes-here"
NAMING = (b'"model"', b"\\u")  # without one of them no JSON has a field of that name; with one, it may
NO_TIMING = b"server-timing: %b\r\n" % TIMING % (0.0, 0.0, 0)


class Refusals:
    """The answers to requests that the engine would refuse whatever is in them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._prepared: dict[str, tuple[float, bytes, list[bytes]]] = {}  # path -> until when, head, body around its id

    def find(self, head: Head, body: bytes) -> tuple[bytes, bytes] | None:
        """Return the last lines of the answer's head and its body; None for a request that has to be looked at.

        Only for requests without a word about themselves: keys, deadlines and wrong media types come first. Of several
        bundles it is the one that answers where none is named.
        """
        route = ROUTES.literal.get(head.path)
        worker = self._worker
        if (
            route is None
            or not route.task
            or not head.plain
            or head.method != "POST"
            or worker.gate is not None
            or worker.watchers
        ):
            return None
        engine = worker.ready_engine
        if engine is None or not engine.is_full(route.task):
            return None
        if engine.choices(route.task) > 1 and any(mark in body for mark in NAMING):
            return None
        now_s = time.monotonic()
        until_s, lines, parts = self._prepared.get(head.path, (0.0, b"", []))
        if now_s >= until_s:
            lines, parts = self._prepare(route)
            self._prepared[head.path] = now_s + FRESH_S, lines, parts
        sent_id = mint_id(head)
        answer = sent_id.join(parts)  # of one part in dialects that do not tell the id
        worker.telemetry.request(head.path, worker.default_model(route.task) or "", "queue-full", 0.0)
        worker.telemetry.rejected("queue-full")
        return b"%bx-request-id: %b\r\ncontent-length: %d\r\n" % (lines, sent_id, len(answer)), answer

    def _prepare(self, route: Route) -> tuple[bytes, list[bytes]]:
        error = self._worker.engine.overload(route.task)
        assert kind_of(error).slug == "queue-full"
        lines = b"".join(b"%b: %b\r\n" % header for header in headers_of(error, route.dialect.media)) + NO_TIMING
        return lines, route.dialect.body(error, ID).split(ID.encode())
