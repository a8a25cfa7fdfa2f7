"""A tagger behind Starlette and twenty lines of batching: what people write. A program under test: see peers.

python -m uvicorn loadtest.peers.starlette_batcher:app --no-access-log --port 8000

One task collects what is queued, at most PEER_MAX_BATCH, after waiting up to PEER_WAIT_MS for more, and hands it to
one thread (https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.run_in_executor); the next batch
collects meanwhile. Knows no limits, deadlines or clients that have gone.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, Tagger

Waiting = asyncio.Queue[tuple[Any, "asyncio.Future[list[dict[str, Any]]]"]]


async def batch_forever(tagger: Tagger, waiting: Waiting, thread: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    while True:
        batch = [await waiting.get()]
        end_s = loop.time() + WAIT_MS / 1000
        while len(batch) < MAX_BATCH:
            if not waiting.empty():
                batch.append(waiting.get_nowait())
                continue
            try:
                batch.append(await asyncio.wait_for(waiting.get(), max(0.0, end_s - loop.time())))
            except TimeoutError:
                break
        try:
            answers = await loop.run_in_executor(thread, tagger.answer, [item for item, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.tagger, app.state.waiting = Tagger(), asyncio.Queue()
    with ThreadPoolExecutor(max_workers=1) as thread:
        task = asyncio.create_task(batch_forever(app.state.tagger, app.state.waiting, thread))
        yield
        task.cancel()


async def tag(request: Request) -> Response:
    """POST /tag {"inputs": text}: a list of tags."""
    item = request.app.state.tagger.encode(orjson.loads(await request.body())["inputs"])
    future: asyncio.Future[list[dict[str, Any]]] = asyncio.get_running_loop().create_future()
    request.app.state.waiting.put_nowait((item, future))
    return Response(orjson.dumps(await future), media_type="application/json")


async def ready(request: Request) -> Response:
    return Response()


app = Starlette(lifespan=lifespan, routes=[Route("/tag", tag, methods=["POST"]), Route("/readyz", ready)])
