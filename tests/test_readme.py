"""The examples of README.md and the documentation, run against one real service with the bundles of models/zoo."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from models.self_test import same
from tests.support.bentoml_server import served

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
EXCHANGE = re.compile(r"```sh\n(curl [^\n]*)\n```\n```json\n(.*?)\n```", re.DOTALL)
EXCHANGES = EXCHANGE.findall(README)
HTTP_API = (ROOT / "docs/reference/http-api.md").read_text("utf-8")
SHELL_PAGES = ("docs/tutorials/first-request.md", "docs/reference/http-api.md")
TUTORIALS = ("docs/tutorials/streaming-tags.md", "docs/tutorials/captions.md")
PYTHON_PAGES = ("README.md", "docs/how-to/call-from-python.md", *TUTORIALS)
ADDRESS = "localhost:3000"


def blocks(language: str, *pages: str) -> list[object]:
    """Return the code blocks of some pages as parameters."""
    found = []
    for page in pages:
        text = (ROOT / page).read_text("utf-8")
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)):
            if ADDRESS in block:
                found.append(pytest.param(block, id=f"{page}-{number}"))
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("readme"), service="service.app:Seqserve") as (address, _, _):
        yield address.removeprefix("http://")


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    missing = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def bash(script: str) -> str:
    command = ["bash", "-o", "pipefail", "-ec", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("command", "answer"), [*EXCHANGES, *EXCHANGE.findall(HTTP_API)])
def test_page_shows_the_answer_of_each_curl(address: str, command: str, answer: str) -> None:
    found = json.loads(bash(command.replace(ADDRESS, address)))
    assert same(found, json.loads(answer), 0.02), found


def test_readme_shows_the_native_routes() -> None:
    assert {"/v1/tag", "/v1/generate"} <= set(re.findall(r"/v1/\w+", " ".join(command for command, _ in EXCHANGES)))


def test_layout_of_the_readme_names_existing_files() -> None:
    (layout,) = re.findall(r"```\n(models/.*?)```", README, re.DOTALL)
    top = folder = ROOT
    for line in layout.splitlines():
        first, *words = line.split()
        if not line.startswith(" "):
            top = folder = ROOT / first
        elif first.endswith("/"):
            folder = top / first
        else:
            folder = top
        assert folder.is_dir(), folder
        named = [word.strip(",;:()") for word in (first, *words)]
        for name in named:
            if name.endswith(".py"):
                assert list(top.rglob(name)), f"{top}/{name}"
            elif name.endswith("/") and name != first:
                assert (folder / name).is_dir() or (top / name).is_dir(), name


@pytest.mark.parametrize("block", blocks("sh", *SHELL_PAGES))
def test_curl_of_the_documentation_succeeds(address: str, block: str) -> None:
    assert bash(block.replace(ADDRESS, address).replace("curl -s", "curl --fail-with-body -s"))


@pytest.mark.parametrize("block", blocks("python", *PYTHON_PAGES))
def test_python_snippet_runs(address: str, block: str) -> None:
    command = [sys.executable, "-c", block.replace(ADDRESS, address)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_openapi_document_names_every_route_of_the_reference(address: str) -> None:
    listed = set(re.findall(r"^\| `(/[^`]*)` \| (?!WebSocket)", HTTP_API, re.MULTILINE))
    served_paths = set(httpx.get(f"http://{address}/docs.json").json()["paths"])
    assert served_paths <= listed
