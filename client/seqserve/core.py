"""All that the clients do, written once: head, tries, errors, reading. What differs between them is the Wire.

Everything here is a coroutine. The blocking client runs them too (`now`): its wire never waits for an event loop, so
a coroutine that uses it comes to its end at the first step.
"""

import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from random import Random
from typing import Any, Protocol, TypeVar

import httpx

from seqserve import errors
from seqserve.asks import Ask
from seqserve.tries import Tries
from seqserve.version import VERSION

T = TypeVar("T")

# The service answers a late request itself; this is for one that answers no more.
GRACE_S = 5.0
CONNECT_S = 5.0
# Below the five seconds after which the service ends an idle connection: a request that is sent into one that is
# just being closed could not be told from one that was taken.
KEEP_ALIVE = httpx.Limits(keepalive_expiry=3.0)

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Wire(Protocol):
    """Moves requests and answers."""

    @property
    def build(self) -> Callable[..., httpx.Request]: ...

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The head of the answer; its body is still to be read."""
        ...

    async def read(self, response: httpx.Response) -> None:
        """Read the whole body."""
        ...

    def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The body, as it comes."""
        ...

    async def end(self, response: httpx.Response) -> None:
        """Read no more of it."""
        ...

    async def sleep(self, seconds: float) -> None: ...


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose wire never waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("the wire of a blocking client has waited for an event loop")


class Core:
    """One service, by one wire."""

    def __init__(
        self,
        wire: Wire,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        tries: Tries,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of a service: give it as http://HOST:PORT")
        self.wire = wire
        self._url = url.rstrip("/")
        self._heads = {"user-agent": f"seqserve-client/{VERSION}"}
        if api_key is not None:
            self._heads["authorization"] = f"Bearer {api_key}"
        self._timeout_s, self._tries = timeout_s, tries
        self._clock, self._random = clock, random or Random()

    async def ask(self, ask: Ask[T]) -> T:
        """The answer to `ask`; a SeqserveError if there is none."""
        response = await self.open(ask)
        try:
            await self.wire.read(response)
        except httpx.TransportError as error:
            raise lost(error) from error
        finally:
            await self.wire.end(response)
        return read(ask.read, response.content)

    async def open(self, ask: Ask[Any]) -> httpx.Response:
        """The 200 of `ask`, its body unread, after as many tries as may be."""
        timeout_s = self._timeout_s if ask.timeout_s is None else ask.timeout_s
        started_s, left_s, tried = self._clock(), timeout_s, 0
        while True:
            tried += 1
            try:
                return await self._open_once(ask, left_s)
            except errors.SeqserveError as error:
                pause_s = self._tries.pause_s(error, tried, self._random)
                if pause_s is None:
                    raise
                left_s = timeout_s - (self._clock() - started_s) - pause_s
                if left_s <= 0:
                    raise
            await self.wire.sleep(pause_s)

    async def _open_once(self, ask: Ask[Any], left_s: float) -> httpx.Response:
        try:
            response = await self.wire.send(self._request(ask, left_s))
            if response.status_code == 200:
                return response
            try:
                await self.wire.read(response)
            finally:
                await self.wire.end(response)
        except httpx.TransportError as error:
            raise lost(error) from error
        raise errors.problem(response.status_code, _document(response), response.headers)

    def _request(self, ask: Ask[Any], left_s: float) -> httpx.Request:
        heads = {**self._heads, "x-request-timeout-s": f"{left_s:.6g}"}
        content = None
        if ask.body is not None:
            heads["content-type"] = "application/json"
            # What is no Unicode (half of a surrogate pair) is for the service to refuse, as everything else is.
            content = json.dumps(ask.body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        timeout = httpx.Timeout(left_s + GRACE_S, connect=min(left_s, CONNECT_S))
        method = "GET" if content is None else "POST"
        return self.wire.build(method, self._url + ask.path, content=content, headers=heads, timeout=timeout)


def lost(error: httpx.TransportError) -> errors.NoAnswer:
    """Which of our errors this is of httpx's."""
    says = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, _NOT_SENT):
        return errors.NotConnected(f"the service cannot be reached ({says}): is it running there?")
    if isinstance(error, httpx.TimeoutException):
        return errors.TimedOut(f"the service has said nothing in time ({says})")
    return errors.Broken(f"the connection ended before the answer ({says})")


def read(reader: Callable[[Any], T], content: bytes | str) -> T:
    """What `reader` makes of JSON; BadAnswer if it cannot."""
    try:
        return reader(json.loads(content))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise errors.BadAnswer(f"status 200 with a body that is no answer of seqserve: {error!r}") from error


def _document(response: httpx.Response) -> dict[str, Any]:
    """The body of a refusal; nothing if it is none of the service's, but a proxy's page."""
    try:
        document = json.loads(response.content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
