"""Which path is answered by what, and the forms that an answer can have.

Knows paths and their parts. Knows neither bodies nor engines: each dialect's module brings routes of its own.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.api.problems import PROBLEM, Dialect, Headers
from service.api.request_context import RequestContext
from service.api.request_headers import JSON
from service.errors import ServiceError

READ = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer that is no plain JSON with 200."""

    body: bytes
    media: bytes = b"application/json"
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStream:
    """An answer in parts. An error before the first is answered as ever, a later one by what `on_error` makes of it."""

    media: bytes
    chunks: AsyncGenerator[bytes, None]
    on_error: Callable[[ServiceError], bytes]


Handler = Callable[[RequestContext, bytes], Awaitable[Any]]  # to what orjson can dump, a Reply or a EventStream
Card = Mapping[str, Any]  # what /v1/models tells of a bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Docs:
    """What the OpenAPI document says of a route that the route does not say by itself.

    `body`, `answer` and `event` are types that pydantic has a schema of (models, TypedDicts, unions): those that read
    the request, where it has some. Statuses are derived: every route has those of its head and of a bug, one that reads
    has those of bodies and of work, a pattern has 404; `errors` are what it has beside.
    """

    group: str  # the heading under which the page shows it
    summary: str  # one line; `about` says more, in Markdown
    answer: Any  # of the body of a 200; None: it has none, `bytes`: it is no JSON
    about: str = ""
    body: Any = None  # of the request
    media: str = "application/json"  # of the answer
    event: Any = None  # of the data of one server-sent event, where the answer may be a stream of them
    example: Callable[[Card], Any] = lambda _: None  # a body for a bundle that can do it, None for any other
    errors: tuple[type[ServiceError], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """A path, or a pattern of paths such as ``/v1/models/{id}``, and what answers it."""

    pattern: str
    methods: tuple[str, ...]
    handler: Handler
    task: str = ""  # whose work it is: refused before it is read if there is no room for more of it
    dialect: Dialect = PROBLEM  # in which its errors are told
    media: tuple[str, ...] = (JSON,)  # of the bodies that it reads
    public: bool = False  # answered without an API key
    docs: Docs | None = None

    @property
    def reads_body(self) -> bool:
        """Whether the handler needs the body of the request."""
        return "POST" in self.methods and bool(self.media)


class Routes:
    """A table of routes. Where a path fits several, the literal one comes first, then the first that was given."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self.literal = {route.pattern: route for route in self.all if "{" not in route.pattern}
        self._patterns = [(route.pattern.split("/"), route) for route in self.all if "{" in route.pattern]

    def find(self, path: str) -> tuple[Route | None, Mapping[str, str]]:
        """Return the route of a path and the parts of the path that its pattern names; None if there is none."""
        route = self.literal.get(path)
        if route is not None:
            return route, {}
        parts = path.split("/")
        for pattern, route in self._patterns:
            if len(pattern) == len(parts) and (names := _match(pattern, parts)) is not None:
                return route, names
        return None, {}


def _match(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """The parts by the names that the pattern gives them; None if they do not fit. An empty part fits no name."""
    names = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{") and part:
            names[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return names
