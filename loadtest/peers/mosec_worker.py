"""A tagger as a mosec worker with dynamic batching.

python -m loadtest.peers.mosec_worker --address 127.0.0.1 --port 8000

It follows https://mosecorg.github.io/mosec/examples/pytorch.html: HTTP and batching are mosec's, in Rust, and one
Python process gets lists. It overrides `serialize` and `deserialize` because the default (indented json) is slower
(https://mosecorg.github.io/mosec/reference/concept.html). mosec turns a wait below 1 ms into 10 ms.
"""

from typing import Any

import orjson
from mosec import Server, Worker

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, BundleTagger


class MosecTagWorker(Worker):
    """POST /inference {"inputs": text} returns a list of tags."""

    def __init__(self) -> None:
        super().__init__()
        self._tagger = BundleTagger()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: list[dict[str, str]]) -> list[list[dict[str, Any]]]:
        return self._tagger.tag([each["inputs"] for each in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(MosecTagWorker, max_batch_size=MAX_BATCH, max_wait_time=max(1, round(WAIT_MS)))
    server.run()
