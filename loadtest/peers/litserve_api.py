"""A tagger as a LitServe API with batching.

python -m loadtest.peers.litserve_api --host 127.0.0.1 --port 8000

It follows https://lightning.ai/docs/litserve/features/batching. `fast_queue` connects its two processes with ZeroMQ,
which LitServer's docstring recommends for high throughput.
"""

from typing import Any

import litserve

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, BundleTagger, listen_address


class LitTagApi(litserve.LitAPI):
    """POST /predict {"inputs": text} returns a list of tags."""

    def setup(self, device: str) -> None:
        self._tagger = BundleTagger()

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
    host, port = listen_address()
    api = LitTagApi(max_batch_size=MAX_BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host=host, port=port, log_level="warning", generate_client_file=False, access_log=False)
