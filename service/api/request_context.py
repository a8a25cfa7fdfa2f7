"""One HTTP request and its answer, as every dialect needs them: head, limits, key, deadline, body, problem.

Knows no model, no dialect and no server: it never looks into a body, and bytes come and go through a Link.
"""

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from service.api.header_checks import check_length, check_media, seconds_of
from service.api.problems import PROBLEM, STATUSES, Dialect, Headers, headers_of, kind_of
from service.api.rate_limit_headers import key_of, limits_of
from service.api.request_headers import JSON, Head
from service.auth import Guest
from service.errors import ClientGone, DeadlinePassed, InternalError, MethodNotAllowed, ServiceError, shown
from service.request_record import Ended
from service.scheduling.job import InferenceRequest
from service.worker import Worker

log = logging.getLogger(__name__)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))  # of which a log may speak
GIVEN_UP = 499  # what proxies log where nothing was answered
OK, CANCELLED = "ok", "cancelled"  # the outcomes that are no problem's slug
TIMING = b'queue;dur=%.3f, compute;dur=%.3f, batch;desc="%d"'
SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
NO_NAMES: Mapping[str, str] = MappingProxyType({})
# Ids are minted as a prefix of the process and a number: as unique as a UUID, without its cost.
_PREFIX = secrets.token_hex(6).encode()
_numbers = itertools.count(1)


def mint_id(head: Head) -> bytes:
    """Return the request's own id, or a new one if it brings none or one that is not fit to be printed."""
    sent_id = head.fields.get(b"x-request-id")
    return sent_id if sent_id is not None and SANE_ID(sent_id) else b"%b-%x" % (_PREFIX, next(_numbers))


class Link(Protocol):
    """Where a request comes from and where its answer goes."""

    def gone(self) -> bool:
        """Return whether nobody is there any more. Asked at every step of the work: cheap."""
        ...

    def address(self) -> str:
        """Return the address at the other end of the connection, "" if it has none."""
        ...

    @property
    def arrived(self) -> bool:
        """Whether the whole body is here, so that reading it waits for nobody."""
        ...

    async def read(self, limit: int) -> bytes:
        """Return the whole body, once. Raises ClientGone, and TooLarge for more than ``limit`` bytes."""
        ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """Send the whole answer; nothing if nobody is there to read it."""
        ...

    async def start(self, status: int, headers: Headers) -> None:
        """Begin an answer in parts, whose length nobody knows yet."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part that is not empty; wait while the client does not take what it was sent. Raises ClientGone."""
        ...

    async def end(self) -> None:
        """Say that there are no more parts. An answer that was begun and is not ended was broken off."""
        ...

    def abort(self) -> None:
        """Break the connection: its client has gone from now on."""
        ...


