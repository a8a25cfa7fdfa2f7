"""What every tagging peer does alike: settings from the environment, the bundle, and a count of the padding it makes.

PEER_BUNDLE, PEER_VARIANT: the bundle and which of its files. PEER_MAX_BATCH, PEER_WAIT_MS: how the framework batches.
PEER_STATS: a file that holds the padded and the real tokens of all batches so far, for the bench to read.

Sorts, checks and batches nothing: a batch is what the framework made of the requests, in its order.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any

from models.bundle import load
from models.tasks import Tagging

BUNDLE = os.environ.get("PEER_BUNDLE", "models/zoo/pos-en")
VARIANT = os.environ.get("PEER_VARIANT", "fp32")
MAX_BATCH = int(os.environ.get("PEER_MAX_BATCH", "32"))
WAIT_MS = float(os.environ.get("PEER_WAIT_MS", "0"))
STATS = os.environ.get("PEER_STATS")


class Tagger:
    """The bundle, opened with one thread, and the four steps from texts to tags."""

    def __init__(self) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task: Any = self._bundle.task
        self._padded = self._real = 0
        self._stats = os.open(STATS, os.O_WRONLY | os.O_CREAT) if STATS else None

    def encode(self, text: str) -> Any:
        return self._task.encode(text)

    def answer(self, items: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The tags of one batch of encoded texts."""
        outputs = self._bundle.model.run(self._task.collate(items))
        if self._stats is not None:
            self._count([item.length for item in items])
        rows = self._task.decode(items, outputs)
        return [entities(self._task, item, row) for item, row in zip(items, rows, strict=True)]

    def tag(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        return self.answer([self.encode(text) for text in texts])

    def _count(self, lengths: Sequence[int]) -> None:
        """Written after each batch (2 µs): a peer that is killed at the end has no other time to say it."""
        assert self._stats is not None
        self._padded += len(lengths) * max(lengths)
        self._real += sum(lengths)
        os.pwrite(self._stats, struct.pack("<QQ", self._padded, self._real), 0)


def entities(task: Tagging, item: Any, row: Any) -> list[dict[str, Any]]:
    """Return the entities of one input as JSON objects."""
    kind = "entity_group" if task.scheme else "entity"
    return [
        {kind: label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in task.answer(item, row)
    ]
