"""The model repository of the Open Inference Protocol: index, load and unload, and the names of versions."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from service.api import inference_pb2 as pb
from service.api import oip_grpc
from service.releases import DIRECTORY, ReleaseFiles
from service.repository import read_release
from service.settings import Settings
from tests.support.oip import OIPSite, refusal, texts
from tests.support.polling import eventually
from tests.support.repositories import add_version, set_serving, version_of

ADMIN, CLIENT = "the-key-of-an-administrator", "the-key-of-a-client"
LOAD, UNLOAD = "/v2/repository/models/tiny-tag/load", "/v2/repository/models/tiny-tag/unload"
MISSING = {"name": "tiny-tag", "version": "2", "state": "UNAVAILABLE", "reason": "not served"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a directory with version 1 of tiny-tag."""
    add_version(tmp_path / "repository", "1")
    return tmp_path / "repository"


@pytest.fixture(autouse=True)
def releases(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the directory through which workers agree, as the supervising process does."""
    folder = tmp_path / "releases"
    folder.mkdir()
    ReleaseFiles(folder).activate(read_release(Settings(bundles=(str(repository),))))
    monkeypatch.setenv(DIRECTORY, str(folder))


@asynccontextmanager
async def opened(repository: Path, **settings: Any) -> AsyncIterator[OIPSite]:
    site = OIPSite(repository, **{"model_control": "explicit", **settings})
    following = [asyncio.create_task(site.worker.releases.follow())] if site.worker.releases else []
    yield site
    for task in following:
        task.cancel()
    await site.close()


async def version(site: OIPSite, model: str = "tiny-tag") -> str:
    """Return the version that answers, which the labels and the header must agree on."""
    response = await site.client.post("/v1/tag", json={"inputs": "the cat", "model": model})
    assert response.status_code == 200, response.text
    found = version_of(each["entity"] for each in response.json())
    assert response.headers["x-model"].startswith(f"tiny-tag@{found};digest=sha256:")
    return found


async def test_a_load_serves_the_new_version(repository: Path) -> None:
    async with opened(repository) as site:
        add_version(repository, "2")
        assert await version(site) == "1"
        assert (await site.client.post(LOAD)).status_code == 200
        assert await version(site) == "2"
        assert (await site.client.get("/v1/models/tiny-tag")).json()["version"] == "2"


async def test_an_unload_removes_the_model(repository: Path) -> None:
    async with opened(repository) as site:
        unloaded = await site.client.post(UNLOAD, json={"parameters": {"unload_dependents": False}})
        assert unloaded.status_code == 200
        for path in ("/v2/models/tiny-tag", "/v1/models/tiny-tag"):
            assert (await site.client.get(path)).status_code == 404
        assert (await site.client.post(LOAD)).status_code == 200
        assert await version(site) == "1"


async def test_the_index_lists_versions_that_are_not_served(repository: Path) -> None:
    async with opened(repository) as site:
        add_version(repository, "2")
        ready = {"name": "tiny-tag", "version": "1", "state": "READY", "reason": ""}
        assert (await site.client.post("/v2/repository/index")).json() == [ready, MISSING]
        assert (await site.client.post("/v2/repository/index", json={"ready": True})).json() == [ready]


async def test_a_failed_load_is_refused_with_its_reason(repository: Path) -> None:
    async with opened(repository) as site:
        (add_version(repository, "2") / "words.json").unlink()
        refused = await site.client.post(LOAD)
        assert refused.status_code == 400
        assert await version(site) == "1"
        _, broken = (await site.client.post("/v2/repository/index")).json()
        assert broken == {**MISSING, "reason": refused.json()["error"]}


@pytest.mark.parametrize("mode", ["none", "watch"])
async def test_models_are_not_loaded_on_request_unless_the_setting_allows_it(repository: Path, mode: str) -> None:
    async with opened(repository, model_control=mode) as site:
        for path in (LOAD, UNLOAD):
            assert refusal(await site.client.post(path)) == (403, "")


async def test_an_override_of_the_configuration_is_refused(repository: Path) -> None:
    async with opened(repository) as site:
        body = {"parameters": {"config": "{}"}}
        assert refusal(await site.client.post(LOAD, json=body)) == (422, "parameters.config")


async def test_with_keys_only_an_administrator_loads(repository: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"release {ADMIN} role=admin\nclient {CLIENT}\n")
    async with opened(repository, api_keys_file=str(keys)) as site:
        for key, status in ((ADMIN, 200), (CLIENT, 403)):
            response = await site.client.post(LOAD, headers={"authorization": f"Bearer {key}"})
            assert response.status_code == status


async def test_a_load_ends_with_the_drain(repository: Path) -> None:
    async with opened(repository, drain_s=0.1) as site:
        other = ReleaseFiles(Path(os.environ[DIRECTORY]), worker=1)
        other.join()  # a worker that does not answer
        add_version(repository, "2")
        load = asyncio.create_task(site.client.post(LOAD))
        await eventually(lambda: other.proposed() is not None)
        await site.worker.close()
        assert (await load).status_code == 503
        assert other.proposed() is None
        assert other.failures() == {}
        other.leave()


async def test_every_way_to_name_a_version_reaches_it(repository: Path) -> None:
    add_version(repository, "2")
    set_serving(repository / "tiny-tag", serve="all", default="1", aliases={"canary": "2"})
    async with opened(repository) as site:
        assert (await site.client.post(LOAD)).status_code == 200
        digest = (await site.client.get("/v1/models/tiny-tag@2")).json()["digest"]
        for name in ("tiny-tag@2", "tiny-tag@canary", f"tiny-tag@sha256:{digest}", f"tiny-tag@sha256:{digest[:12]}"):
            assert await version(site, name) == "2"
            for path in (f"/models/{name}", f"/models/{name}/tag", f"/v1/tag?model={name}"):
                answer = (await site.client.post(path, json={"inputs": "the cat"})).json()
                assert version_of(each["entity"] for each in answer) == "2"
            reference = name.partition("@")[2]
            for model in (name, f"tiny-tag/versions/{reference}"):
                found = await site.infer(model, texts("the cat"))
                assert version_of(found["label"]["data"]) == "2"
        assert await version(site) == "1"


async def test_models_are_loaded_and_named_over_grpc(repository: Path) -> None:
    async with opened(repository, grpc_port=0) as site:
        server, port = await oip_grpc.start(site.worker)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

            def ask(method: str, request: Any, answer: Any) -> Any:
                path = f"/{oip_grpc.SERVICE}/{method}"
                return channel.unary_unary(path, type(request).SerializeToString, answer.FromString)(request)

            def infer(model: str) -> Any:
                request = pb.ModelInferRequest(model_name=model)
                contents = pb.InferTensorContents(bytes_contents=[b"the cat"])
                request.inputs.add(name="text", datatype="BYTES", shape=[1], contents=contents)
                return ask("ModelInfer", request, pb.ModelInferResponse)

            load = pb.RepositoryModelLoadRequest(model_name="tiny-tag")
            add_version(repository, "2")
            await ask("RepositoryModelLoad", load, pb.RepositoryModelLoadResponse)
            call = infer("tiny-tag@2")
            assert (await call).model_version == "2"
            metadata = {name: value for name, value in await call.trailing_metadata()}
            assert metadata["x-model"].startswith("tiny-tag@2;digest=sha256:")
            set_serving(repository / "tiny-tag", serve="all")
            (add_version(repository, "3") / "words.json").unlink()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await ask("RepositoryModelLoad", load, pb.RepositoryModelLoadResponse)
            assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            unload = pb.RepositoryModelUnloadRequest(model_name="tiny-tag")
            await ask("RepositoryModelUnload", unload, pb.RepositoryModelUnloadResponse)
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await infer("tiny-tag")
            assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
        await oip_grpc.stop(server)
