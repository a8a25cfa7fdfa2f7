"""A tagger as a Ray Serve deployment with `@serve.batch`.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 python -m loadtest.peers.ray_serve --host 127.0.0.1 --port 8000

It follows https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html: one replica behind Ray's HTTP proxy,
without access log, with the switch above from
https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html. The other switch of that page needs an
HAProxy, which this release of Ray does not include. Ray is made for many cores and machines; here it has one core.
"""

import signal
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, BundleTagger, listen_address

ONGOING = 1024  # the default of 5 would limit the batch size
OBJECT_STORE_BYTES = 100_000_000  # unused here; by default Ray takes a third of the memory


class RayTagDeployment:
    """POST / {"inputs": text} returns a list of tags."""

    def __init__(self) -> None:
        self._tagger = BundleTagger()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_MS / 1000)
    async def answer(self, items: list[Any]) -> list[list[dict[str, Any]]]:
        return self._tagger.answer(items)

    async def __call__(self, request: Request) -> Response:
        item = self._tagger.encode(orjson.loads(await request.body())["inputs"])
        return Response(orjson.dumps(await self.answer(item)), media_type="application/json")


if __name__ == "__main__":
    host, port = listen_address()
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    serve.start(http_options={"host": host, "port": port})
    options = {"max_ongoing_requests": ONGOING, "ray_actor_options": {"num_cpus": 0.1}}
    deployment = serve.deployment(**options)(RayTagDeployment)
    serve.run(deployment.bind(), logging_config=LoggingConfig(enable_access_log=False))
    signal.pause()
