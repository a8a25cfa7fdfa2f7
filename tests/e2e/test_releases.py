"""Releases of ``bentoml serve`` with two workers: names with @, swaps under load, streams, and broken candidates.

The quick mode swaps a few times. The full mode swaps 50 times and compares p99, and 200 times and compares the memory.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from openai import OpenAI
from websockets.sync.client import connect

from tests.support.bentoml_server import ROOT, free_port, served
from tests.support.live_service import FULL
from tests.support.polling import wait_until
from tests.support.repositories import add_version, labels_of, set_serving, version_of

ADMIN, CLIENT = "the-key-of-an-administrator", "the-key-of-a-client"
SWAPS = 50 if FULL else 8
SECONDS = 120 if FULL else 20  # at most, between two looks at a condition
SINGLE = {"inputs": "the cat sat", "model": "tiny-tag"}
LIST = {"inputs": ["the cat", "a film"] * 8, "model": "tiny-tag"}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running service, whose models have the versions 1 and 2."""

    address: str
    grpc_address: str
    repository: Path
    process: "subprocess.Popen[bytes]"

    def admin(self, action: str, model: str = "tiny-tag", key: str = ADMIN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(
            f"{self.address}/v2/repository/models/{model}/{action}", json={}, headers=headers, timeout=SECONDS
        )

    def serve(self, version: str, model: str = "tiny-tag") -> None:
        """Make a version the only one that is served, on all workers."""
        set_serving(self.repository / model, default=version)
        response = self.admin("load", model)
        assert response.status_code == 200, response.text

    def serve_both(self) -> None:
        for model in ("tiny-tag", "tiny-live", "tiny-generate"):
            set_serving(self.repository / model, serve="all", default="1", aliases={"canary": "2"})
            assert self.admin("load", model).status_code == 200

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(
            f"{self.address}{path}", json=body, headers={"Authorization": f"Bearer {CLIENT}", **headers}, timeout=30
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("releases")
    repository, port = home / "repository", str(free_port())
    for model, version in itertools.product(("tiny-tag", "tiny-live", "tiny-generate"), "12"):
        add_version(repository, version, model=model)
    (home / "keys").write_text(f"release {ADMIN} role=admin\nclient {CLIENT}\n")
    settings = {
        "SEQSERVE_BUNDLES": str(repository),
        "SEQSERVE_WORKERS": "2",
        "SEQSERVE_DEVICE": "cpu",
        "SEQSERVE_MODEL_CONTROL": "explicit",
        "SEQSERVE_API_KEYS_FILE": str(home / "keys"),
        "SEQSERVE_RETIRE_S": "0",  # so that each swap loads
        "SEQSERVE_GRPC_PORT": port,
    }
    with served(home, service="service.app:Seqserve", **settings) as (address, process, log):
        try:
            yield Site(address=address, grpc_address=f"127.0.0.1:{port}", repository=repository, process=process)
        finally:
            assert "Traceback" not in log.read_text()


@pytest.fixture
def both(site: Site) -> Site:
    """A service that serves both versions. Version 1 is the default, and version 2 has the alias canary."""
    site.serve_both()
    return site


# Official clients, which send names with @ unchanged.

NAMES = [("", "1"), ("@1", "1"), ("@2", "2"), ("@canary", "2")]


@pytest.mark.parametrize(("reference", "version"), NAMES)
def test_hugging_face_clients_name_versions_in_the_url(both: Site, reference: str, version: str) -> None:
    client = InferenceClient(model=f"{both.address}/models/tiny-tag{reference}/tag", token=CLIENT)
    assert version_of(str(each.entity) for each in client.token_classification("the cat")) == version


@pytest.mark.parametrize(("reference", "version"), NAMES)
def test_openai_clients_name_versions(both: Site, reference: str, version: str) -> None:
    with OpenAI(base_url=f"{both.address}/v1", api_key=CLIENT) as client:
        answer = client.completions.with_raw_response.create(
            model=f"tiny-generate{reference}", prompt="ROMEO:", max_tokens=8, temperature=0
        )
    assert answer.headers["x-model"].startswith(f"tiny-generate@{version};digest=sha256:")
    named = both.post(
        "/v1/generate",
        {
            "inputs": "ROMEO:",
            "model": f"tiny-generate@{version}",
            "parameters": {"max_new_tokens": 8, "temperature": 0},
        },
    )
    assert answer.parse().choices[0].text == named.json()["generated_text"]


@pytest.mark.parametrize(
    ("model", "model_version", "version"),
    [("tiny-tag", "", "1"), ("tiny-tag@2", "", "2"), ("tiny-tag", "2", "2"), ("tiny-tag", "canary", "2")],
)
def test_triton_clients_name_versions(both: Site, model: str, model_version: str, version: str) -> None:
    given = triton.InferInput("text", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"the cat"], np.object_))
    headers = {"Authorization": f"Bearer {CLIENT}"}
    with triton.InferenceServerClient(both.address.removeprefix("http://")) as client:
        found = client.infer(model, [given], model_version=model_version, headers=headers)
    assert found.get_response()["model_version"] == version
    assert version_of(label.decode() for label in found.as_numpy("label")) == version


