"""Which pages may call the service from a browser: CORS, as the Fetch standard has it. Only where origins are set.

Knows header fields and nothing of what the routes do. Cookies are never asked for: keys come in a header.
"""

import re
from collections.abc import Sequence

from service.api.asgi import Message, Scope, Send
from service.api.problems import Headers

EXPOSED = b"X-Request-Id, Server-Timing, Retry-After, RateLimit, RateLimit-Policy"
ASKED_HEADERS = re.compile(rb"[A-Za-z0-9-]{1,64}(, ?[A-Za-z0-9-]{1,64}){0,31}").fullmatch
PREFLIGHT_S = b"7200"  # how long a browser remembers; none does for longer


class Cors:
    """``origins``: scheme and host, as a browser sends them; ``*`` for all."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._all = b"*" in self._origins

    def framed(self, scope: Scope, send: Send) -> Send:
        """Return a ``send`` that says whether the page that asks may see the answer."""
        added = self._allowed(dict(scope["headers"]).get(b"origin"))

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return framed

    async def preflight(self, scope: Scope, send: Send, methods: Sequence[str]) -> bool:
        """Answer a browser that asks before it calls a route of these methods; False if it is not one that may."""
        heads = dict(scope["headers"])
        if scope["method"] != "OPTIONS" or not methods or b"access-control-request-method" not in heads:
            return False
        if not self.may(heads.get(b"origin")):
            return False
        headers = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-max-age", PREFLIGHT_S),
            (b"vary", b"Access-Control-Request-Headers"),
        ]
        asked = heads.get(b"access-control-request-headers", b"")
        if ASKED_HEADERS(asked):
            headers.append((b"access-control-allow-headers", asked))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return True

    def may(self, origin: bytes | None) -> bool:
        """Whether pages of ``origin`` may call the service."""
        return origin is not None and (self._all or origin in self._origins)

    def _allowed(self, origin: bytes | None) -> Headers:
        vary = [] if self._all else [(b"vary", b"Origin")]  # for a cache between us: another origin, another answer
        if origin is None or not self.may(origin):
            return vary
        allowed = b"*" if self._all else origin
        return [*vary, (b"access-control-allow-origin", allowed), (b"access-control-expose-headers", EXPOSED)]
