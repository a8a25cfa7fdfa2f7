"""Heads of requests that have been parsed already: the next request of a client mostly begins as its last one.

Knows bytes and what the server's parser made of them. Does not parse.
"""

import re

from service.protocols.exchange import Head

BEGINNING = b"POST /v1/"
LONGEST_HEAD = 4096
MOST_HEADS = 512
LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})\r\n", re.IGNORECASE)


class Heads:
    """What the HTTP parser has made of the heads that it has seen, by their bytes."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the head and the body of the request that ``data`` is, if it is one whole and its head is known."""
        parts = split(data)
        if parts is None:
            return None
        key, body = parts
        head = self._known.get(key)
        return None if head is None else (head, body)

    def learn(self, data: bytes, head: Head) -> None:
        """Remember ``head`` for requests that begin as ``data`` does. Raises nothing; what is too much is not kept."""
        parts = split(data)
        if parts is not None and len(self._known) < MOST_HEADS:
            self._known[parts[0]] = head


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the head without the digits of its length, and the body; None if ``data`` is not just one request."""
    if not data.startswith(BEGINNING):
        return None
    end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD)
    length = LENGTH.search(data, 0, end + 2) if end > 0 else None
    if length is None or len(data) - end - 4 != int(length[1]):
        return None
    return data[: length.start(1)] + data[length.end(1) : end], data[end + 4 :]