TRITON_GRPC = """
import json, sys
import tritonclient.grpc as triton
from tests.support.triton_grpc import tensor, texts
address, admin, key = sys.argv[1:]
client = triton.InferenceServerClient(address)
found = {}
for model, version in (("tiny-tag", ""), ("tiny-tag@2", ""), ("tiny-tag", "canary")):
    given = [tensor("text", texts("the cat"))]
    answer = client.infer(model, given, model_version=version, headers={"authorization": key})
    found[model + " " + version] = answer.get_response().model_version
client.load_model("tiny-live", headers={"authorization": admin})
found["loaded"] = client.is_model_ready("tiny-live", headers={"authorization": key})
print(json.dumps(found))
"""


def test_triton_clients_name_and_load_versions_over_grpc(both: Site) -> None:
    command = [sys.executable, "-c", TRITON_GRPC, both.grpc_address, f"Bearer {ADMIN}", f"Bearer {CLIENT}"]
    pure = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run(command, cwd=ROOT, env=pure, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "tiny-tag ": "1",
        "tiny-tag@2 ": "2",
        "tiny-tag canary": "2",
        "loaded": True,
    }


def open_stream(site: Site) -> Any:
    url = site.address.replace("http", "ws") + "/v1/stream"
    return connect(url, additional_headers={"Authorization": f"Bearer {CLIENT}"})


def ask(connection: Any, **message: Any) -> Any:
    connection.send(json.dumps(message))
    return json.loads(connection.recv(timeout=30))


@pytest.mark.parametrize(("reference", "version"), NAMES)
def test_streams_name_versions(both: Site, reference: str, version: str) -> None:
    with open_stream(both) as connection:
        opened = ask(connection, model=f"tiny-live{reference}")
        assert (opened["model"], opened["version"]) == ("tiny-live", version)
        found = ask(connection, inputs="the cat")["entities"]
    assert version_of(each["entity"] for each in found) == version


# Loads and unloads.


def test_only_administrators_change_what_is_served(both: Site) -> None:
    assert both.admin("load", key=CLIENT).status_code == 403
    assert both.admin("unload", key=CLIENT).status_code == 403
    assert both.admin("load", key="a-key-without-a-line").status_code == 401


def test_the_index_lists_what_is_served_and_what_is_not(site: Site) -> None:
    site.serve("2")
    index = site.post("/v2/repository/index", {}).json()
    states = {each["version"]: each["state"] for each in index if each["name"] == "tiny-tag"}
    assert states == {"1": "UNAVAILABLE", "2": "READY"}
    ready = site.post("/v2/repository/index", {"ready": True}).json()
    assert [each["version"] for each in ready if each["name"] == "tiny-tag"] == ["2"]


def test_a_broken_version_changes_nothing_on_any_worker(site: Site) -> None:
    site.serve("1")
    broken = add_version(site.repository, "3")
    try:
        (broken / "fp32.onnx").write_bytes(b"no graph")
        set_serving(site.repository / "tiny-tag", default="3")
        refused = site.admin("load")
        assert (refused.status_code, "fp32.onnx" in refused.json()["error"]) == (400, True)
        for _ in range(20):  # a new connection each, to both workers
            assert site.post("/v1/tag", SINGLE).headers["x-model"].startswith("tiny-tag@1;")
        index = site.post("/v2/repository/index", {}).json()
        assert [each["reason"] for each in index if each["version"] == "3"] == [refused.json()["error"]]
    finally:
        (site.repository / "tiny-tag/serving.json").unlink()
        for file in broken.iterdir():
            file.unlink()
        broken.rmdir()


