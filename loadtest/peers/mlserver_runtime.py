"""A tagger as a custom runtime of MLServer with adaptive batching. A program under test: see peers.

python -m loadtest.peers.mlserver_runtime --host 127.0.0.1 --port 8080

As https://docs.seldon.ai/mlserver/user-guide/adaptive-batching and the guide's page on custom runtimes have it,
without parallel workers, access log, metrics and compression, which is its fastest form here. Adaptive batching needs
a wait above 0. The tags of a text travel as one string of JSON: the V2 protocol knows tensors only.
"""

import argparse
import asyncio
import socket

import orjson
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, Tagger

NAME = "tagger"


class Tags(MLModel):
    """POST /v2/models/tagger/infer: a BYTES tensor of texts in, one of JSON lists of tags out."""

    async def load(self) -> bool:
        self._tagger = Tagger()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._tagger.tag(StringCodec.decode_input(payload.inputs[0]))
        lines = [orjson.dumps(answer).decode() for answer in answers]
        output = StringCodec.encode_output("tags", lines, use_bytes=False)
        return InferenceResponse(model_name=self.name, outputs=[output])


def free_port() -> int:
    """For gRPC, which MLServer always serves as well."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    where = parser.parse_args()
    settings = Settings(
        host=where.host,
        http_port=where.port,
        grpc_port=free_port(),
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
        gzip_enabled=False,
        load_models_at_startup=False,
    )
    model = ModelSettings(name=NAME, implementation=Tags, max_batch_size=MAX_BATCH, max_batch_time=WAIT_MS / 1000)
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(main())
