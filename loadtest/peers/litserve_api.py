"""A tagger as a LitServe API with batching. A program under test: see peers.

python -m loadtest.peers.litserve_api --host 127.0.0.1 --port 8000

As https://lightning.ai/docs/litserve/features/batching has it. `fast_queue` puts ZeroMQ
between its two processes, which LitServer's own docstring shows for high throughput.
"""

import argparse
from typing import Any

import litserve

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, Tagger


class Tags(litserve.LitAPI):
    """POST /predict {"inputs": text}: a list of tags."""

    def setup(self, device: str) -> None:
        self._tagger = Tagger()

    def decode_request(self, request: dict[str, str]) -> Any:
        return self._tagger.encode(request["inputs"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: list[Any]) -> list[list[dict[str, Any]]]:
        return self._tagger.answer(x)

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    where = parser.parse_args()
    api = Tags(max_batch_size=MAX_BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host=where.host, port=where.port, log_level="warning", generate_client_file=False, access_log=False)
