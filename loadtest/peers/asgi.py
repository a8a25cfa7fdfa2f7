"""A tagger behind FastAPI without batching, and models behind Starlette with twenty lines of batching.

python -m uvicorn loadtest.peers.asgi:app --no-access-log --port 8000
python -m uvicorn loadtest.peers.asgi:batching_app --no-access-log --port 8000

The FastAPI routes follow https://fastapi.tiangolo.com/async/: `def` runs in a thread pool, `async def` on the event
loop. Answers are returned as responses, which skips FastAPI's validation
(https://fastapi.tiangolo.com/advanced/response-directly/). The batcher is what people write: one task collects up to
PEER_MAX_BATCH requests, waits up to PEER_WAIT_MS for more, and runs them in one thread
(https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.run_in_executor). It has no limits and no
deadlines, and does not notice disconnects.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

from loadtest.peers.tagger import MAX_BATCH, WAIT_MS, BundleTagger

Queue = asyncio.Queue[tuple[Any, "asyncio.Future[Any]"]]


class TextBody(BaseModel):
    inputs: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.tagger = BundleTagger()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/def")
def tag_in_thread(text: TextBody, request: Request) -> Response:
    return Response(orjson.dumps(request.app.state.tagger.tag([text.inputs])[0]), media_type="application/json")


@app.post("/async")
async def tag_on_loop(text: TextBody, request: Request) -> Response:
    return Response(orjson.dumps(request.app.state.tagger.tag([text.inputs])[0]), media_type="application/json")


@app.get("/readyz")
async def ready(request: Request) -> Response:
    return Response()


async def batch_forever(model: Any, queue: Queue, thread: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    while True:
        batch = [await queue.get()]
        end_s = loop.time() + WAIT_MS / 1000
        while len(batch) < MAX_BATCH:
            if not queue.empty():
                batch.append(queue.get_nowait())
                continue
            try:
                batch.append(await asyncio.wait_for(queue.get(), max(0.0, end_s - loop.time())))
            except TimeoutError:
                break
        try:
            answers = await loop.run_in_executor(thread, model.answer, [item for item, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)


def make_batching_app(path: str, make_model: Callable[[], Any]) -> Starlette:
    """Return an application that answers texts on a path. A model encodes one text, and answers a list of them."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.model, app.state.queue = make_model(), asyncio.Queue()
        with ThreadPoolExecutor(max_workers=1) as thread:
            task = asyncio.create_task(batch_forever(app.state.model, app.state.queue, thread))
            yield
            task.cancel()

    async def answer(request: Request) -> Response:
        item = request.app.state.model.encode(orjson.loads(await request.body())["inputs"])
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request.app.state.queue.put_nowait((item, future))
        return Response(orjson.dumps(await future), media_type="application/json")

    return Starlette(lifespan=lifespan, routes=[Route(path, answer, methods=["POST"]), Route("/readyz", ready)])


batching_app = make_batching_app("/tag", BundleTagger)
