"""The real application under uvicorn, in a thread instead of BentoML's processes."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from service.api.application import create_app, fast_routes
from service.engine import Engine
from service.server.install import install
from service.settings import Settings
from service.worker import Worker
from tests.support.bentoml_server import free_port
from tests.support.polling import wait_until


@contextlib.contextmanager
def served_in_thread(*bundles: Path) -> Iterator[str]:
    """Serve the bundles, without BentoML's pages, until the block ends. Yield the address."""
    worker = Worker(Settings.read({**os.environ, "SEQSERVE_BUNDLES": ",".join(map(str, bundles))}), Engine.load)
    worker.load()
    app = create_app(worker, Starlette())
    install(app, worker, fast_routes)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
