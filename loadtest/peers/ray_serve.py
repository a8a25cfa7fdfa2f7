"""A tagger as a Ray Serve deployment with `@serve.batch`. A program under test: see peers.

RAY_SERVE_THROUGHPUT_OPTIMIZED=1 python -m loadtest.peers.ray_serve --host 127.0.0.1 --port 8000

As https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html has it: one replica behind Ray's HTTP proxy,
the access log off, and the switch above of https://docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html.
That page's other switch wants an HAProxy that this release of Ray does not bring. Ray spreads over cores and machines;
here its proxy, replica, scheduler and store share one core, which is not what it is made for.
"""

import argparse
import signal
from typing import Any

import orjson
import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, Tagger

# By default 5 requests are in hand at once, which would be the largest batch.
ONGOING = 1024
OBJECT_STORE_BYTES = 100_000_000  # nothing goes through it: Ray would take a third of the memory


class Tags:
    """POST / {"inputs": text}: a list of tags."""

    def __init__(self) -> None:
        self._tagger = Tagger()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_MS / 1000)
    async def answer(self, items: list[Any]) -> list[list[dict[str, Any]]]:
        return self._tagger.answer(items)

    async def __call__(self, request: Request) -> Response:
        item = self._tagger.encode(orjson.loads(await request.body())["inputs"])
        return Response(orjson.dumps(await self.answer(item)), media_type="application/json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    where = parser.parse_args()
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    serve.start(http_options={"host": where.host, "port": where.port})
    deployment = serve.deployment(max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 0.1})(Tags)
    serve.run(deployment.bind(), logging_config=LoggingConfig(enable_access_log=False))
    signal.pause()
