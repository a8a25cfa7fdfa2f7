"""Makes uvicorn use the protocols of this package, and keeps it answering while it shuts down.

BentoML starts uvicorn and passes neither protocol classes nor a Server, so uvicorn's own are replaced.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from uvicorn.config import HTTP_PROTOCOLS, WS_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import Server, ServerState

from service.api.routes import Route
from service.server.connection_limits import ConnectionLimits, Edge
from service.server.hosts import AllowedHosts
from service.server.http_protocol import HttpProtocol
from service.server.watchdog import Heartbeat
from service.server.websocket_limits import LimitedWebSocketProtocol
from service.worker import Worker

log = logging.getLogger(__name__)

PROBES = frozenset((b"/livez", b"/readyz", b"/healthz", b"/health"))


def install(app: Starlette, worker: Worker, fast_routes: Callable[[Iterable[str]], Mapping[bytes, Route]]) -> None:
    """Make uvicorn serve ``app`` with the protocols of this package.

    ``fast_routes`` returns the routes that take the fast path, from all names of the loaded models.
    """
    limits = ConnectionLimits(settings=worker.settings, telemetry=worker.telemetry)
    worker.add_chore("connection timeouts", limits.check)
    worker.add_chore("heartbeat", Heartbeat(worker.telemetry))
    hosts = AllowedHosts(worker.settings.allowed_hosts)
    edge = app.state.edge = Edge(worker=worker, limits=limits, hosts=hosts, routes=fast_routes(()), probes=PROBES)

    def add_models() -> None:
        edge.routes = fast_routes(worker.engine.catalog.references)

    worker.on_load(add_models)
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{open_protocol.__name__}"
    WS_PROTOCOLS["auto"] = f"{LimitedWebSocketProtocol.__module__}:{LimitedWebSocketProtocol.__name__}"
    Server.shutdown = shutdown  # type: ignore[method-assign, assignment]


def open_protocol(config: Config, *args: Any, **kwargs: Any) -> HttpToolsProtocol:
    """Return the protocol of a new connection: HttpProtocol for our application, else uvicorn's own."""
    state = getattr(config.app, "state", None)
    protocol = HttpProtocol if hasattr(state, "edge") else HttpToolsProtocol
    return protocol(config, *args, **kwargs)


_shutdown = Server.shutdown


async def shutdown(server: Server, sockets: list[socket.socket] | None = None) -> None:
    """Shut down as uvicorn does, but answer new connections until the end.

    uvicorn closes its sockets first. The supervising process keeps them open, so new clients would wait in vain. The
    worker is draining, so they get 503, or the answer of a health probe.
    """
    config, loop = server.config, asyncio.get_running_loop()
    if not hasattr(getattr(config.app, "state", None), "edge"):
        await _shutdown(server, sockets)
        return
    state = ServerState()  # of its own, because uvicorn waits for the connections in the server's
    state.default_headers = server.server_state.default_headers

    def connect() -> HttpToolsProtocol:
        return open_protocol(config, server_state=state, app_state=server.lifespan.state)

    listeners = []
    for each in [listener for one in server.servers for listener in one.sockets]:
        with contextlib.suppress(OSError):
            duplicate = socket.socket(fileno=socket.dup(each.fileno()))
            listeners.append(await loop.create_server(connect, sock=duplicate, ssl=config.ssl))
    try:
        await _shutdown(server, sockets)
    finally:
        for one in listeners:
            one.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.sleep(0)
