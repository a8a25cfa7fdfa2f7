"""A tagger with BentoML's own adaptive batching.

PEER_BUNDLE=models/zoo/pos-en PEER_VARIANT=int8 python -m bentoml serve loadtest.peers.bentoml_batchable:TagService

It follows https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html. BentoML adapts its wait.
PEER_LATENCY_MS limits the latency of a request, above which BentoML answers 503.
"""

import os
from typing import Any

import bentoml

from loadtest.peers.tagger import MAX_BATCH, BundleTagger

# As in the documentation's example: long enough that a closed loop gets no 503.
LATENCY_MS = int(os.environ.get("PEER_LATENCY_MS", "1000"))


# Without access log and tracing, as the other servers.
@bentoml.service(
    name="peer-bentoml-batchable",
    workers=1,
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class TagService:
    def __init__(self) -> None:
        self._tagger = BundleTagger()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=LATENCY_MS)
    def tag(self, inputs: list[str]) -> list[list[dict[str, Any]]]:
        return self._tagger.tag(inputs)
