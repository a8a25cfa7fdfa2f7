"""A tagger as a custom MLServer runtime with adaptive batching.

python -m loadtest.peers.mlserver_runtime --host 127.0.0.1 --port 8080

It follows https://docs.seldon.ai/mlserver/user-guide/adaptive-batching and the guide's page on custom runtimes.
Parallel workers, access log, metrics and compression are off, which is its fastest form here. Adaptive batching needs a
wait above 0. The tags of a text are one JSON string, because the V2 protocol has tensors only.
"""

import asyncio

import orjson
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtest.http_client import free_port
from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, BundleTagger, listen_address

NAME = "tagger"


class MlserverTagRuntime(MLModel):
    """POST /v2/models/tagger/infer: a BYTES tensor of texts in, one of JSON lists of tags out."""

    async def load(self) -> bool:
        self._tagger = BundleTagger()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._tagger.tag(StringCodec.decode_input(payload.inputs[0]))
        lines = [orjson.dumps(answer).decode() for answer in answers]
        output = StringCodec.encode_output("tags", lines, use_bytes=False)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    host, port = listen_address()
    settings = Settings(
        host=host,
        http_port=port,
        grpc_port=free_port(),  # MLServer always serves gRPC as well
        parallel_workers=0,
        debug=False,
        metrics_endpoint=None,
        gzip_enabled=False,
        load_models_at_startup=False,
    )
    batching = {"max_batch_size": MAX_BATCH, "max_batch_time": WAIT_MS / 1000}
    await MLServer(settings).start([ModelSettings(name=NAME, implementation=MlserverTagRuntime, **batching)])


if __name__ == "__main__":
    asyncio.run(main())
