"""uvicorn's WebSocket with bounds: on messages, on their fragments, and on what a client that does not read may hold.

uvicorn answers each ping at once, whether the answers are taken or not, and handles all that one read has brought in
one turn of the loop. Here nothing is read while nothing can be written, and a turn handles a piece. Knows frames and
time, and nothing of what is in a message.
"""

import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.server.connection_limits import Bounds, Stuck
from service.server.root_app import Front

PIECE_BYTES = 16 * 1024  # of what came, for one turn of the loop: a frame has 6 bytes at least
FRAGMENTS_MOST = 1024  # of one message: an empty one costs memory too
POLICY_VIOLATION = 1008
# A line for each handshake, with its query in it, is what uvicorn writes at INFO: what was sent is in no log.
log = logging.getLogger("uvicorn.error.websocket")
log.setLevel(logging.WARNING)


class Narrow(WebSocketsSansIOProtocol):
    """One connection that has become a WebSocket, under the Bounds that its application has; without any, uvicorn's."""

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        self._bounds: Bounds | None = None
        if isinstance(config.app, Front):
            self._bounds = config.app.bounds
            config.ws_max_size = config.app.message_bytes
            config.ws_per_message_deflate = False  # a message that is small only until it is unpacked
        super().__init__(config, *args, **kwargs)
        self.logger = self.conn.logger = log
        self._later = b""  # came, and is for the next turns of the loop
        self._called = False  # for the next turn
        self._stuck = Stuck()  # or closing

    def connection_made(self, transport: Any) -> None:
        """See uvicorn."""
        super().connection_made(transport)
        if self._bounds is not None:
            self._bounds.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn."""
        self._later = b""
        if self._bounds is not None:
            self._bounds.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        self._later += data
        if not self._called:
            self._feed()

    def pause_writing(self) -> None:
        """See uvicorn."""
        self._stuck.begin(self.loop.time())
        super().pause_writing()
        self._pace()

    def resume_writing(self) -> None:
        """See uvicorn."""
        self._stuck.end()
        super().resume_writing()
        self._pace()

    async def receive(self) -> Any:
        """See uvicorn."""
        message = await super().receive()
        self._pace()
        return message

    async def send(self, message: Any) -> None:
        """See uvicorn."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # by a refusal, of which uvicorn would log that there was none
        self._pace()

    def handle_cont(self, event: Any) -> None:
        """See uvicorn."""
        if self.close_sent:
            return
        if len(self.frames) < FRAGMENTS_MOST:
            super().handle_cont(event)
            return
        self.frames = []
        self.conn.fail(POLICY_VIOLATION, f"a message has at most {FRAGMENTS_MOST} fragments")
        self.handle_parser_exception()

    def look(self) -> None:
        """End the connection if its client has taken nothing for its time. See Bounds."""
        assert self._bounds is not None
        now_s = self.loop.time()
        if self.writable.is_set() and not self.transport.is_closing():
            return
        if self._stuck.seconds(self.transport, now_s) > self._bounds.settings.write_timeout_s:
            self.transport.abort()

    def _feed(self) -> None:
        """Handle a piece of what came, if the application and the client keep up with what there was."""
        self._called = False
        if self._later and self._keeps_up:
            piece, self._later = self._later[:PIECE_BYTES], self._later[PIECE_BYTES:]
            super().data_received(piece)
        self._pace()

    def _pace(self) -> None:
        """Go on with what came, and with reading once that is handled."""
        if self.transport.is_closing():
            self._later = b""
        elif self._later or not self._keeps_up:
            self.transport.pause_reading()
            if self._keeps_up and not self._called:
                self._called = True
                self.loop.call_soon(self._feed)
        else:
            self.transport.resume_reading()

    @property
    def _keeps_up(self) -> bool:
        """Whether no whole message waits for the application, and the client takes what it is sent."""
        return not self.read_paused and self.writable.is_set()
