"""Routes as data: what a path accepts, which handler answers it, and what the OpenAPI document says about it.

Each protocol module has a table of routes. ``application.py`` collects them for Starlette and for the fast path.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.api.problems import PROBLEM, ErrorFormat, Headers
from service.api.request_headers import JSON
from service.errors import ServiceError

if TYPE_CHECKING:
    from service.api.pipeline import RequestContext

READ = ("GET", "HEAD")
MODEL_QUERY = ("model",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer with status 200 whose body is ready to send."""

    body: bytes
    media: bytes = b"application/json"
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """An answer that is sent in chunks.

    An error before the first chunk is answered like any other error. ``on_error`` renders a later one as the last
    chunk.
    """

    media: bytes
    chunks: AsyncGenerator[bytes, None]
    on_error: Callable[[ServiceError], bytes]


Handler = Callable[["RequestContext", bytes], Awaitable[Any]]  # returns a JSON value, a Reply or an EventStream
Card = Mapping[str, Any]  # a bundle in /v1/models


@dataclass(frozen=True, slots=True, kw_only=True)
class Docs:
    """The part of a route's OpenAPI documentation that cannot be derived from the route.

    ``body``, ``answer`` and ``event`` are types with a pydantic schema. ``errors`` lists the errors that the route has
    in addition to the derived ones.
    """

    group: str  # the heading in the document
    summary: str  # one line; `about` says more, in Markdown
    answer: Any  # the body of a 200; None: it has none, `bytes`: it is not JSON
    about: str = ""
    body: Any = None  # the body of the request
    media: str = "application/json"  # of the answer
    event: Any = None  # the data of one server-sent event, where the answer can be a stream
    example: Callable[[Card], Any] = lambda _: None  # an example body for a bundle, or None
    errors: tuple[type[ServiceError], ...] = ()
    infers: bool = False  # whether a model answers, although the route has no task


@dataclass(frozen=True, slots=True)
class Route:
    """A path in Starlette's syntax, such as ``/v1/models/{id}``, and the handler that answers it."""

    pattern: str
    methods: tuple[str, ...]
    handler: Handler
    task: str = ""
    error_format: ErrorFormat = PROBLEM  # the format of its errors
    media: tuple[str, ...] = (JSON,)  # the media types of bodies that it reads
    public: bool = False  # answered without an API key
    query: tuple[str, ...] = ()  # the parameters of its query: ``model`` if it has a task. Public routes ignore all
    docs: Docs | None = None
    path_params: Mapping[str, str] = field(default_factory=dict, compare=False)  # if the route is for one path only
    reads_body: bool = field(init=False)  # whether the handler needs the body of the request

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_body", "POST" in self.methods and bool(self.media))
        object.__setattr__(self, "query", self.query or (MODEL_QUERY if self.task else ()))
