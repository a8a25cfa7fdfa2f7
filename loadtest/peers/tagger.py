"""What the tagging peers share: settings, the bundle, and a count of the padding.

PEER_BUNDLE and PEER_VARIANT name the bundle and its file. PEER_MAX_BATCH and PEER_WAIT_MS set the framework's batching.
PEER_STATS names a file for the number of padded and real tokens, which the benchmark reads. A batch is what the
framework makes of the requests, in its order.
"""

import argparse
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


class BundleTagger:
    """A bundle, opened with one thread."""

    def __init__(self) -> None:
        self._bundle = load(BUNDLE, variant=VARIANT)
        self._task: Any = self._bundle.task
        self._padded = self._real = 0
        self._stats = os.open(STATS, os.O_WRONLY | os.O_CREAT) if STATS else None

    def encode(self, text: str) -> Any:
        return self._task.encode(text)

    def answer(self, items: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """Return the tags of one batch of encoded texts."""
        outputs = self._bundle.model.run(self._task.collate(items))
        if self._stats is not None:
            self._count([item.length for item in items])
        rows = self._task.decode(items, outputs)
        return [entities(self._task, item, row) for item, row in zip(items, rows, strict=True)]

    def tag(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        return self.answer([self.encode(text) for text in texts])

    def _count(self, lengths: Sequence[int]) -> None:
        """Write the counts after each batch (2 µs), because a peer is killed at the end."""
        assert self._stats is not None
        self._padded += len(lengths) * max(lengths)
        self._real += sum(lengths)
        os.pwrite(self._stats, struct.pack("<QQ", self._padded, self._real), 0)


def entities(task: Tagging, item: Any, row: Any) -> list[dict[str, Any]]:
    """Return the entities of one input as JSON objects."""
    kind = "entity_group" if task.scheme else "entity"
    return [
        {kind: label, "score": score, "word": word, "start": start, "end": end}
        for label, score, word, start, end in task.answer(item, row).rows()
    ]


def listen_address() -> tuple[str, int]:
    """Return the host and port of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    return arguments.host, arguments.port
