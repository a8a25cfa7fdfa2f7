"""The client for asyncio. Calls are client.py's, one for one; what they do is core.py's."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

import httpx

from seqserve import asks
from seqserve.answers import Entity, Generation, Label, Model
from seqserve.asks import ClassifyOptions, Frames, GenerateOptions, One, Options, Split, TagOptions, Texts
from seqserve.core import KEEP_ALIVE, Core
from seqserve.streams import AsyncTokenStream
from seqserve.tries import Tries


class AsyncWire:
    """httpx.AsyncClient as a Wire."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.build: Callable[..., httpx.Request] = http.build_request

    async def send(self, request: httpx.Request) -> httpx.Response:
        return await self._http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        await response.aread()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        async for chunk in response.aiter_bytes():
            yield chunk

    async def end(self, response: httpx.Response) -> None:
        await response.aclose()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class AsyncClient:
    """As Client, for asyncio. Keeps its connections: make one and use it from all tasks of one event loop."""

    def __init__(
        self,
        url: str = "http://localhost:3000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        tries: Tries | None = None,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._http, self._owns = http or httpx.AsyncClient(limits=KEEP_ALIVE), http is None
        wire = AsyncWire(self._http)
        self._core = Core(wire, url, api_key=api_key, timeout_s=timeout_s, tries=tries or Tries())

    @overload
    async def tag(self, inputs: One, **options: Unpack[TagOptions]) -> list[Entity]: ...
    @overload
    async def tag(
        self, inputs: Texts | Split | Sequence[Frames], **options: Unpack[TagOptions]
    ) -> list[list[Entity]]: ...
    async def tag(self, inputs: Any, **options: Unpack[TagOptions]) -> list[Entity] | list[list[Entity]]:
        """The tags of one text or list of frames, or a list of them for several."""
        return await self._core.ask(asks.tag(inputs, options))

    @overload
    async def classify(self, inputs: One, **options: Unpack[ClassifyOptions]) -> list[Label]: ...
    @overload
    async def classify(
        self, inputs: Texts | Sequence[Frames], **options: Unpack[ClassifyOptions]
    ) -> list[list[Label]]: ...
    async def classify(self, inputs: Any, **options: Unpack[ClassifyOptions]) -> list[Label] | list[list[Label]]:
        """The labels of one input, best first, or a list of them for several."""
        return await self._core.ask(asks.classify(inputs, options))

    @overload
    async def generate(self, inputs: str, **options: Unpack[GenerateOptions]) -> Generation: ...
    @overload
    async def generate(self, inputs: Texts, **options: Unpack[GenerateOptions]) -> list[Generation]: ...
    async def generate(self, inputs: Any, **options: Unpack[GenerateOptions]) -> Generation | list[Generation]:
        """What follows a prompt, or each of several."""
        return await self._core.ask(asks.generate(inputs, options))

    def generate_stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> AsyncTokenStream:
        """The same, token by token as they are written. Nothing is asked before the first one is wanted."""
        return AsyncTokenStream(self._core, asks.generate_stream(prompt, options))

    @overload
    async def embed(self, inputs: str, **options: Unpack[Options]) -> list[float]: ...
    @overload
    async def embed(self, inputs: Texts, **options: Unpack[Options]) -> list[list[float]]: ...
    async def embed(self, inputs: Any, **options: Unpack[Options]) -> list[float] | list[list[float]]:
        """The vector of a text, or of each of several."""
        return await self._core.ask(asks.embed(inputs, options))

    async def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What is served, in the order in which it answers where no model is named."""
        return await self._core.ask(asks.models(timeout_s))

    async def model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """One model; NotFound says which there are."""
        return await self._core.ask(asks.model(name, timeout_s))

    async def aclose(self) -> None:
        """Close the connections, unless they are those of your own httpx.AsyncClient."""
        if self._owns:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
