"""A tagger behind BentoML's own adaptive batching. A program under test: see peers.

PEER_BUNDLE=models/zoo/pos-en PEER_VARIANT=int8 python -m bentoml serve loadtest.peers.bentoml_batchable:Tags

As https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html has it. There is no wait to set: BentoML
adapts its window, and PEER_LATENCY_MS bounds what a request may take before it is refused with 503.
"""

import os
from typing import Any

import bentoml

from loadtest.peers.tagger import MAX_BATCH, Tagger

# The documentation's example has 1000: long enough that nothing is refused under a closed loop.
LATENCY_MS = int(os.environ.get("PEER_LATENCY_MS", "1000"))


# Neither a line nor a span a request: the other servers write none either.
@bentoml.service(
    name="peer-bentoml-batchable",
    workers=1,
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Tags:
    """One route, /tag: a list of texts in, a list of lists of tags out."""

    def __init__(self) -> None:
        self._tagger = Tagger()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LATENCY_MS)
    def tag(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        return self._tagger.tag(inputs)
