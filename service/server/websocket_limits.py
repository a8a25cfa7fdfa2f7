"""Limits on WebSocket connections that uvicorn and websockets have no settings for.

uvicorn answers each ping immediately, even if the client does not read, and handles all bytes of one read in one turn
of the event loop. Here, nothing is read while nothing can be written, and one turn handles a bounded piece.
"""

import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.server.connection_limits import ConnectionLimits, WriteStall

PIECE_BYTES = 16 * 1024  # handled in one turn of the event loop; a frame has at least 6 bytes
FRAGMENTS_MAX = 1024  # of one message: even an empty fragment needs memory
POLICY_VIOLATION = 1008
# uvicorn logs each handshake with its query at INFO. The contents of requests are not logged.
log = logging.getLogger("uvicorn.error.websocket")
log.setLevel(logging.WARNING)


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket under the ConnectionLimits in ``app.state``; without them, it is uvicorn's."""

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        edge = getattr(getattr(config.app, "state", None), "edge", None)
        self._limits: ConnectionLimits | None = getattr(edge, "limits", None)
        if self._limits is not None:
            # BentoML does not pass uvicorn's settings on.
            config.ws_max_size = self._limits.settings.body_bytes
            config.ws_per_message_deflate = False  # a small message could become large
        super().__init__(config, *args, **kwargs)
        self.logger = self.conn.logger = log
        self._unhandled = b""  # read, and left for the next turns of the event loop
        self._turn_scheduled = False
        self._write_stall = WriteStall()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self._limits is not None:
            self._limits.connections.add(self)
        self._since_s = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unhandled = b""
        if self._limits is not None:
            self._limits.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle what was read, piece by piece."""
        self._unhandled += data
        if not self._turn_scheduled:
            self._handle_piece()

    def pause_writing(self) -> None:
        self._write_stall.start(self.loop.time())
        super().pause_writing()
        self._pace()

    def resume_writing(self) -> None:
        self._write_stall.stop()
        super().resume_writing()
        self._pace()

    async def receive(self) -> Any:
        message = await super().receive()
        self._pace()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # by a rejection; uvicorn would log that there was none
        self._pace()

    def handle_cont(self, event: Any) -> None:
        if self.close_sent:
            return
        if len(self.frames) < FRAGMENTS_MAX:
            super().handle_cont(event)
            return
        self.frames = []
        self.conn.fail(POLICY_VIOLATION, f"a message may have at most {FRAGMENTS_MAX} fragments")
        self.handle_parser_exception()

    def check_timeouts(self) -> None:
        """End the connection if its client does not read, or if it has not become a stream in time."""
        assert self._limits is not None
        now_s = self.loop.time()
        if not self.handshake_complete and now_s - self._since_s > self._limits.settings.header_timeout_s:
            self.transport.abort()
            return
        if self.writable.is_set() and not self.transport.is_closing():
            return
        if self._write_stall.seconds(self.transport, now_s) > self._limits.settings.write_timeout_s:
            self.transport.abort()

    def _handle_piece(self) -> None:
        """Handle the next piece, if the application and the client keep up."""
        self._turn_scheduled = False
        if self._unhandled and self._keeps_up:
            piece, self._unhandled = self._unhandled[:PIECE_BYTES], self._unhandled[PIECE_BYTES:]
            super().data_received(piece)
        self._pace()

    def _pace(self) -> None:
        """Schedule the next piece, and read more only when everything is handled."""
        if self.transport.is_closing():
            self._unhandled = b""
        elif self._unhandled or not self._keeps_up:
            self.transport.pause_reading()
            if self._keeps_up and not self._turn_scheduled:
                self._turn_scheduled = True
                self.loop.call_soon(self._handle_piece)
        else:
            self.transport.resume_reading()

    @property
    def _keeps_up(self) -> bool:
        """Whether no whole message waits for the application, and the client reads."""
        return not self.read_paused and self.writable.is_set()
