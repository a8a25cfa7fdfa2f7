"""A tagger behind FastAPI without batching, in its two usual forms. A program under test: see peers.

python -m uvicorn loadtest.peers.fastapi_onnxruntime:app --no-access-log --port 8000

As https://fastapi.tiangolo.com/async/ has it: a `def` route runs in a pool of threads, an `async def` route on the
event loop, which then does nothing else. The answer is returned as a response directly, which skips FastAPI's
validation of it (https://fastapi.tiangolo.com/advanced/response-directly/).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from loadtest.peers.tagger import Tagger


class Text(BaseModel):
    """The body of both routes."""

    inputs: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.tagger = Tagger()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/def")
def tag_in_thread(text: Text, request: Request) -> Response:
    return Response(orjson.dumps(request.app.state.tagger.tag([text.inputs])[0]), media_type="application/json")


@app.post("/async")
async def tag_inline(text: Text, request: Request) -> Response:
    return Response(orjson.dumps(request.app.state.tagger.tag([text.inputs])[0]), media_type="application/json")


@app.get("/readyz")
async def ready() -> None:
    return None
