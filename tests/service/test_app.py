"""The wiring: what is imported, and what stops the start."""

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.asgi import Receive, Scope, Send
from service.api.bentoml_routes import Framed, Own
from service.engine import Engine
from service.settings import Settings
from service.worker import Worker
from tests.support.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, *arguments], {**os.environ, **environ}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_service_is_imported_without_torch() -> None:
    done = python("-c", "import sys, service.app; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_a_bad_setting_stops_the_start_with_one_sentence() -> None:
    done = python("-c", "import service.app", SEQSERVE_DEVICE="gpu")
    assert done.returncode == 1
    assert done.stderr.startswith("SEQSERVE_DEVICE=gpu is not allowed: ")
    assert done.stderr.count("\n") == 1


def test_a_bad_bundle_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    done = python(
        *("-m", "bentoml", "serve", "service.app:Seqserve", "--port", "0"),
        **{"SEQSERVE_BUNDLES": str(tmp_path), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"},
    )
    assert done.returncode == 1
    assert f"SEQSERVE_BUNDLES names '{tmp_path}', which is no bundle" in done.stderr
    assert "Traceback" not in done.stderr


def worker() -> Worker:
    return Worker(Settings(), lambda *args: cast(Engine, FakeEngine(*args)))


@pytest.mark.parametrize("heads", [{}, {"content-type": ""}, {"content-type": "Application/JSON; charset=utf-8"}])
async def test_bentoml_sees_the_one_media_type_that_was_checked(heads: dict[str, str]) -> None:
    seen: list[bytes] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"content-type")
        await Response("")(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(Framed(worker(), inner)), base_url="http://t") as client:
        await client.post("/tag", content=b'{"inputs": "a"}', headers=heads)
    assert seen == [b"application/json"]


async def test_a_probe_that_is_too_early_is_told_when_to_come_back() -> None:
    async def not_ready(_: Request) -> Response:
        return Response("", 503)

    own = Own(worker(), Starlette(routes=[Route("/readyz", not_ready)]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(own), base_url="http://test") as client:
        answer = await client.get("/readyz")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert {"x-request-id", "server-timing"} <= set(answer.headers)