class RequestContext:
    """A request that is being read and the answer that is being sent.

    ``route`` is the pattern of the path (a metrics label), ``names`` the parts of the path that it names,
    ``outcome`` how the request ended: ``ok`` once the answer is sent, a problem's slug, or ``cancelled`` if it came to
    neither. Errors are told in ``dialect``.
    """

    __slots__ = (
        *("_link", "added", "request", "dialect", "guest", "head", "model", "path_params", "outcome", "route", "sent"),
        *("started_s", "worker"),
    )

    def __init__(
        self,
        worker: Worker,
        route: str,
        head: Head,
        link: Link,
        *,
        path_params: Mapping[str, str] = NO_NAMES,
        dialect: Dialect = PROBLEM,
    ) -> None:
        self.worker = worker
        self.route = route
        self.path_params = path_params
        self.dialect = dialect
        self.head = head
        self.outcome = CANCELLED
        self.model: str | None = None
        self.started_s = time.monotonic()
        self.guest: Guest | None = None
        self.added: Headers | None = None  # to those of every answer
        self.sent = 0  # bytes of a whole answer
        self._link = link
        self.request = InferenceRequest(
            request_id=mint_id(head).decode(),
            route=route,
            deadline_s=self.started_s + worker.settings.deadline_s,
            is_disconnected=link.gone,
        )

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """The header fields that are read."""
        return self.head.fields

    @property
    def path(self) -> str:
        """The path of the request."""
        return self.head.path

    def check(self, methods: Collection[str], *, media: Sequence[str] = (JSON,), key: bool = True) -> None:
        """Check everything that the head of the request tells. Raises the RequestError that applies first.

        ``media``: of the body, none where the route reads none; ``key``: whether it wants an API key, where keys are
        set.
        """
        if self.head.method not in methods:
            raise MethodNotAllowed(
                f"{self.route} has no {shown(self.head.method)}; use {' or '.join(methods)}",
                available=list(methods),
            )
        if key:
            self.enter()
        if not self.head.plain:
            seconds = seconds_of(self.head)
            if seconds is not None:
                self.request.deadline_s = self.started_s + min(seconds, self.worker.settings.deadline_max_s)
            if media:
                check_media(self.head, media)
                check_length(self.head, self.worker.settings.body_bytes)

    def enter(self) -> None:
        """Let the client in, for one request or one message of a stream. Raises Unauthorized and RateLimited."""
        gate = self.worker.gate
        if gate is None:
            return
        self.guest = gate.enter(key_of(self.head) if gate.wants_keys else None, self._link.address)
        meter = self.guest.meter
        if meter is not None:
            refused = meter.take()
            self.added = limits_of(meter)
            if refused is not None:
                raise refused

    async def read(self) -> bytes:
        """Return the whole body. Raises TooLarge and ClientGone; for a client that dawdles, DeadlinePassed, or
        Unavailable if the drain ends first.
        """
        limit = self.worker.settings.body_bytes
        if self._link.arrived:  # no timer needed
            return await self._link.read(limit)
        try:
            async with self.worker.reading(self.request.deadline_s - time.monotonic()):
                return await self._link.read(limit)
        except TimeoutError:
            raise DeadlinePassed("the deadline passed before the whole body had arrived") from None

    async def answer(self, body: bytes, media: bytes, headers: Headers) -> None:
        """Send an answer."""
        await self._send(200, [(b"content-type", media), *headers], body)
        self.outcome = OK

    async def stream(
        self, media: bytes, chunks: AsyncGenerator[bytes, None], failed: Callable[[ServiceError], bytes]
    ) -> None:
        """Send an answer in parts as they come; none of them may be empty.

        Raises what `chunks` raises before the first of them. After it, an error is a last part that `failed` makes
        of it: a client never takes a broken answer for a whole one.
        """
        started = False
        telemetry, loop = self.worker.telemetry, asyncio.get_running_loop()
        telemetry.streams(self.model or "", 1)
        async with contextlib.aclosing(chunks):
            try:
                async for chunk in chunks:
                    if not started:
                        headers = [(b"content-type", media), (b"cache-control", b"no-store"), *self.common_headers()]
                        await self._link.start(200, headers)
                        started = True
                    # One that does not read holds a text and a connection, but not for ever.
                    stalled = loop.call_later(self.worker.settings.write_timeout_s, self._link.abort)
                    try:
                        await self._link.write(chunk)
                    finally:
                        stalled.cancel()
            except Exception as cause:
                if not started:
                    raise
                error = cause if isinstance(cause, ServiceError) else self.failed(cause)
                self.note(error)
                if not isinstance(error, ClientGone):
                    with contextlib.suppress(ClientGone):
                        await self._link.write(failed(error))
                        await self._link.end()
                return
            finally:
                telemetry.streams(self.model or "", -1)
        if not started:
            raise self.failed(RuntimeError("an answer in parts had none"))
        await self._link.end()
        self.outcome = OK

    async def refuse(self, error: ServiceError) -> None:
        """Send the problem that ``error`` is; nothing if nobody is there to read it."""
        self.note(error)
        if not isinstance(error, ClientGone):
            body = self.dialect.body(error, self.request.request_id)
            await self._send(kind_of(error).status, headers_of(error, self.dialect.media), body)

    def note(self, error: ServiceError) -> None:
        """Count the error that the request ends with."""
        self.outcome = kind_of(error).slug
        if not isinstance(error, ClientGone | InternalError):
            self.worker.telemetry.rejected(self.outcome)

    def failed(self, cause: BaseException) -> InternalError:
        """Log a bug under the request's id and return what the client is told."""
        log.error("request %s on %s failed", self.request.request_id, self.route, exc_info=cause)
        return InternalError()

    def common_headers(self) -> Headers:
        """Return the headers that every answer carries."""
        call = self.request
        timing = TIMING % (call.queue_s * 1e3, call.compute_s * 1e3, call.batch_items)
        headers = [(b"x-request-id", call.request_id.encode()), (b"server-timing", timing)]
        if self.added is not None:
            headers += self.added
        return headers

    def close(self) -> None:
        """Count the request. To be called once, however it ended."""
        ended_s = time.monotonic()
        self.worker.telemetry.request(self.route, self.model or "", self.outcome, ended_s - self.started_s)
        self.tell(ended_s)

    def tell(self, ended_s: float | None = None) -> None:
        """Tell those who watch that the request has ended, a stream as one."""
        if not self.worker.watchers:
            return
        ended = Ended(
            call=self.request,
            method=self.head.method if self.head.method in METHODS else "_OTHER",
            model=self.worker.telemetry.known(self.model or ""),
            outcome=self.outcome,
            status=STATUSES.get(self.outcome, 200 if self.outcome == OK else GIVEN_UP),
            key=self.guest.name if self.guest is not None else "",
            sent=self.sent,
            started_s=self.started_s,
            ended_s=time.monotonic() if ended_s is None else ended_s,
            parent=self.head.fields.get(b"traceparent", b"").decode("latin-1"),
        )
        for watch in self.worker.watchers:
            watch(ended)

    async def _send(self, status: int, headers: Headers, body: bytes) -> None:
        self.sent = len(body)
        headers += self.common_headers()
        headers.append((b"content-length", b"%d" % len(body)))
        await self._link.send(status, headers, body)
