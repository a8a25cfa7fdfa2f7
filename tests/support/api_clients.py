"""The API in process with the fake engine, and a client for it."""

from typing import Any, cast

import httpx
import orjson
from starlette.applications import Starlette

from service.api.application import create_app
from service.engine import Engine
from service.settings import Settings
from service.worker import Worker
from tests.support.fake_engine import FakeEngine


class FakeSite:
    """The API with the fake engine, and a client for it."""

    def __init__(self, settings: Settings) -> None:
        self.worker = Worker(settings, lambda *args: cast(Engine, FakeEngine(*args)))
        self.worker.load()
        self.engine = cast(FakeEngine, self.worker.engine)
        self.app = create_app(self.worker, Starlette())
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.client.post(
            path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def count(self, name: str, **labels: str) -> float | None:
        self.worker.telemetry.flush()
        assert self.worker.telemetry.registry is not None
        return self.worker.telemetry.registry.get_sample_value(name, labels)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    body = cast(dict[str, Any], response.json())
    assert (body["status"], body["request_id"]) == (status, response.headers["x-request-id"])
    assert "server-timing" in response.headers
    return body
