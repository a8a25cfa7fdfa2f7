"""A tagger behind BentoML's own adaptive batching, as its documentation has it. A program under test: see peers.

PEER_BUNDLE=models/zoo/pos-en PEER_VARIANT=int8 bentoml serve loadtest.peers.bentoml_batchable:Tagger

Knows the bundle that is named in its environment; does no batching, length sorting or checking of its own.
"""

import os
from typing import Any

import bentoml

from models.bundle import load

BUNDLE = os.environ.get("PEER_BUNDLE", "models/zoo/pos-en")
VARIANT = os.environ.get("PEER_VARIANT", "auto")
MAX_BATCH_SIZE = int(os.environ.get("PEER_MAX_BATCH_SIZE", "32"))
# The documentation's example has 1000: long enough that nothing is refused with 503 under a closed loop.
MAX_LATENCY_MS = int(os.environ.get("PEER_MAX_LATENCY_MS", "1000"))


@bentoml.service(name="peer-bentoml-batchable", workers=1)
class Tagger:
    """One route, /tag: a list of texts in, a list of lists of tags out."""

    def __init__(self) -> None:
        self.bundle = load(BUNDLE, variant=VARIANT)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=MAX_LATENCY_MS)  # type: ignore[untyped-decorator]
    def tag(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        task: Any = self.bundle.task
        items = [task.encode(text) for text in inputs]
        outputs = self.bundle.network.run(task.collate(items))
        return [task.answer(item, row) for item, row in zip(items, task.decode(items, outputs), strict=True)]