def test_a_killed_worker_comes_back_with_the_active_release(site: Site) -> None:
    site.serve("1")
    site.serve("2")
    workers = [
        each.pid for each in psutil.Process(site.process.pid).children() if "bentoml" in " ".join(each.cmdline())
    ]
    os.kill(workers[-1], 9)

    def replaced() -> bool:
        return len({each.pid for each in psutil.Process(site.process.pid).children()} - set(workers)) > 0

    wait_until(replaced, timeout_s=60)
    site.serve("1")  # waits for the new worker
    for _ in range(20):
        assert site.post("/v1/tag", SINGLE).headers["x-model"].startswith("tiny-tag@1;")


# Swaps under load.


@dataclass(kw_only=True)
class Load:
    """Clients that tag without a pause, and what they have seen."""

    site: Site
    failures: list[str] = field(default_factory=list)
    answers: list[tuple[float, float, str]] = field(default_factory=list)  # when sent, seconds, version
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, body: Any) -> None:
        with httpx.Client(headers={"Authorization": f"Bearer {CLIENT}"}, timeout=30) as client:
            while not self.stop.is_set():
                sent_s = time.monotonic()
                try:
                    response = client.post(f"{self.site.address}/v1/tag", json=body)
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                took_s = time.monotonic() - sent_s
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                rows = response.json()
                labels = [each["entity"] for row in (rows if isinstance(rows[0], list) else [rows]) for each in row]
                versions = {label[1:] for label in labels} | {response.headers["x-model"].partition(";")[0][-1]}
                if len(versions) != 1:
                    self.failures.append(f"mixed: {versions}")
                self.answers.append((sent_s, took_s, min(versions)))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run, args=(body,)) for body in (SINGLE, LIST, SINGLE, LIST)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(self.answers) > 50, timeout_s=SECONDS)
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def swap(site: Site, count: int) -> list[tuple[float, float, str]]:
    """Swap the versions. Return of each swap: when the load began, when it returned, and the new version."""
    swaps = []
    for number in range(count):
        version = "21"[number % 2]
        began_s = time.monotonic()
        site.serve(version)
        swaps.append((began_s, time.monotonic(), version))
    return swaps


def p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))


def test_swaps_under_load_lose_and_mix_nothing(site: Site) -> None:
    site.serve("1")
    load = Load(site=site)
    with load.running():
        calm_until_s = time.monotonic()
        if FULL:
            wait_until(lambda: len(load.answers) > 5000, timeout_s=SECONDS)
            calm_until_s = time.monotonic()
        swaps = swap(site, SWAPS)
    assert load.failures == []
    returned = [(0.0, "1"), *((end_s, version) for _, end_s, version in swaps)]
    begins = [*(begin_s for begin_s, _, _ in swaps), float("inf")]
    late = 0
    for (served_s, version), next_s in zip(returned, begins, strict=True):
        between = [seen for sent_s, _, seen in load.answers if served_s < sent_s < next_s]
        late += sum(seen != version for seen in between)
    assert late == 0
    assert {version for _, _, version in load.answers} == {"1", "2"}
    if FULL:
        before = p99([took_s for sent_s, took_s, _ in load.answers if sent_s < calm_until_s])
        during = p99([took_s for sent_s, took_s, _ in load.answers if sent_s >= calm_until_s])
        print(f"p99 before {1e3 * before:.1f} ms, during {1e3 * during:.1f} ms, {len(load.answers)} answers")
        assert during <= 2 * before


def test_a_stream_that_crosses_a_swap_is_that_of_one_version(site: Site) -> None:
    words = ["the", "cat", "sat", "on", "zebras", "."]
    site.serve("1", "tiny-live")
    with open_stream(site) as connection:
        whole = ask(connection, inputs=words)["entities"]
    with open_stream(site) as connection:
        found = ask(connection, inputs=words[:3])["entities"]
        site.serve("2", "tiny-live")
        found += ask(connection, inputs=words[3:])["entities"]
    assert found == whole
    assert {each["entity"] for each in whole} <= set(labels_of("1"))


@pytest.mark.skipif(not FULL, reason="swaps 200 times: SEQSERVE_E2E=full")
def test_memory_is_returned(site: Site) -> None:
    def memory() -> int:
        processes = [psutil.Process(site.process.pid), *psutil.Process(site.process.pid).children(recursive=True)]
        return sum(each.memory_info().rss for each in processes)

    swap(site, 6)
    before = memory()
    swap(site, 200)
    print(f"memory before {before / 1e6:.1f} MB, after 200 swaps {memory() / 1e6:.1f} MB")
    assert memory() <= 1.05 * before
