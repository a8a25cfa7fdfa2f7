"""A tagger as a mosec worker with dynamic batching. A program under test: see peers.

python -m loadtest.peers.mosec_worker --address 127.0.0.1 --port 8000

As https://mosecorg.github.io/mosec/examples/pytorch.html has it: HTTP and batching are mosec's, in Rust; one Python
process gets lists. `serialize` and `deserialize` are overridden because the default (json, indented) is slower; see
https://mosecorg.github.io/mosec/reference/concept.html. A wait under 1 ms cannot be asked for: mosec takes 10 ms then.
"""

from typing import Any

import orjson
from mosec import Server, Worker

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, Tagger


class Tags(Worker):
    """POST /inference {"inputs": text}: a list of tags."""

    def __init__(self) -> None:
        super().__init__()
        self._tagger = Tagger()

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: list[dict[str, str]]) -> list[list[dict[str, Any]]]:
        return self._tagger.tag([each["inputs"] for each in data])


if __name__ == "__main__":
    server = Server()
    server.append_worker(Tags, max_batch_size=MAX_BATCH, max_wait_time=max(1, round(WAIT_MS)))
    server.run()
