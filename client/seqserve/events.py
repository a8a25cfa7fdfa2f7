"""Server-sent events, found in bytes as they arrive. Knows nothing of what they say.

Not by `httpx.Response.iter_lines`: that splits at every line separator of Unicode, and a generated text may hold one.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    name: str  # "message" where the service gives none
    data: str


class Events:
    """The events of one stream."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are whole with `chunk`. Comments, by which a stream is kept alive, are none."""
        *lines, self._rest = self._lines(chunk)
        for line in lines:
            if line:
                self._note(line.decode())
                continue
            if self._data:
                yield Event(self._name or "message", "\n".join(self._data))
            self._name, self._data = "", []

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Whole lines, and last what is not one yet: a CR at the end may be half of a CRLF."""
        whole = self._rest + chunk
        held = whole.endswith(b"\r")
        lines = _LINE_END.split(whole[:-1] if held else whole)
        return [*lines[:-1], lines[-1] + b"\r"] if held else lines

    def _note(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
