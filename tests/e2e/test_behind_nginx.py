"""The service behind nginx: with the configuration of the documentation, and with nginx's defaults."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import orjson
import psutil
import pytest
from websockets.sync.client import connect

from tests.support.bentoml_server import ROOT, free_port, served
from tests.support.polling import wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None, reason="nginx is not installed (apt install nginx-light)"
)
GUIDE = ROOT / "docs/how-to/behind-a-proxy.md"
MAIN = """
{user}
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
    server {{
        listen 127.0.0.1:{plain_port};
        location / {{ proxy_pass http://{service}; }}
    }}
}}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("bentoml")) as (address, _, _):
        yield address


class Nginx:
    """nginx with the site of the guide below `site`, and with its defaults at `plain`."""

    def __init__(self, folder: Path, service: str) -> None:
        port, plain_port = free_port(), free_port()
        self.service_port = int(service.rpartition(":")[2])
        found = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        assert found is not None
        site = found[1].replace("127.0.0.1:3000", service.removeprefix("http://"))
        site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
        user = "user root;" if os.getuid() == 0 else ""
        config = folder / "nginx.conf"
        config.write_text(
            MAIN.format(
                user=user, folder=folder, site=site, plain_port=plain_port, service=service.removeprefix("http://")
            )
        )
        self.site, self.plain = f"http://127.0.0.1:{port}/seqserve/", f"http://127.0.0.1:{plain_port}/"
        self.process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config)])
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.plain}livez").status_code == 200
        except httpx.TransportError:
            return False

    def upstream_connections(self) -> int:
        workers = psutil.Process(self.process.pid).children()
        open_now = [each for worker in workers for each in worker.net_connections("tcp4") if each.raddr]
        return sum(each.raddr.port == self.service_port for each in open_now)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, service: str) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), service)
    yield nginx
    nginx.close()


def has_streams(service: str) -> bool:
    metrics = httpx.get(f"{service}/metrics").text
    return re.search(r"^seqserve_active_streams\{.*\} [1-9]", metrics, re.MULTILINE) is not None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v1/generate_stream", {"inputs": "then !slow 5"}),
        ("v1/generate", {"inputs": "then !slow 5", "stream": True}),
        ("v1/completions", {"prompt": "then !slow 5", "stream": True}),
    ],
)
@pytest.mark.parametrize("kind", ["site", "plain"])
def test_events_pass_as_they_are_written(nginx: Nginx, service: str, kind: str, path: str, body: object) -> None:
    wait_until(lambda: not has_streams(service))  # those of earlier tests
    with httpx.stream("POST", getattr(nginx, kind) + path, json=body, timeout=20) as response:
        first = next(line for line in response.iter_lines() if line.startswith("data: "))
        assert has_streams(service)  # it has not ended yet
    assert orjson.loads(first.removeprefix("data: "))


@pytest.mark.parametrize("kind", ["site", "plain"])
def test_a_stream_ends(nginx: Nginx, kind: str) -> None:
    response = httpx.post(f"{getattr(nginx, kind)}v1/generate_stream", json={"inputs": "a"})
    assert orjson.loads(response.text.rstrip().rpartition("data: ")[2])["generated_text"]


def test_a_page_opens_a_websocket(nginx: Nginx) -> None:
    address = nginx.site.replace("http", "ws", 1) + "v1/stream"
    with connect(address, origin=nginx.site.removesuffix("/seqserve/")) as connection:  # type: ignore[arg-type]
        connection.send('{"inputs": "a b"}')
        assert orjson.loads(connection.recv(timeout=10))


def test_the_document_and_the_page_lead_to_the_routes_below_the_prefix(nginx: Nginx) -> None:
    page = httpx.get(nginx.site).text
    for file in re.findall(r'(?:href|src)="(page/[^"]+)"', page):
        assert httpx.get(urljoin(nginx.site, file)).status_code == 200
    document = urljoin(nginx.site, re.findall(r'href="(docs.json)"', page)[0])
    (server,) = httpx.get(document).json()["servers"]
    route = urljoin(document, server["url"]).rstrip("/") + "/v1/tag"
    assert httpx.post(route, json={"inputs": "a"}).status_code == 200


def test_connections_to_the_service_are_kept(nginx: Nginx) -> None:
    for _ in range(20):
        answer = httpx.post(f"{nginx.site}v1/tag", json={"inputs": "a"})
        assert answer.status_code == 200
    assert nginx.upstream_connections() == 1
