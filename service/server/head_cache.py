"""A request's bytes apart: its head, whatever the digits of its length, and its body.

The next request on a connection mostly has the same head, but for the length, and so has the first of the next
connection: it need not be parsed again. One head is remembered for each connection and one for all, so that nobody can
fill a memory that others need. Knows bytes and nothing of HTTP but where a head ends and how it tells the length: a
parser has accepted the same bytes before.
"""

import re
from dataclasses import dataclass

from service.api.request_headers import Head

BEGINNING = b"POST /v1/"
LONGEST_HEAD = 4096
DIGITS = 9  # of a length
LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]{1,9})\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Known:
    """A head that was parsed: its bytes before the digits of its length and after them, and what was read in it."""

    before: bytes
    after: bytes
    head: Head

    @classmethod
    def of(cls, data: bytes, head: Head) -> "Known | None":
        """Return what is to be remembered of one whole request; None if it is not of the kind that comes again."""
        end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) if data.startswith(BEGINNING) else -1
        length = LENGTH.search(data, 0, end + 2) if end > 0 else None
        if length is None or len(data) - end - 4 != int(length[1]):
            return None
        return cls(data[: length.start(1)], data[length.end(1) : end + 4], head)

    def body(self, data: bytes) -> bytes | None:
        """Return the body of a request that has this head; None if ``data`` is not one such request and no more."""
        if not data.startswith(self.before):
            return None
        start = len(self.before)
        end = data.find(b"\r", start, start + DIGITS + 1)
        if end < 0 or not data.startswith(self.after, end):
            return None
        digits, begin = data[start:end], end + len(self.after)
        return data[begin:] if digits.isdigit() and int(digits) == len(data) - begin else None
