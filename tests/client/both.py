"""The same call by both clients against a service that is a function; what they make of it has to be the same."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from seqserve import AsyncClient, Client, Tries

Service = Callable[[httpx.Request], httpx.Response]
ONCE = Tries(most=1)


def answering(body: Any, status: int = 200, **headers: str) -> Service:
    """A service that always says the same."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, json=body, headers=named)


def raising(error: Exception) -> Service:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    return fail


def call(service: Service, verb: str, *args: Any, client: dict[str, Any] | None = None, **options: Any) -> Any:
    """What `verb` of both clients returns, or raises: an error is returned as a value."""
    found = [_blocking(service, verb, args, client or {}, options)]
    found.append(asyncio.run(_async(service, verb, args, client or {}, options)))
    assert type(found[0]) is type(found[1])
    assert repr(found[0]) == repr(found[1])
    return found[0]


def sent(verb: str, *args: Any, reply: Any, client: dict[str, Any] | None = None, **options: Any) -> httpx.Request:
    """The request that both clients send for a call."""
    requests: list[httpx.Request] = []

    def keep(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, json=reply)

    call(keep, verb, *args, client=client, **options)
    assert requests[0].content == requests[1].content
    assert dict(requests[0].headers) == dict(requests[1].headers)
    return requests[0]


def body_of(request: httpx.Request) -> Any:
    return json.loads(request.content)


def _blocking(service: Service, verb: str, args: Any, how: dict[str, Any], options: dict[str, Any]) -> Any:
    http = httpx.Client(transport=httpx.MockTransport(service))
    with http, Client("http://test", http=http, tries=ONCE, **how) as client:
        try:
            return getattr(client, verb)(*args, **options)
        except Exception as error:
            return error


async def _async(service: Service, verb: str, args: Any, how: dict[str, Any], options: dict[str, Any]) -> Any:
    http = httpx.AsyncClient(transport=httpx.MockTransport(service))
    async with http, AsyncClient("http://test", http=http, tries=ONCE, **how) as client:
        try:
            return await getattr(client, verb)(*args, **options)
        except Exception as error:
            return error
