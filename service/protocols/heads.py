"""A request's bytes apart: its head, without the digits of its length, and its body.

The next request on a connection mostly has the same head, but for the length: it need not be parsed again. One head
is remembered for each connection, so that nobody can fill a memory that others need. Knows bytes and nothing of HTTP
but where a head ends and how it tells the length: a parser has accepted the same bytes before.
"""

import re

BEGINNING = b"POST /v1/"
LONGEST_HEAD = 4096
LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})\r\n", re.IGNORECASE)


def split(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the head without the digits of its length, and the body; None if ``data`` is not just one request."""
    if not data.startswith(BEGINNING):
        return None
    end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD)
    length = LENGTH.search(data, 0, end + 2) if end > 0 else None
    if length is None or len(data) - end - 4 != int(length[1]):
        return None
    return data[: length.start(1)] + data[length.end(1) : end], data[end + 4 :]
