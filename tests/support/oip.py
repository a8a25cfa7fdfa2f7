"""The Open Inference Protocol in process over tiny bundles, and inputs for it."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
from starlette.applications import Starlette

from models import state
from models.bundle import Bundle
from service.api.application import create_app
from service.engine import Engine
from service.settings import Settings
from service.worker import Worker
from tests.support import bundles


class OIPSite:
    """The API with the real engine, and a client for it."""

    def __init__(self, *folders: Path, **settings: Any) -> None:
        paths = tuple(map(str, folders))
        self.worker = Worker(Settings(bundles=paths, device="cpu", **settings), Engine.load)
        self.worker.load()
        transport = httpx.ASGITransport(create_app(self.worker, Starlette()))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def bundle(self, name: str) -> Bundle:
        return self.worker.engine.runtimes[name].bundle

    async def infer(self, model: str, *inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
        response = await self.client.post(f"/v2/models/{model}/infer", json={"inputs": inputs, **more})
        assert response.status_code == 200, response.text
        return {tensor["name"]: tensor for tensor in response.json()["outputs"]}

    async def refused(self, model: str, *inputs: dict[str, Any], **more: Any) -> tuple[int, str]:
        return refusal(await self.client.post(f"/v2/models/{model}/infer", json={"inputs": inputs, **more}))

    async def close(self) -> None:
        await self.client.aclose()
        await self.worker.close()


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the field that the error begins with, "" if it names none."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    field, separator, _ = body["error"].partition(": ")
    return response.status_code, field if separator and " " not in field else ""


def texts(*values: str, name: str = "text") -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values)}


def array(name: str, values: Any) -> dict[str, Any]:
    datatype = "FP32" if values.dtype == np.float32 else "INT32"
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": values.tolist()}


RAW: dict[str, list[Any]] = {
    "tiny-joint": ["the cat sat", "zebras"],
    "tiny-path": ["the cat sat", "zebras"],
    "tiny-speller": ["the cat sat", "zebras"],
    "tiny-subwords": ["the cat sat", "zebras"],
    "tiny-classify": ["the cat sat", "zebras"],
    "tiny-letters-classify": ["Rossi", "Li"],
    "tiny-dna-tag": ["ACGT", "gat"],
    "tiny-frames-classify": [bundles.FRAMES, bundles.FRAMES[:1]],
    "tiny-generate": ["ROMEO:", "a cat"],
}


def feeds_of(bundle: Bundle, inputs: list[Any]) -> dict[str, Any]:
    codec = bundle.task.codec
    zeros = state.zeros(bundle.manifest.state, len(inputs))
    named = {part.input: rows for part, rows in zip(bundle.manifest.state, zeros, strict=True)}
    return codec.collate([codec.encode(raw) for raw in inputs]) | named
