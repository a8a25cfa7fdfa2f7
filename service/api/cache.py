"""Answers that were given before: by route and body, byte for byte, as many as fit. Only where settings give it room.

Only what depends on nothing but the body is kept: a bundle stays for the life of its worker, and taggers and
classifiers draw nothing. Texts that users sent are held in memory until others take their room. Knows no model.
"""

from collections import OrderedDict
from dataclasses import dataclass

TASKS = frozenset(("tag", "classify"))
OVERHEAD_BYTES = 400  # of the objects around an entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """An answer, and the model that gave it."""

    body: bytes
    model: str | None


class Cache:
    """At most ``limit`` bytes; what was not asked for longest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[tuple[str, bytes], Kept] = OrderedDict()

    def find(self, path: str, body: bytes) -> Kept | None:
        """Return what was answered to this before."""
        found = self._kept.get((path, body))
        if found is not None:
            self._kept.move_to_end((path, body))
        return found

    def keep(self, path: str, body: bytes, answer: Kept) -> None:
        """Remember an answer, unless it is so big that few others would fit beside it."""
        size = _size(body, answer)
        if size > self._limit // 8 or (path, body) in self._kept:
            return
        self._kept[path, body] = answer
        self._size += size
        while self._size > self._limit:
            (_, old), forgotten = self._kept.popitem(last=False)
            self._size -= _size(old, forgotten)


def _size(body: bytes, answer: Kept) -> int:
    return len(body) + len(answer.body) + OVERHEAD_BYTES
