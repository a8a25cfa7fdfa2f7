"""Words between a worker and the owner: pickles with their length before them, over a Unix socket.

Both ends are this program, run by one user, and the socket is in a directory that only this user may enter (start.py
sees to that): what is read here was written by ourselves. Knows no word.
"""

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

LENGTH = struct.Struct("!I")
# What one end may have sent that the other has not read: beyond it something is stuck, and the connection is given up.
MOST_UNREAD_BYTES = 256 << 20


class Peer(asyncio.Protocol):
    """One end of a connection. What is said in one turn of the loop goes out together.

    `heard` is called with the words that have come, `lost` once when the connection has ended.
    """

    def __init__(self, heard: Callable[[list[Any]], None], lost: Callable[[], None]) -> None:
        self._heard, self._lost = heard, lost
        self._transport: asyncio.Transport | None = None
        self._said: list[bytes] = []
        self._unread = bytearray()
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=MOST_UNREAD_BYTES)
        self._flush()

    def say(self, word: Any) -> None:
        """Send a word, with what else is said in this turn; nothing if nobody is there any more.

        Raises what pickle does: a word that cannot be sent stops no other.
        """
        if self._over:
            return
        content = pickle.dumps(word, pickle.HIGHEST_PROTOCOL)
        if not self._said:
            asyncio.get_running_loop().call_soon(self._flush)
        self._said += (LENGTH.pack(len(content)), content)

    def _flush(self) -> None:
        if self._transport is not None and self._said:  # what is said before there is a connection waits for it
            said, self._said = self._said, []
            self._transport.writelines(said)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._unread += data
        words, start = [], 0
        while len(self._unread) - start >= LENGTH.size:
            begin = start + LENGTH.size
            end = begin + LENGTH.unpack_from(self._unread, start)[0]
            if len(self._unread) < end:
                break
            words.append(pickle.loads(self._unread[begin:end]))
            start = end
        del self._unread[:start]
        if words:
            self._heard(words)

    def pause_writing(self) -> None:
        """See asyncio: the other end has stopped to read."""
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._transport, self._said, self._over = None, [], True
        self._lost()

    def close(self) -> None:
        """End the connection; what was not sent is not sent any more."""
        if self._transport is not None:
            self._transport.abort()
