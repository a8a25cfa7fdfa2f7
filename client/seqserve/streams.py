"""A text as it is written: tokens out of the events of /v1/generate_stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from seqserve import answers, errors
from seqserve.answers import Generation, Token
from seqserve.asks import Ask
from seqserve.core import Core, lost, now, read
from seqserve.events import Event, Events


class Writing:
    """One stream. Asks when its first token is wanted; tries again only until the service has begun to answer."""

    def __init__(self, core: Core, ask: Ask[Any]) -> None:
        self._core, self._ask = core, ask
        self._response: httpx.Response | None = None
        self._tokens: AsyncGenerator[Token, None] | None = None
        self.generation: Generation | None = None

    async def next(self) -> Token | None:
        """The next token, None behind the last; a Problem if the service failed in the middle."""
        if self._tokens is None:
            self._response = await self._core.open(self._ask)
            self._tokens = self._read(self._response)
        try:
            return await anext(self._tokens, None)
        except httpx.TransportError as error:
            raise lost(error) from error

    async def _read(self, response: httpx.Response) -> AsyncGenerator[Token, None]:
        events = Events()
        async for chunk in self._core.wire.chunks(response):
            for event in events.feed(chunk):
                token = self._take(event)
                if token is not None:
                    yield token
        if self.generation is None:
            raise errors.Broken("the stream ended before its text did")

    def _take(self, event: Event) -> Token | None:
        if event.name == "error":
            document = read(dict, event.data)
            raise errors.problem(int(document.get("status") or 500), document, {})
        if event.name != "message":
            return None
        token, generation = read(answers.written, event.data)
        self.generation = generation or self.generation
        return token

    async def end(self) -> None:
        """Read no more: the service stops writing."""
        if self._tokens is not None:
            await self._tokens.aclose()
        if self._response is not None:
            await self._core.wire.end(self._response)


class TokenStream:
    """The tokens of one text, to be gone through once. Whoever leaves before the last one stops the writing.

    `generation`: the whole text and how it ended, once the last token is out; None before.
    """

    def __init__(self, core: Core, ask: Ask[Any]) -> None:
        self._writing = Writing(core, ask)

    @property
    def generation(self) -> Generation | None:
        return self._writing.generation

    def __iter__(self) -> Iterator[Token]:
        try:
            while (token := now(self._writing.next())) is not None:
                yield token
        finally:
            self.close()

    def close(self) -> None:
        now(self._writing.end())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncTokenStream:
    """As TokenStream, for `async for` and `async with`."""

    def __init__(self, core: Core, ask: Ask[Any]) -> None:
        self._writing = Writing(core, ask)

    @property
    def generation(self) -> Generation | None:
        return self._writing.generation

    async def __aiter__(self) -> AsyncIterator[Token]:
        try:
            while (token := await self._writing.next()) is not None:
                yield token
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await self._writing.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
