"""The size of what a maintainer has to read: the source files that execute for one request.

``python -m tests.test_structure`` prints them. The request is a POST /v1/tag on a kept connection. It serves one bundle
with uvicorn in this process, as ``bentoml serve`` does, and profiles the thread of the event loop.
"""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from tests.support.polling import eventually

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (f"{ROOT}/models/", f"{ROOT}/service/")
MODEL = "pos-en"
BODY = b'{"inputs": "Harry met Hermione in London ."}'
WARMUP = 20  # requests: the first ones fill caches
FILES_OF_A_REQUEST = 16


def test_one_request_executes_few_files() -> None:
    command = [sys.executable, "-m", "tests.test_structure"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout.split()
    assert "service/engine.py" in found
    assert len(found) <= FILES_OF_A_REQUEST, found


def request(connection: socket.socket, number: int) -> bytes:
    """Send one request and return its whole answer. Its id changes, so that no head repeats."""
    head = (
        f"POST /v1/tag HTTP/1.1\r\nhost: localhost\r\nx-request-id: r{number}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    connection.sendall(head.encode() + BODY)
    answer = b""
    while not answer.endswith(b"]"):  # the end of the JSON
        received = connection.recv(65_536)
        if not received:
            raise ConnectionError(f"closed after {answer!r}")
        answer += received
    return answer


class ExecutedFiles:
    """The files of the service and of models whose code is called in one thread while profiling is on."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Note the file of a call, as sys.setprofile requires."""
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(PACKAGES):
            self.found.add(path[len(str(ROOT)) + 1 :])


def measure(loop: asyncio.AbstractEventLoop, port: int) -> list[str]:
    """Return the files of one request on a kept connection."""
    files = ExecutedFiles()

    async def switch(profile: Any) -> None:
        sys.setprofile(profile)

    with socket.create_connection(("127.0.0.1", port)) as connection:
        for number in range(WARMUP):
            request(connection, number)
        asyncio.run_coroutine_threadsafe(switch(files.profile), loop).result()
        files.found.clear()
        answer = request(connection, WARMUP)
        # Queued on the loop behind whatever follows the answer.
        asyncio.run_coroutine_threadsafe(switch(None), loop).result()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return sorted(files.found)


async def serve() -> list[str]:
    """Start the service, measure, and stop it."""
    from service.app import Seqserve

    config = uvicorn.Config(Seqserve.to_asgi(is_main=True), host="127.0.0.1", port=0, log_level="error", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or serving.done(), timeout_s=60)
    assert server.started, "the service did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    found = await asyncio.to_thread(measure, asyncio.get_running_loop(), port)
    server.should_exit = True
    await serving
    return found


if __name__ == "__main__":
    os.chdir(ROOT)
    os.environ["SEQSERVE_BUNDLES"] = f"models/zoo/{MODEL}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(*runner.run(serve()), sep="\n")
