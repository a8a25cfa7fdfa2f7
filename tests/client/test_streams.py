"""Streams of both clients: tokens, the whole text, errors in the middle, leaving early."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from seqserve import AsyncClient, Broken, Client, Generation, InternalError, Overloaded, Token, Tries


def event(text: str, whole: str | None = None) -> bytes:
    details = None if whole is None else {"finish_reason": "length", "generated_tokens": 2, "seed": 7}
    token = {"id": 5, "text": text, "logprob": -0.5, "special": False}
    return b"data: %s\n\n" % json.dumps({"token": token, "generated_text": whole, "details": details}).encode()


PROBLEM = {"type": "urn:x", "title": "t", "status": 500, "detail": "a bug", "request_id": "r-1"}
WHOLE = [b": keep-alive\n\n", event("a"), event("b", "ab")]
FAILED = [event("a"), b"event: error\ndata: %s\n\n" % json.dumps(PROBLEM).encode()]
CUT = [event("a")]
TOKENS = [Token(id=5, text="a", logprob=-0.5), Token(id=5, text="b", logprob=-0.5)]


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks, self.closed = chunks, False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


def full(retry_after: str) -> httpx.Response:
    return httpx.Response(429, json={}, headers={"retry-after": retry_after})


def stream_of(chunks: list[bytes]) -> httpx.Response:
    return httpx.Response(200, stream=Chunks(chunks))


def clients(*answers: Callable[[], httpx.Response]) -> tuple[Client, AsyncClient]:
    """Both, of services that give these answers one after the other."""
    ours, theirs = iter(answers), iter(answers)
    tries = Tries(first_pause_s=0.0)
    http = httpx.Client(transport=httpx.MockTransport(lambda request: next(ours)()))
    aio = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: next(theirs)()))
    return Client("http://test", http=http, tries=tries), AsyncClient("http://test", http=aio, tries=tries)


async def gone_through(aio: AsyncClient, tokens: list[Token]) -> None:
    async for token in aio.generate_stream("x"):
        tokens.append(token)


async def test_tokens_come_one_by_one_and_the_text_with_the_last() -> None:
    client, aio = clients(partial(stream_of, WHOLE))
    stream, astream = client.generate_stream("x"), aio.generate_stream("x")
    assert stream.generation is None
    assert list(stream) == [token async for token in astream] == TOKENS
    whole = Generation(text="ab", finish_reason="length", generated_tokens=2, seed=7)
    assert stream.generation == astream.generation == whole


@pytest.mark.parametrize(("chunks", "error"), [(FAILED, InternalError), (CUT, Broken)])
async def test_a_stream_that_does_not_end_well_raises_after_what_it_gave(chunks: Any, error: Any) -> None:
    client, aio = clients(partial(stream_of, chunks))
    tokens: list[Token] = []
    with pytest.raises(error):
        tokens.extend(client.generate_stream("x"))
    with pytest.raises(error):
        await gone_through(aio, tokens)
    assert tokens == TOKENS[:1] * 2


async def test_who_breaks_off_ends_the_answer() -> None:
    body, abody = Chunks(WHOLE), Chunks(WHOLE)
    client, _ = clients(lambda: httpx.Response(200, stream=body))
    _, aio = clients(lambda: httpx.Response(200, stream=abody))
    for _ in client.generate_stream("x"):
        break
    async with aio.generate_stream("x") as astream:
        async for _ in astream:
            break
    assert (body.closed, abody.closed) == (True, True)


def test_a_block_ends_the_answer_even_while_its_iterator_lives() -> None:
    body = Chunks(WHOLE)
    client, _ = clients(lambda: httpx.Response(200, stream=body))
    with client.generate_stream("x") as stream:
        tokens = iter(stream)
        next(tokens)
    assert body.closed


async def test_a_stream_is_tried_again_before_it_has_begun() -> None:
    client, aio = clients(partial(full, "0"), partial(stream_of, WHOLE))
    assert list(client.generate_stream("x")) == [token async for token in aio.generate_stream("x")] == TOKENS


def test_a_stream_is_not_tried_again_once_it_has_begun() -> None:
    client, _ = clients(partial(stream_of, CUT), partial(stream_of, WHOLE))
    with pytest.raises(Broken):
        list(client.generate_stream("x"))


def test_a_stream_that_is_refused_raises_when_its_first_token_is_wanted() -> None:
    client, _ = clients(partial(full, "99"))
    stream = client.generate_stream("x")
    with pytest.raises(Overloaded):
        next(iter(stream))


def test_a_stream_that_nobody_reads_asks_nothing() -> None:
    client, _ = clients()
    with client.generate_stream("x"):
        pass
