"""The short way of a request to /v1/: from the socket to the engine and back, without ASGI, a task or a timer.

uvicorn's own protocol with one addition: a head that is, but for the digits of Content-Length, the last one of its
connection (the last one of all, if it is the first) is not parsed again; what the parser made of that is taken. Only a
request that arrives alone and whole goes this way; whatever else comes, uvicorn treats as ever. Its limit_concurrency,
which BentoML does not set, is not looked at here. Knows uvicorn's protocol class and the lean application, and nothing
of what is asked.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS, WS_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.api.header_checks import too_large
from service.api.problems import Headers
from service.api.request_headers import Head
from service.errors import ClientGone
from service.server.connection_limits import Bounded
from service.server.head_cache import Known
from service.server.root_app import Front
from service.server.websocket_limits import Narrow

log = logging.getLogger(__name__)


def install() -> None:
    """Make uvicorn take these protocols where it would pick some itself: BentoML leaves it no other way to be told."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Direct.__name__}"
    WS_PROTOCOLS["auto"] = f"{Narrow.__module__}:{Narrow.__name__}"


class Direct(Bounded):
    """One connection. The Link of the one request that is on the short way, if there is one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.config.app
        self._front = app if isinstance(app, Front) else None  # not ours: everything goes uvicorn's way
        self._running = False
        self._lost = False
        self._last = False  # the server shuts down: the connection ends with this answer
        self._later = b""  # came while a request was running
        self._body = b""
        self._answered = False  # the request on the short way has its whole answer
        self._begun = False  # and the beginning of it
        self._known: Known | None = None  # the last head that was parsed, see heads.py
        self._idle: asyncio.TimerHandle | None = None

    # What uvicorn's protocol is told

    def data_received(self, data: bytes) -> None:
        """Take a request the short way, or leave it to uvicorn."""
        if self._running:
            self._later += data
            self.flow.pause_reading()
            return
        if self._front is None or not self._between or not self._is_free():
            super().data_received(data)
            return
        known = self._known or self._front.known
        body = known.body(data) if known is not None else None
        if body is None or known is None:
            super().data_received(data)
            self._learn(data)
            return
        self._unset_keepalive_if_required()
        self._known, self._new = known, False
        self._body = body
        self._answered = self._begun = False
        head = known.head
        refused = self._front.refusals.find(head, body)
        if refused is not None:
            self._write(STATUS_LINE[429], *refused)
            self._done()
            return
        self._running = True
        Run(self._front.lean.answer(head, self), self._done, self.loop).step()

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn."""
        self._lost, self._later = True, b""
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """See uvicorn. The connection is no longer one that can be idle, and its head is none of a request."""
        self._front = None
        if self._idle is not None:
            self._idle.cancel()
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        """End the connection, after the answer that is under way."""
        if self._running:
            self._last = True
        else:
            super().shutdown()

    def _is_free(self) -> bool:
        """Whether uvicorn has no request of this connection in hand, and its client takes what it is sent."""
        idle = self.cycle is None or self.cycle.response_complete
        return idle and not self.flow.write_paused and not self.transport.is_closing()

    def _learn(self, data: bytes) -> None:
        """Remember the head that uvicorn has just parsed, if it is of the plain kind that the short way is for."""
        cycle = self.cycle
        if self._front is None or not self._between or cycle is None or cycle.more_body:
            return
        names = [name for name, _ in self.headers]
        plain = (
            cycle.keep_alive
            and not (self._front.cors is not None and b"origin" in names)  # answered by where it comes from
            and self.scope["http_version"] == "1.1"
            and not self.scope["query_string"]
            and names.count(b"content-length") == 1
            and not {b"transfer-encoding", b"expect", b"upgrade"}.intersection(names)
            and all(value.lower() == b"keep-alive" for name, value in self.headers if name == b"connection")
        )
        if plain:
            fields = [(name, value) for name, value in self.headers if name != b"content-length"]
            self._known = Known.of(data, Head.of(self.scope["method"], self.scope["path"], fields))
            # No other client's bytes are compared with a key.
            if self._known is not None and b"authorization" not in self._known.head.fields:
                self._front.known = self._known

    def _is_the_clients_turn(self) -> bool:
        return not self._running and super()._is_the_clients_turn()

    # The Link

    def gone(self) -> bool:
        """See Link."""
        return self._lost

    def address(self) -> str:
        """See Link."""
        return self.client[0] if self.client else ""

    @property
    def arrived(self) -> bool:
        """See Link."""
        return True

    async def read(self, limit: int) -> bytes:
        """See Link."""
        body, self._body = self._body, b""
        if len(body) > limit:
            raise too_large(limit, len(body))
        return body

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """See Link."""
        if not self._lost:
            self._write(STATUS_LINE[status], b"".join([b"%b: %b\r\n" % header for header in headers]), body)

    async def start(self, status: int, headers: Headers) -> None:
        """See Link."""
        if not self._lost:
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self._write(STATUS_LINE[status], lines + b"transfer-encoding: chunked\r\n", b"")
            self._answered = False  # not before its end

    async def write(self, data: bytes) -> None:
        """See Link."""
        if not self._lost:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            if self.flow.write_paused:
                await self.flow.drain()
        if self._lost:
            raise ClientGone

    async def end(self) -> None:
        """See Link."""
        if not self._lost:
            self.transport.write(b"0\r\n\r\n")
            self._answered = True

    def abort(self) -> None:
        """See Link."""
        self.transport.abort()

    def _write(self, status_line: bytes, lines: bytes, body: bytes) -> None:
        """Send an answer with uvicorn's headers and the `lines` of more."""
        server = self._front.lines_of(self.server_state.default_headers) if self._front is not None else b""
        end = b"connection: close\r\n\r\n" if self._last else b"\r\n"
        self.transport.write(b"".join((status_line, server, lines, end, body)))
        self._answered = self._begun = True

    def _done(self) -> None:
        """The answer is out: go on with what came meanwhile."""
        self._running, self._body = False, b""
        self.server_state.total_requests += 1
        if self._lost:
            return
        if not self._answered:  # a bug of ours: what came next must not be taken for this answer
            self._last = True
            if not self._begun:
                self._write(STATUS_LINE[500], b"content-length: 0\r\n", b"")
        if self._last:
            self.transport.close()
            return
        self._turn_since_s = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)
        if self._later:
            later, self._later = self._later, b""
            self.flow.resume_reading()
            self.data_received(later)

    def _close_if_idle(self) -> None:
        """End a connection that has had nothing to do; one timer a connection, not one a request."""
        busy = self._running or not self._between or not (self.cycle is None or self.cycle.response_complete)
        left_s = self.timeout_keep_alive - (0.0 if busy else self.loop.time() - self._turn_since_s)
        if left_s <= 0:
            self._idle = None
            self.timeout_keep_alive_handler()
        else:
            self._idle = self.loop.call_later(left_s, self._close_if_idle)


class Run:
    """Runs a coroutine, at the first `step` as far as it goes, then from what it waits for, as asyncio.Task does.

    Unlike a task it cannot be cancelled: whom it works for may be gone, which the work itself looks for. An object,
    because a function that names itself is a cycle for the collector to find.
    """

    __slots__ = ("_coroutine", "_done", "_loop")

    def __init__(
        self, coroutine: Coroutine[Any, None, None], done: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._coroutine, self._done, self._loop = coroutine, done, loop

    def step(self, _: object = None) -> None:
        """Go on to where the coroutine waits next; ``done`` is called at its end."""
        try:
            waited: Any = self._coroutine.send(None)
        except StopIteration:
            self._done()
        except Exception as error:  # the application answers its own errors: this is a bug
            log.critical("a request was given up", exc_info=error)
            self._done()
        else:
            if waited is None:  # asyncio.sleep(0)
                self._loop.call_soon(self.step)
            else:
                waited._asyncio_future_blocking = False  # "yes, this future was yielded to somebody who will wait"
                waited.add_done_callback(self.step)
