"""The blocking client. Calls are aio.py's, one for one; what they do is core.py's."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

import httpx

from seqserve import asks
from seqserve.answers import Entity, Generation, Label, Model
from seqserve.asks import ClassifyOptions, Frames, GenerateOptions, One, Options, Split, TagOptions, Texts
from seqserve.core import KEEP_ALIVE, Core, now
from seqserve.streams import TokenStream
from seqserve.tries import Tries


class BlockingWire:
    """httpx.Client as a Wire: every coroutine of it ends at its first step."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self.build: Callable[..., httpx.Request] = http.build_request

    async def send(self, request: httpx.Request) -> httpx.Response:
        return self._http.send(request, stream=True)

    async def read(self, response: httpx.Response) -> None:
        response.read()

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        for chunk in response.iter_bytes():
            yield chunk

    async def end(self, response: httpx.Response) -> None:
        response.close()

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Client:
    """Asks one service. Keeps its connections: make one and use it from all threads.

    `timeout_s`: for one whole call, tries and pauses together; the service, too, is told and gives up then. `http`:
    an httpx.Client of your own, for certificates, proxies, more connections; it stays yours to close.
    """

    def __init__(
        self,
        url: str = "http://localhost:3000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        tries: Tries | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        self._http, self._owns = http or httpx.Client(limits=KEEP_ALIVE), http is None
        wire = BlockingWire(self._http)
        self._core = Core(wire, url, api_key=api_key, timeout_s=timeout_s, tries=tries or Tries())

    @overload
    def tag(self, inputs: One, **options: Unpack[TagOptions]) -> list[Entity]: ...
    @overload
    def tag(self, inputs: Texts | Split | Sequence[Frames], **options: Unpack[TagOptions]) -> list[list[Entity]]: ...
    def tag(self, inputs: Any, **options: Unpack[TagOptions]) -> list[Entity] | list[list[Entity]]:
        """The tags of one text or list of frames, or a list of them for several."""
        return now(self._core.ask(asks.tag(inputs, options)))

    @overload
    def classify(self, inputs: One, **options: Unpack[ClassifyOptions]) -> list[Label]: ...
    @overload
    def classify(self, inputs: Texts | Sequence[Frames], **options: Unpack[ClassifyOptions]) -> list[list[Label]]: ...
    def classify(self, inputs: Any, **options: Unpack[ClassifyOptions]) -> list[Label] | list[list[Label]]:
        """The labels of one input, best first, or a list of them for several."""
        return now(self._core.ask(asks.classify(inputs, options)))

    @overload
    def generate(self, inputs: str, **options: Unpack[GenerateOptions]) -> Generation: ...
    @overload
    def generate(self, inputs: Texts, **options: Unpack[GenerateOptions]) -> list[Generation]: ...
    def generate(self, inputs: Any, **options: Unpack[GenerateOptions]) -> Generation | list[Generation]:
        """What follows a prompt, or each of several."""
        return now(self._core.ask(asks.generate(inputs, options)))

    def generate_stream(self, prompt: str, **options: Unpack[GenerateOptions]) -> TokenStream:
        """The same, token by token as they are written. Nothing is asked before the first one is wanted."""
        return TokenStream(self._core, asks.generate_stream(prompt, options))

    @overload
    def embed(self, inputs: str, **options: Unpack[Options]) -> list[float]: ...
    @overload
    def embed(self, inputs: Texts, **options: Unpack[Options]) -> list[list[float]]: ...
    def embed(self, inputs: Any, **options: Unpack[Options]) -> list[float] | list[list[float]]:
        """The vector of a text, or of each of several."""
        return now(self._core.ask(asks.embed(inputs, options)))

    def models(self, *, timeout_s: float | None = None) -> list[Model]:
        """What is served, in the order in which it answers where no model is named."""
        return now(self._core.ask(asks.models(timeout_s)))

    def model(self, name: str, *, timeout_s: float | None = None) -> Model:
        """One model; NotFound says which there are."""
        return now(self._core.ask(asks.model(name, timeout_s)))

    def close(self) -> None:
        """Close the connections, unless they are those of your own httpx.Client."""
        if self._owns:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
